"""Vision Mamba (Zhu et al., arXiv 2401.09417), the project's own module: a forward and a backward scan per mixer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mambascope.families import mamba
from mambascope.families.family import Captured, Family, Reading, weights
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.permutation import Part, Permutation
from mambascope.operators.sum_of_maps import SumOfMaps


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> SumOfMaps:
    """Return the mixer's affine map; where the directions are averaged, the factor of one half is in the gates."""
    x = captured.x.to(dtype)
    in_proj, out_proj = mixer.in_proj, mixer.out_proj
    share = 0.5 if mixer.divide_output else 1.0
    parts = []
    for reading, consumed, conv in zip(READINGS, captured.scans, (mixer.conv1d, mixer.conv1d_b), strict=True):
        order = Permutation(reading.tokens(consumed))
        scan = mamba.selective_scan(consumed, dtype)
        branch = slice(scan.maps)
        own = AffineMixer(
            x=order.read(x),
            scan=scan,
            W_x=weights(in_proj.weight, dtype, branch),
            b_x=weights(in_proj.bias, dtype, branch),
            convolution=CausalConvolution(weights(conv.weight, dtype)[:, 0].flip(1)),
            conv_bias=weights(conv.bias, dtype),
            gate=share * F.silu(consumed["z"].to(dtype)),
            W_o=weights(out_proj.weight, dtype),
            b_o=None,
        )
        parts.append(Part(own, order))
    return SumOfMaps(x, tuple(parts), weights(out_proj.bias, dtype))


READINGS = (Reading("forwards", torch.arange), Reading("backwards", lambda length: torch.arange(length).flip(0)))

FAMILY = Family(
    model_type="vision-mamba",
    mixer_class="VimMixer",
    module="mambascope.models.vim.mixer",
    scan_function="mamba_selective_scan",
    token_axis=2,
    read=mamba.read_in_own_precision,
    scan=mamba.selective_scan,
    affine=affine,
    readings=READINGS,
)
