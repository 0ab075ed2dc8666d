"""The depthwise convolution before a scan: at which tokens a source writes, and with which weights.

A causal one looks back, a_k = Σ_δ w_δ ⊙ u_{k-δ}, so source j writes at j … j+K-1;
`mambascope.operators.grid_convolution` looks at neighbours on all sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief

#: As many taps are summed one by one: to bring tokens last takes longer than that.
FEW = 8


@runtime_checkable
class Convolution(Protocol):
    """What a layer's affine map needs from its convolution; the bias and the activation are kept elsewhere."""

    @property
    def taps(self) -> Float[Tensor, "D K"]:
        """The weights, tap by tap."""

    def apply(self, u: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return the convolution of u."""

    def at_written(self, values: Float[Tensor, "b L D"], sources: slice) -> Float[Tensor, "b K D c"]:
        """Return the value of the token at which each source writes with each tap; zero if there is no such token."""

    def gather(self, written: Float[Tensor, "b K D L"]) -> Float[Tensor, "b L D"]:
        """Return, for every token, the sum of what sources write there with their taps."""


@dataclass(frozen=True, eq=False)
class CausalConvolution:
    """A convolution over the current token and the K-1 before it.

    Attributes:
        taps: Weights, tap 0 on the current token.
    """

    taps: Float[Tensor, "D K"]

    __repr__ = brief

    def apply(self, u: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return Σ_δ w_δ ⊙ u_{k-δ}, with nothing before the first token."""
        if self.taps.shape[1] <= FEW:
            return _Shifted.apply(u, self.taps) if torch.is_grad_enabled() else _shifted(u, self.taps)
        padded = F.pad(u.transpose(1, 2), (self.taps.shape[1] - 1, 0))
        return F.conv1d(padded, self.taps.flip(1)[:, None], groups=self.taps.shape[0]).transpose(1, 2)

    def at_written(self, values: Float[Tensor, "b L D"], sources: slice) -> Float[Tensor, "b K D c"]:
        """Return values[j + δ] for every source j and δ < K, zero beyond the end."""
        reach = self.taps.shape[1] - 1
        part = values[:, sources.start : sources.stop + reach]
        missing = sources.stop - sources.start + reach - part.shape[1]
        return F.pad(part, (0, 0, 0, missing)).unfold(1, reach + 1, 1).permute(0, 3, 2, 1)

    def gather(self, written: Float[Tensor, "b K D L"]) -> Float[Tensor, "b L D"]:
        """Return, for every token k, the sum over δ of what source k - δ writes there."""
        taps, length = written.shape[1], written.shape[-1]
        total = torch.zeros_like(written[:, 0].transpose(1, 2))
        for shift in range(min(taps, length)):
            total[:, shift:] += written[:, shift, :, : length - shift].transpose(1, 2)
        return total


def _shifted(u: Float[Tensor, "b L D"], taps: Float[Tensor, "D K"], *, back: bool = False) -> Float[Tensor, "b L D"]:
    """Return the convolution as a sum over taps of the tokens before; its transpose, of those after, if `back`."""
    each = taps.t().contiguous().unbind()  # each tap's weights side by side, as the channels of a token are
    a = u * each[0]
    for shift, tap in enumerate(each[1 : u.shape[1]], 1):
        earlier, later = slice(-shift), slice(shift, None)
        targets, sources = (earlier, later) if back else (later, earlier)
        a[:, targets].addcmul_(u[:, sources], tap)
    return a


class _Shifted(torch.autograd.Function):
    """The same with a backward pass of the same form; where it is left to torch, every tap pads its gradient."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(u if ctx.needs_input_grad[1] else None, taps)
        return _shifted(u, taps)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (flow,), (u, taps) = grad_outputs, ctx.saved_tensors
        to_u = _shifted(flow, taps, back=True) if ctx.needs_input_grad[0] else None
        if u is None or not ctx.needs_input_grad[1]:
            return to_u, None
        length = u.shape[1]
        pairs = ((flow[:, shift:], u[:, : max(length - shift, 0)]) for shift in range(taps.shape[1]))
        return to_u, torch.stack([(later * earlier).sum(dim=(0, 1)) for later, earlier in pairs], dim=1)
