"""GPT-NeoX and Pythia (Black et al., arXiv 2204.06745): one projection holds query, key and value, head by head.

Attention and MLP run in parallel: both read the layer's input and are added to it, unless `use_parallel_residual` is
off.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange

from mambascope.families.attention import AttentionFamily, Projections


def projections(mixer: Any, heads: int) -> Projections:
    """Return each head's value rows of query_key_value, and dense."""
    qkv = mixer.query_key_value
    return Projections(
        W_V=rearrange(qkv.weight, "(h three p) e -> three (h p) e", h=heads, three=3)[2],
        b_V=None if qkv.bias is None else rearrange(qkv.bias, "(h three p) -> three (h p)", h=heads, three=3)[2],
        W_O=mixer.dense.weight,
        b_O=mixer.dense.bias,
    )


FAMILY = AttentionFamily(
    model_type="gpt_neox",
    mixer_class="GPTNeoXAttention",
    module="transformers.models.gpt_neox.modeling_gpt_neox",
    projections=projections,
    parts=("query_key_value", "dense"),
    beside=lambda block: (block.mlp,) if block.use_parallel_residual else (),
)
