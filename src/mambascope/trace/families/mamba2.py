"""Mamba-2 (Dao & Gu, arXiv 2405.21060): one decay per head, B and C through the convolution, gated norm before W_o."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.affine import AffineMixer
from mambascope.operators.state_space_dual import StateSpaceDual
from mambascope.trace.families.family import Captured, Family, weights


def intercept(
    original: Callable[..., Any],
    fast: bool,
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
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run one `mamba2_chunk_scan` call (tokens before heads) and return its output and what it consumed."""
    step = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    step = (F.softplus(step) if dt_softplus else step).clamp(min=dt_limit[0], max=dt_limit[1])
    skip = torch.zeros_like(A) if D is None else D
    consumed = {"dt": step, "A": A, "B": B, "C": C, "s": hidden_states}
    consumed["D"] = skip.reshape(-1) if skip.ndim > 1 else skip.repeat_interleave(hidden_states.shape[-1])
    if fast:
        working = torch.promote_types(hidden_states.dtype, torch.float32)
        scan = state_space_dual(consumed, working)
        s = hidden_states.to(working).flatten(2)
        o = scan.apply(s).addcmul_(scan.skip, s).view(hidden_states.shape)
    else:
        o = original(
            hidden_states, dt, A, B, C, chunk_size,
            D=D, dt_bias=dt_bias, dt_softplus=dt_softplus, dt_limit=dt_limit, **options,
        )  # fmt: skip
    return o, consumed | {"o": o}


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
    return AffineMixer(
        x=x,
        scan=scan,
        W_x=weights(in_proj.weight, dtype, branch),
        b_x=weights(in_proj.bias, dtype, branch),
        conv=weights(conv.weight, dtype, slice(channels))[:, 0].flip(1),
        conv_bias=weights(conv.bias, dtype, slice(channels)),
        gate=gated_norm(captured.scan["o"].to(dtype).flatten(2), z, mixer.norm),
        W_o=weights(out_proj.weight, dtype),
        b_o=weights(out_proj.bias, dtype),
        mask=captured.mask,
    )


def gated_norm(o: Float[Tensor, "b L D"], z: Float[Tensor, "b L D"], norm: Any) -> Float[Tensor, "b L D"]:
    """Return g = γ ⊙ SiLU(z) / rms_group(o ⊙ SiLU(z)), the statistic frozen at the forward pass (norm after gate)."""
    gate = F.silu(z)
    size = getattr(norm, "group_size", o.shape[-1])  # before transformers 5.23 the whole width is one group
    groups = rearrange(o * gate, "b L (g c) -> b L g c", c=size)
    scale = torch.rsqrt(groups.pow(2).mean(dim=-1, keepdim=True) + norm.variance_epsilon)
    return weights(norm.weight, o.dtype) * gate * scale.expand_as(groups).flatten(2)


FAMILY = Family(
    model_type="mamba2",
    mixer_class="Mamba2Mixer",
    module="transformers.models.mamba2.modeling_mamba2",
    seam="mamba2_chunk_scan",
    token_axis=1,
    intercept=intercept,
    affine=affine,
)
