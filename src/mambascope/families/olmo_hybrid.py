"""OLMo Hybrid (Ai2 2026): gated delta nets whose β may reach 2, and attention whose output is normalised and added.

A block with attention has no norm before it: x + norm(attention(x)), and its MLP reads the sum.
"""

from __future__ import annotations

from typing import Any

import torch

from mambascope.families import llama
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, Family
from mambascope.families.gated_delta import gated_delta, linear, mixer_map, norm_factor, norm_is_first, read, rule_holds
from mambascope.operators.affine import AffineMixer

MODULE = "transformers.models.olmo_hybrid.modeling_olmo_hybrid"


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map; every part has a projection of its own."""
    return mixer_map(
        mixer,
        captured,
        dtype,
        W_v=mixer.v_proj.weight,
        z=lambda x: linear(x, mixer.g_proj),
        norm=mixer.o_norm,
        out=mixer.o_proj,
    )


FAMILY = Family(
    model_type="olmo_hybrid",
    mixer_class="OlmoHybridGatedDeltaNet",
    module=MODULE,
    kind="delta",
    scan_function="torch_chunk_gated_delta_rule",
    token_axis=1,
    read=read,
    scan=gated_delta,
    affine=affine,
    norm_factor=norm_factor,
    norm_name="o_norm",
    norm_first=norm_is_first,
    holds=rule_holds,
)

ATTENTION_FAMILY = AttentionFamily(
    model_type="olmo_hybrid",
    mixer_class="OlmoHybridAttention",
    module=MODULE,
    projections=llama.projections,
    output_norm=lambda block: (block.post_attention_layernorm, block.mlp),
)
