"""BERT (Devlin et al., arXiv 1810.04805): the layer adds its input and normalises the sum before it returns.

So y is the output of its output projection, before both, and the norm is recorded as `norm_after`.
"""

from __future__ import annotations

from typing import Any

from mambascope.families.attention import AttentionFamily, Projections


def projections(mixer: Any, heads: int) -> Projections:
    """Return the value and the output projection, which are in sibling modules."""
    value, dense = mixer.self.value, mixer.output.dense
    return Projections(W_V=value.weight, b_V=value.bias, W_O=dense.weight, b_O=dense.bias)


FAMILY = AttentionFamily(
    model_type="bert",
    mixer_class="BertAttention",
    module="transformers.models.bert.modeling_bert",
    projections=projections,
    writer=lambda mixer: mixer.output.dense,
    norm_after=lambda mixer: mixer.output.LayerNorm,
)
