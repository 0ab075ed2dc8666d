"""Mamba-2 (Dao & Gu, arXiv 2405.21060): one decay per head, B and C through the convolution, gated norm before W_o."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.families.family import Captured, Family, ScanCall, weights
from mambascope.operators.affine import AffineMixer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.state_space_dual import StateSpaceDual


def read(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: Sequence[float] = (0.0, float("inf")),
    **_: Any,
) -> ScanCall:
    """Read one `mamba2_chunk_scan` call, which has tokens before heads."""
    step = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    step = (F.softplus(step) if dt_softplus else step).clamp(min=dt_limit[0], max=dt_limit[1])
    skip = torch.zeros_like(A) if D is None else D
    skip = skip.reshape(-1) if skip.ndim > 1 else skip.repeat_interleave(hidden_states.shape[-1])
    return ScanCall(
        s=hidden_states.flatten(2),
        coefficients={"dt": step, "A": A, "B": B, "C": C, "D": skip},
        give=lambda o: o.reshape(hidden_states.shape),
        take=lambda o: o.flatten(2),
    )


def state_space_dual(consumed: dict[str, Tensor], dtype: torch.dtype) -> StateSpaceDual:
    """Return the operator of the captured scan."""
    return StateSpaceDual(
        **{name: consumed[name].to(dtype) for name in ("dt", "A", "B", "C")}, skip=consumed["D"].to(dtype)
    )


def affine(mixer: Any, captured: Captured, dtype: torch.dtype) -> AffineMixer:
    """Return the mixer's affine map; in_proj holds the gate, then the scan branch, then B, C and Δ."""
    scan = state_space_dual(captured.scan, dtype)
    channels = scan.skip.shape[0]
    in_proj, conv, out_proj = mixer.in_proj, mixer.conv1d, mixer.out_proj
    branch = slice(channels, 2 * channels)
    x = captured.x.to(dtype)
    x = x if captured.mask is None else x * captured.mask[..., None]
    z = F.linear(x, weights(in_proj.weight, dtype, slice(channels)), weights(in_proj.bias, dtype, slice(channels)))
    gate = F.silu(z)
    return AffineMixer(
        x=x,
        scan=scan,
        W_x=weights(in_proj.weight, dtype, branch),
        b_x=weights(in_proj.bias, dtype, branch),
        convolution=CausalConvolution(weights(conv.weight, dtype, slice(channels))[:, 0].flip(1)),
        conv_bias=weights(conv.bias, dtype, slice(channels)),
        gate=gate * norm_factor(captured.scan["o"].to(dtype) * gate, mixer.norm),
        W_o=weights(out_proj.weight, dtype),
        b_o=weights(out_proj.bias, dtype),
        mask=captured.mask,
    )


def norm_factor(gated: Float[Tensor, "b L D"], norm: Any) -> Float[Tensor, "b L D"]:
    """Return γ / rms_group(o ⊙ SiLU(z)), by which the norm multiplies the gated output of the scan."""
    size = getattr(norm, "group_size", gated.shape[-1])  # before transformers 5.23 the whole width is one group
    groups = rearrange(gated, "b L (g c) -> b L g c", c=size)
    scale = torch.rsqrt(groups.pow(2).mean(dim=-1, keepdim=True) + norm.variance_epsilon)
    return weights(norm.weight, gated.dtype) * scale.expand_as(groups).flatten(2)


FAMILY = Family(
    model_type="mamba2",
    mixer_class="Mamba2Mixer",
    module="transformers.models.mamba2.modeling_mamba2",
    scan_function="mamba2_chunk_scan",
    token_axis=1,
    read=read,
    scan=state_space_dual,
    affine=affine,
    norm_factor=norm_factor,
    parts=("in_proj", "conv1d", "norm", "out_proj", "A_log", "D", "dt_bias"),
)
