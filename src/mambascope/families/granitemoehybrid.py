"""Granite 4 (IBM, 2025): layers of Mamba-2 or attention, each added to the stream times `residual_multiplier`.

Some of its models have no Mamba layer at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mambascope.families import llama, mamba2
from mambascope.families.attention import AttentionFamily

MODULE = "transformers.models.granitemoehybrid.modeling_granitemoehybrid"


def scale(block: Any) -> float:
    """Return the factor by which a block multiplies what its mixer returns."""
    return float(block.residual_multiplier)


FAMILIES = (
    replace(
        mamba2.FAMILY,
        model_type="granitemoehybrid",
        mixer_class="GraniteMoeHybridMambaLayer",
        module=MODULE,
        scale=scale,
    ),
    AttentionFamily(
        model_type="granitemoehybrid",
        mixer_class="GraniteMoeHybridAttention",
        module=MODULE,
        projections=llama.projections,
        scale=scale,
    ),
)
