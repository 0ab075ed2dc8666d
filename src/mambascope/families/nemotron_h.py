"""Nemotron-H (NVIDIA, arXiv 2504.03624): one part per block, all named `mixer`: Mamba-2, attention, MLP or experts."""

from __future__ import annotations

from dataclasses import replace

from mambascope.families import llama, mamba2
from mambascope.families.attention import AttentionFamily

MODULE = "transformers.models.nemotron_h.modeling_nemotron_h"

FAMILIES = (
    replace(mamba2.FAMILY, model_type="nemotron_h", mixer_class="NemotronHMamba2Mixer", module=MODULE),
    AttentionFamily(
        model_type="nemotron_h", mixer_class="NemotronHAttention", module=MODULE, projections=llama.projections
    ),
)
