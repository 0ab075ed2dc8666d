"""Jamba (Lieber et al., arXiv 2403.19887): layers of Mamba with norms on Δ, B and C, and layers of attention.

Δ, B and C are captured after the norms. Every few layers the MLP is a mixture of experts.
"""

from __future__ import annotations

from dataclasses import replace

from mambascope.families import llama, mamba
from mambascope.families.attention import AttentionFamily

MODULE = "transformers.models.jamba.modeling_jamba"

FAMILIES = (
    replace(mamba.FAMILY, model_type="jamba", mixer_class="JambaMambaMixer", module=MODULE),
    AttentionFamily(model_type="jamba", mixer_class="JambaAttention", module=MODULE, projections=llama.projections),
)
