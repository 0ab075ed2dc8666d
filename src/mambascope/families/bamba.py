"""Bamba (IBM, Princeton, CMU and UIUC, 2024): layers of Mamba-2 and layers of attention with rotary positions."""

from __future__ import annotations

from dataclasses import replace

from mambascope.families import llama, mamba2
from mambascope.families.attention import AttentionFamily

MODULE = "transformers.models.bamba.modeling_bamba"

FAMILIES = (
    replace(mamba2.FAMILY, model_type="bamba", mixer_class="BambaMixer", module=MODULE),
    AttentionFamily(model_type="bamba", mixer_class="BambaAttention", module=MODULE, projections=llama.projections),
)
