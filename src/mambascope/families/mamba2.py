"""Mamba-2 (Dao & Gu, arXiv 2405.21060): one decay per head, B and C through the convolution, gated norm before W_o."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.families.family import Captured, Family, ScanCall, bias_enters, weights
from mambascope.families.held import Held, chunked_state
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


def affine(
    mixer: Any, captured: Captured, dtype: torch.dtype, *, x_factor: float = 1.0, factor: Tensor | None = None
) -> AffineMixer:
    """Return the mixer's affine map; in_proj holds the gate, then the scan branch, then B, C and Δ.

    Args:
        mixer: The mixer.
        captured: What was captured from it.
        dtype: Precision of the map.
        x_factor: A number by which the mixer multiplies its input before in_proj.
        factor: What the mixer multiplies each channel of in_proj's output with, its bias included; by default 1.
    """
    scan = state_space_dual(captured.scan, dtype)
    channels = scan.skip.shape[0]
    W, b = weights(mixer.in_proj.weight, dtype), weights(mixer.in_proj.bias, dtype)
    W = W if x_factor == 1 else W * x_factor
    if factor is not None:
        W, b = factor.to(dtype)[:, None] * W, None if b is None else factor.to(dtype) * b
    gating, branch = slice(channels), slice(channels, 2 * channels)
    conv, out_proj = mixer.conv1d, mixer.out_proj
    x = captured.x.to(dtype)
    x = x if captured.mask is None else x * captured.mask[..., None]
    z = captured.scan.get("gate")
    z = F.linear(x, W[gating], None if b is None else b[gating]) if z is None else z.to(dtype)
    return AffineMixer(
        x=x,
        scan=scan,
        W_x=W[branch],
        b_x=None if b is None else b[branch],
        convolution=CausalConvolution(weights(conv.weight, dtype, gating)[:, 0].flip(1)),
        conv_bias=weights(conv.bias, dtype, gating),
        gate=gate_and_norm(F.silu(z), captured.scan.get("o"), mixer.norm),
        W_o=weights(out_proj.weight, dtype),
        b_o=weights(out_proj.bias, dtype),
        mask=captured.mask,
    )


def gate_and_norm(gate: Float[Tensor, "b L D"], o: Float[Tensor, "b L D"] | None, norm: Any) -> Float[Tensor, "b L D"]:
    """Return what multiplies the scan's output o before W_o: the gate, and the norm's factor if there is a norm."""
    if o is None or isinstance(norm, nn.Identity):
        return gate
    o = o.to(gate.dtype)
    return norm_factor(o if norm_first(norm) else o * gate, norm).mul_(gate)


def norm_factor(normed: Float[Tensor, "b L D"], norm: Any) -> Float[Tensor, "b L D"]:
    """Return γ / rms_group of what the norm reads: the scan's output, gated unless the norm comes first."""
    width = normed.shape[-1]  # before transformers 5.23 the whole width of Mamba-2's is one group
    size = getattr(norm, "group_size", width // getattr(norm, "n_groups", 1))
    groups = rearrange(normed, "b L (g c) -> b L g c", c=size)
    squares = torch.linalg.vector_norm(groups, dim=-1, keepdim=True).square()
    scale = torch.rsqrt(squares / size + norm.variance_epsilon)
    return (weights(norm.weight, normed.dtype).view(-1, size) * scale).flatten(2)


def norm_first(norm: Any) -> bool:
    """Return whether the norm comes before the gate."""
    return bool(getattr(norm, "norm_before_gate", False))


def holds(mixer: Any) -> Held:
    """Return what the scan holds; a mixer of another class may not name its sizes, but its weights have them."""
    heads, channels = mixer.A_log.shape[0], mixer.out_proj.weight.shape[1]
    most = (mixer.conv1d.weight.shape[0] - channels) // 2  # B, of all groups
    return chunked_state(heads, getattr(mixer, "ssm_state_size", most), channels // heads)


def reads_padding(mixer: Any) -> bool:
    """Return whether the bias of the scan branch, of B or of C, which masked padding leaves, enters the convolution."""
    first = mixer.out_proj.weight.shape[1]
    return bias_enters(mixer.in_proj, mixer.conv1d, slice(first, first + mixer.conv1d.weight.shape[0]))


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
    norm_first=norm_first,
    holds=holds,
    reads_padding=reads_padding,
    parts=("in_proj", "conv1d", "norm", "out_proj", "A_log", "D", "dt_bias"),
)
