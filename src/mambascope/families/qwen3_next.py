"""Qwen3-Next (Qwen team 2025): three gated delta nets (Yang et al., arXiv 2412.06464), then attention with a gate."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.families import llama
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, Family, weights
from mambascope.families.gated_delta import gated_delta, linear, mixer_map, norm_factor, norm_is_first, read, rule_holds
from mambascope.operators.affine import AffineMixer

MODULE = "transformers.models.qwen3_next.modeling_qwen3_next"


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map; in_proj_qkvz holds, for every k-head, q, k, and its value heads' v and z."""
    by_group = rearrange(weights(mixer.in_proj_qkvz.weight, dtype), "(g r) e -> g r e", g=mixer.num_k_heads)
    keys, values = 2 * mixer.head_k_dim, mixer.value_dim // mixer.num_k_heads
    _, _, W_v, W_z = by_group.split([keys // 2, keys // 2, values, values], dim=1)
    return mixer_map(
        mixer,
        captured,
        dtype,
        W_v=W_v.flatten(0, 1),
        z=lambda x: x @ W_z.flatten(0, 1).t(),
        norm=mixer.norm,
        out=mixer.out_proj,
    )


def output_gate(mixer: Any, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L D"]:
    """Return σ(g), by which p·V is multiplied; q_proj holds, for every head, the query first and g second."""
    by_head = rearrange(linear(x, mixer.q_proj), "b L (h two p) -> b L h two p", two=2, p=mixer.head_dim)
    return torch.sigmoid(by_head[:, :, :, 1]).flatten(2)


FAMILY = Family(
    model_type="qwen3_next",
    mixer_class="Qwen3NextGatedDeltaNet",
    module=MODULE,
    kind="delta",
    scan_function="torch_chunk_gated_delta_rule",
    token_axis=1,
    read=read,
    scan=gated_delta,
    affine=affine,
    norm_factor=norm_factor,
    norm_first=norm_is_first,
    holds=rule_holds,
)

ATTENTION_FAMILY = AttentionFamily(
    model_type="qwen3_next",
    mixer_class="Qwen3NextAttention",
    module=MODULE,
    projections=llama.projections,
    gate=output_gate,
)
