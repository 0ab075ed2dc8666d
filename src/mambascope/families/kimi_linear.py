"""Kimi Linear (Kimi team, arXiv 2510.26692): a delta rule with a decay per key channel, and latent attention (MLA).

In MLA (DeepSeek-V2, arXiv 2405.04434) values come from a latent vector that is normalised: v_j = W_b norm(W_a x_j).
With its statistic frozen that is one linear map of x_j, times a factor of the source.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.families.attention import AttentionFamily, Projections
from mambascope.families.family import Captured
from mambascope.families.gated_delta import DeltaFamily, linear, mixer_map
from mambascope.families.held import delta_rule_per_channel
from mambascope.operators.affine import AffineMixer

MODULE = "transformers.models.kimi_linear.modeling_kimi_linear"


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map; the gate is a sigmoid of two projections, one after the other."""
    return mixer_map(
        mixer,
        captured,
        dtype,
        W_v=mixer.v_proj.weight,
        z=lambda x: linear(linear(x, mixer.g_a_proj), mixer.g_b_proj),
        norm=mixer.o_norm,
        out=mixer.o_proj,
        activation=torch.sigmoid,
    )


def projections(mixer: Any, heads: int) -> Projections:
    """Return the value rows of kv_b_proj after the norm's weight and the latent rows of kv_a_proj, and o_proj."""
    latent, out, part = mixer.kv_a_proj_with_mqa, mixer.o_proj, slice(mixer.kv_lora_rank)
    working = torch.promote_types(latent.weight.dtype, torch.float32)  # a product of two matrices
    by_head = rearrange(mixer.kv_b_proj.weight.to(working), "(h r) c -> h r c", h=heads)
    expand = by_head[:, mixer.qk_nope_head_dim :].flatten(0, 1) * mixer.kv_a_layernorm.weight.to(working)
    return Projections(
        W_V=expand @ latent.weight[part].to(working),
        b_V=None if latent.bias is None else expand @ latent.bias[part].to(working),
        W_O=out.weight,
        b_O=out.bias,
    )


def latent_factor(mixer: Any, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L 1"]:
    """Return 1 / rms of every token's latent vector, the frozen statistic of kv_a_layernorm."""
    latent = linear(x, mixer.kv_a_proj_with_mqa)[..., : mixer.kv_lora_rank]
    return torch.rsqrt(latent.pow(2).mean(dim=-1, keepdim=True) + mixer.kv_a_layernorm.variance_epsilon)


FAMILY = DeltaFamily(
    model_type="kimi_linear",
    mixer_class="KimiLinearDeltaAttention",
    module=MODULE,
    scan_function="chunk_kimi_delta_attention",
    affine=affine,
    norm_name="o_norm",
    holds=lambda mixer: delta_rule_per_channel(mixer.num_heads, mixer.head_dim, mixer.head_dim),
    gate_activation=torch.sigmoid,
)

ATTENTION_FAMILY = AttentionFamily(
    model_type="kimi_linear",
    mixer_class="KimiLinearAttention",
    module=MODULE,
    projections=projections,
    source_factor=latent_factor,
)
