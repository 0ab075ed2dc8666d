"""FalconH1 (Zuo et al., arXiv 2507.22448): Mamba-2 beside attention in every block, with constant multipliers.

What enters the scan and what its projections return is multiplied inside the mixer; what enters the attention is
multiplied before it, and what either returns by a factor of its own before it is added to the stream. The norm after
the scan is optional and may come before the gate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mambascope.families import llama, mamba2
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured
from mambascope.operators.affine import AffineMixer

MODULE = "transformers.models.falcon_h1.modeling_falcon_h1"


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map: Mamba-2's, with a factor before in_proj and one for each of its channels."""
    factor = mixer.mup_vector[0, 0]
    return mamba2.affine(mixer, captured, dtype, x_factor=mixer.ssm_in_multiplier, factor=factor)


FAMILIES = (
    replace(
        mamba2.FAMILY,
        model_type="falcon_h1",
        mixer_class="FalconH1Mixer",
        module=MODULE,
        affine=affine,
        scale=lambda block: float(block.ssm_out_multiplier),
    ),
    AttentionFamily(
        model_type="falcon_h1",
        mixer_class="FalconH1Attention",
        module=MODULE,
        projections=llama.projections,
        scale=lambda block: float(block.attn_out_multiplier),
    ),
)
