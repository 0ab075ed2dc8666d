"""Qwen3.5 and Qwen3.6 (Qwen team 2026), dense and of experts: Qwen3-Next's layers, with a projection for each part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mambascope.families import qwen3_next
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, Family
from mambascope.families.gated_delta import linear, mixer_map
from mambascope.operators.affine import AffineMixer


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map; in_proj_qkv holds q, k and v."""
    return mixer_map(
        mixer,
        captured,
        dtype,
        W_v=mixer.in_proj_qkv.weight[2 * mixer.key_dim :],
        z=lambda x: linear(x, mixer.in_proj_z),
        norm=mixer.norm,
        out=mixer.out_proj,
    )


def families(model_type: str, prefix: str) -> tuple[Family, AttentionFamily]:
    """Return the families of both kinds of layer of one model type, whose classes have this prefix."""
    module = f"transformers.models.{model_type}.modeling_{model_type}"
    delta, attention = qwen3_next.FAMILY, qwen3_next.ATTENTION_FAMILY
    return (
        replace(delta, model_type=model_type, mixer_class=f"{prefix}GatedDeltaNet", module=module, affine=affine),
        replace(attention, model_type=model_type, mixer_class=f"{prefix}Attention", module=module),
    )


FAMILIES = (*families("qwen3_5", "Qwen3_5"), *families("qwen3_5_moe", "Qwen3_5Moe"))
