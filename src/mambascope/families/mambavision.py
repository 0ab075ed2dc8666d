"""MambaVision (Hatamizadeh & Kautz, arXiv 2407.08083): a scan in half of the channels, no scan in the others.

Both halves are one map: the channels without a scan have Δ = 0, so they write nothing into their state, and a skip of
one. A module of another class with the same parts as the released one is read too, through the scan that its own file
calls.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambascope.families import mamba
from mambascope.families.attention import AttentionFamily, Projections
from mambascope.families.family import Captured, Family, StandIn, weights
from mambascope.models.convolutions import neighbour_convolution
from mambascope.models.mambavision.mixer import mixed
from mambascope.operators.grid_convolution import GridConvolution, GridConvolutionMixer
from mambascope.operators.selective_scan import SelectiveScan

#: Parts by which a mixer is recognised.
PARTS = ("in_proj", "conv1d_x", "conv1d_z", "x_proj", "dt_proj", "out_proj")

#: The module-level scan that a mixer of another class must call: (s, Δ, A, B, C, D, …) as in mamba_ssm.
FOREIGN_SCAN = "selective_scan_fn"


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> GridConvolutionMixer:
    """Return the mixer's affine map; the channels of the scan come first, as in out_proj."""
    x = captured.x.to(dtype)
    scan = mamba.selective_scan(captured.scan, dtype)
    kernel, conv_bias = (
        _both(getattr(mixer.conv1d_x, name), getattr(mixer.conv1d_z, name), dtype) for name in ("weight", "bias")
    )
    W_o = weights(mixer.out_proj.weight, dtype)
    assert kernel is not None
    return GridConvolutionMixer(
        x=x,
        scan=_widened(scan),
        W_x=weights(mixer.in_proj.weight, dtype),
        b_x=weights(mixer.in_proj.bias, dtype),
        convolution=GridConvolution(kernel, rows=1, columns=x.shape[1]),
        conv_bias=conv_bias,
        gate=x.new_ones(()).expand(*x.shape[:2], W_o.shape[1]),
        W_o=W_o,
        b_o=weights(mixer.out_proj.bias, dtype),
    )


def recognise(mixer: nn.Module) -> Family | None:
    """Return the family of a mixer of another class that has the released one's parts; None if it cannot be read.

    Its file must have the scan as a global `selective_scan_fn`, as the released one does, so that calls can be
    intercepted.
    """
    known = isinstance(getattr(mixer, "A_log", None), nn.Parameter) and all(hasattr(mixer, part) for part in PARTS)
    module = type(mixer).__module__
    if not known or not hasattr(sys.modules.get(module), FOREIGN_SCAN):
        return None
    return replace(
        FAMILY,
        mixer_class=type(mixer).__name__,
        module=module,
        scan_function=FOREIGN_SCAN,
        stand_in=StandIn(FAMILY, mixed),
    )


def _both(of_x: Tensor | None, of_z: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a parameter of both convolutions, concatenated."""
    return None if of_x is None or of_z is None else torch.cat([weights(of_x, dtype), weights(of_z, dtype)])


def _widened(scan: SelectiveScan) -> SelectiveScan:
    """Return the scan with as many channels again that it passes through unchanged."""
    channels = scan.maps
    return replace(
        scan,
        dt=F.pad(scan.dt, (0, channels)),
        A=F.pad(scan.A, (0, 0, 0, channels)),
        skip=F.pad(scan.skip, (0, channels), value=1.0),
    )


FAMILY = Family(
    model_type="mambavision",
    mixer_class="MambaVisionMixer",
    module="mambascope.models.mambavision.mixer",
    scan_function="mamba_selective_scan",
    token_axis=2,
    read=mamba.read_in_own_precision,
    scan=mamba.selective_scan,
    affine=affine,
    conv_function="neighbour_conv_fn",
    convolve=neighbour_convolution,
)


def projections(layer: Any, heads: int) -> Projections:
    """Return an attention layer's weights; values are the last third of its joint projection."""
    width = layer.proj.in_features
    values = slice(2 * width, None)
    return Projections(layer.qkv.weight[values], layer.qkv.bias[values], layer.proj.weight, layer.proj.bias)


ATTENTION_FAMILY = AttentionFamily(
    model_type="mambavision",
    mixer_class="MambaVisionAttention",
    module="mambascope.models.mambavision.attention",
    projections=projections,
)
