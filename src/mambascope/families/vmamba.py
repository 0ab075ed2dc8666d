"""VMamba (Liu et al., arXiv 2401.10166): a convolution over the grid of a picture's patches, then four scans over them.

The LayerNorm after the scans has its deviation frozen; the mean that it subtracts is linear and is kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mambascope.families import mamba
from mambascope.families.family import Captured, Family, Reading, ScanCall, weights
from mambascope.families.held import Held, cross_scan
from mambascope.models.convolutions import neighbour_convolution
from mambascope.models.vmamba.cross_scan import NAMES
from mambascope.operators.grid_convolution import GridConvolution, GridConvolutionMixer
from mambascope.operators.multi_scan import MultiScan
from mambascope.operators.permutation import Part, Permutation


def read(*args: Any, order: Tensor, **kwargs: Any) -> ScanCall:
    """Read one scan call, which passes the order in which it reads the patches."""
    call = mamba.read_in_own_precision(*args, **kwargs)
    return replace(call, coefficients=call.coefficients | {"order": order})


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> GridConvolutionMixer:
    """Return the mixer's affine map; in_proj holds W_x first and, where there is a gate, W_z second."""
    assert captured.grid is not None
    x, norm, W_o = captured.x.to(dtype), mixer.out_norm, weights(mixer.out_proj.weight, dtype)
    channels = W_o.shape[1]
    branch, gating = slice(channels), slice(channels, None)
    W, b = mixer.in_proj.weight, mixer.in_proj.bias
    scans = [
        Part(mamba.selective_scan(consumed, dtype), Permutation(reading.tokens(consumed)))
        for reading, consumed in zip(READINGS, captured.scans, strict=True)
    ]
    ungated = GridConvolutionMixer(
        x=x,
        scan=MultiScan(tuple(scans)),
        W_x=weights(W, dtype, branch),
        b_x=weights(b, dtype, branch),
        convolution=GridConvolution(weights(mixer.conv2d.weight, dtype)[:, 0], *captured.grid),
        conv_bias=weights(mixer.conv2d.bias, dtype),
        gate=x.new_ones(()).expand(*x.shape[:2], channels),
        W_o=W_o,
        b_o=weights(mixer.out_proj.bias, dtype),
        centred=1,
    )
    deviation = ungated.scanned().var(dim=-1, unbiased=False, keepdim=True).add(norm.eps).rsqrt()
    factor = torch.ones_like(deviation)
    if len(W) > channels:
        factor = F.silu(F.linear(x, weights(W, dtype, gating), weights(b, dtype, gating)))
    return replace(
        ungated,
        gate=factor * deviation * weights(norm.weight, dtype),
        offset=(factor * weights(norm.bias, dtype)).expand(*x.shape[:2], channels),
    )


def holds(mixer: Any) -> Held:
    """Return what the four scans hold."""
    _, D, rank = mixer.dt_projs_weight.shape
    return cross_scan(D, mixer.A_logs.shape[1], rank)


READINGS = tuple(Reading(name, None) for name in NAMES)

FAMILY = Family(
    model_type="vmamba",
    mixer_class="SS2D",
    module="mambascope.models.vmamba.mixer",
    scan_function="mamba_selective_scan",
    token_axis=2,
    read=read,
    scan=mamba.selective_scan,
    affine=affine,
    conv_function="neighbour_conv_fn",
    readings=READINGS,
    convolve=neighbour_convolution,
    gate_function="gate_fn",
    holds=holds,
)
