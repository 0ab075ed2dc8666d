"""Zamba (Glorioso et al., arXiv 2405.16712): Mamba with a scan per head, and attention blocks that layers share.

The rows of in_proj alternate between the scan branch and the gate. A shared block reads the stream beside the embedded
tokens, x = norm([h; e]); what it gives passes an MLP and a linear map and is added to what the next Mamba mixer reads,
not to the stream.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mambascope.families import llama, mamba
from mambascope.families.attention import AttentionFamily
from mambascope.families.family import Captured, bias_enters
from mambascope.operators.affine import AffineMixer
from mambascope.operators.stacked_scans import StackedScans

MODULE = "transformers.models.zamba.modeling_zamba"


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map: its heads' scans, one after the other along the channels."""
    scan = StackedScans(tuple(mamba.selective_scan(head, dtype) for head in captured.scans))
    z = torch.cat([head["z"] for head in captured.scans], dim=-1)
    return mamba.between_projections(mixer, captured, scan, z, slice(0, None, 2))


FAMILIES = (
    replace(
        mamba.FAMILY,
        model_type="zamba",
        mixer_class="ZambaMambaMixer",
        module=MODULE,
        affine=affine,
        heads=lambda mixer: mixer.n_mamba_heads,
        reads_padding=lambda mixer: bias_enters(mixer.in_proj, mixer.conv1d, slice(0, None, 2)),
    ),
    AttentionFamily(
        model_type="zamba",
        mixer_class="ZambaAttention",
        module=MODULE,
        projections=llama.projections,
        aside=True,
    ),
)
