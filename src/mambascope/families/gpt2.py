"""GPT-2 (Radford et al. 2019): one projection holds queries, keys and values, and weights are stored transposed."""

from __future__ import annotations

from typing import Any

from mambascope.families.attention import AttentionFamily, Projections


def projections(mixer: Any, heads: int) -> Projections:
    """Return the last third of c_attn and all of c_proj; Conv1D has one row per input."""
    values = slice(2 * mixer.split_size, None)
    return Projections(
        W_V=mixer.c_attn.weight[:, values].t(),
        b_V=mixer.c_attn.bias[values],
        W_O=mixer.c_proj.weight.t(),
        b_O=mixer.c_proj.bias,
    )


FAMILY = AttentionFamily(
    model_type="gpt2",
    mixer_class="GPT2Attention",
    module="transformers.models.gpt2.modeling_gpt2",
    projections=projections,
    parts=("c_attn", "c_proj", "split_size"),
)
