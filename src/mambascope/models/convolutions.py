"""The depthwise convolutions of mixers: causal over a text, or over neighbours on all sides in a line or a grid.

A mixer's module calls its convolution, with its activation, as a module-level function, so that propagation rules can
replace it (`mambascope.trace.propagation_rules`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.convolution import CausalConvolution


def causal_convolution(
    x: Float[Tensor, "b D L"], weight: Float[Tensor, "D K"], bias: Float[Tensor, " D"] | None
) -> Float[Tensor, "b D L"]:
    """Return the convolution over each token and those before it; the last tap is on the token itself."""
    working = torch.promote_types(weight.dtype, torch.float32)
    a = CausalConvolution(weight.to(working).flip(1)).apply(x.transpose(1, 2).to(working))
    a = a if bias is None else a + bias.to(working)
    return a.transpose(1, 2).to(x.dtype)


def neighbour_convolution(
    x: Float[Tensor, "b D *grid"], weight: Float[Tensor, "D *taps"], bias: Float[Tensor, " D"] | None
) -> Float[Tensor, "b D *grid"]:
    """Return the convolution over the neighbours of each token in a line or a grid, padded with zeros.

    The middle tap is on the token itself; if the number of taps is even, the extra one is on a following token, as with
    padding `same`.

    Args:
        x: Tokens, channels before the one or two axes of the grid.
        weight: Taps along the same axes.
        bias: The bias, or None.
    """
    around = [side for taps in reversed(weight.shape[1:]) for side in ((taps - 1) // 2, taps // 2)]
    convolve = F.conv1d if weight.ndim == 2 else F.conv2d
    return convolve(F.pad(x.to(weight.dtype), around), weight[:, None], bias, groups=weight.shape[0]).to(x.dtype)


def neighbour_conv_fn(
    hidden_states: Float[Tensor, "b D *grid"],
    weight: Float[Tensor, "D *taps"],
    bias: Float[Tensor, " D"] | None = None,
    activation: str | None = None,
) -> Float[Tensor, "b D *grid"]:
    """Return `neighbour_convolution`, or its SiLU if `activation` is `silu`."""
    a = neighbour_convolution(hidden_states, weight, bias)
    return F.silu(a) if activation == "silu" else a
