"""Mamba (Gu & Dao, arXiv 2312.00752): the selective scan with one state matrix row per channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.families.family import Captured, Family, ScanCall, bias_enters, weights
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.layout import tokens_in_line
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.token_mixer import TokenMixer


def read(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    **_: Any,
) -> ScanCall:
    """Read one `mamba_selective_scan` call, which has channels before tokens."""
    step = dt if delta_bias is None else dt + delta_bias.to(dt.dtype)[..., None]
    step = F.softplus(step) if delta_softplus else step
    skip = torch.zeros_like(A[:, 0]) if D is None else D
    along_channels = {"dt": step, "B": B, "C": C} | ({} if z is None else {"z": z})
    coefficients = {name: value.transpose(1, 2) for name, value in along_channels.items()} | {"A": A, "D": skip}
    coefficients["dt"] = tokens_in_line(coefficients["dt"])  # every scan reads it so
    return ScanCall(
        s=hidden_states.transpose(1, 2),
        coefficients=coefficients,
        give=lambda o: o.transpose(1, 2),
        take=lambda o: o.transpose(1, 2),
    )


def read_in_own_precision(*args: Any, **kwargs: Any) -> ScanCall:
    """Read one call of mamba_ssm's own function, which returns its result in the precision of its input."""
    call = read(*args, **kwargs)
    return replace(call, give=lambda o: call.give(o.to(call.s.dtype)))


def selective_scan(consumed: dict[str, Tensor], dtype: torch.dtype) -> SelectiveScan:
    """Return the operator of the captured scan."""
    return SelectiveScan(
        dt=consumed["dt"].to(dtype).contiguous(),
        A=consumed["A"].to(dtype),
        B=consumed["B"].to(dtype).contiguous(),
        C=consumed["C"].to(dtype).contiguous(),
        skip=consumed["D"].to(dtype),
    )


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map; in_proj holds W_x first and W_z second."""
    scan = selective_scan(captured.scan, dtype)
    return between_projections(mixer, captured, scan, captured.scan.get("z"), slice(scan.maps))


def between_projections(
    mixer: Any, captured: Captured, scan: TokenMixer, z: Float[Tensor, "b L D"] | None, rows: slice
) -> AffineMixer:
    """Return the affine map of a mixer of Mamba-1's form, in the precision of its scan.

    Args:
        mixer: The mixer.
        captured: What was captured from it.
        scan: The operator of its scan.
        z: What the gate's SiLU is taken of; None if the scan has no gate.
        rows: The rows of in_proj that make the scan branch.
    """
    in_proj, conv, out_proj = mixer.in_proj, mixer.conv1d, mixer.out_proj
    dtype, channels = scan.skip.dtype, scan.skip.shape[0]
    x = captured.x.to(dtype)
    return AffineMixer(
        x=x if captured.mask is None else x * captured.mask[..., None],
        scan=scan,
        W_x=weights(in_proj.weight, dtype, rows),
        b_x=weights(in_proj.bias, dtype, rows),
        convolution=CausalConvolution(weights(conv.weight, dtype, slice(channels))[:, 0].flip(1)),
        conv_bias=weights(conv.bias, dtype, slice(channels)),
        gate=F.silu(z.to(dtype)) if z is not None else scan.skip.new_ones(*x.shape[:2], channels),
        W_o=weights(out_proj.weight, dtype),
        b_o=weights(out_proj.bias, dtype),
        mask=captured.mask,
    )


def reads_padding(mixer: Any) -> bool:
    """Return whether the bias of the scan branch, which masked padding leaves, enters the convolution."""
    return bias_enters(mixer.in_proj, mixer.conv1d, slice(mixer.conv1d.weight.shape[0]))


FAMILY = Family(
    model_type="mamba",
    mixer_class="MambaMixer",
    module="transformers.models.mamba.modeling_mamba",
    scan_function="mamba_selective_scan",
    token_axis=2,
    read=read,
    scan=selective_scan,
    affine=affine,
    reads_padding=reads_padding,
    parts=("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj", "A_log", "D"),
)
