"""Parts of a mixer whose forward pass is unchanged and whose backward pass is a linear map frozen at forward values.

Gradient times input through such parts is layer-wise relevance propagation: these functions are the propagation rules
of MambaLRP (Jafari et al., arXiv 2406.07592, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.token_mixer import Carried, TokenMixer

#: Gradients below this are set to zero: a float32 readout has a relative precision of 1e-7, and numbers near the end of
#: the range, which decay produces, make matrix products ten times slower.
FAINT = {torch.float32: 1e-30, torch.float64: 1e-280}


def frozen_scan(scan: TokenMixer, s: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
    """Return alpha s with Δ, A, B and C as constants: the backward pass is one reversed linear scan."""
    return _FrozenScan.apply(s, scan)


class _FrozenScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, scan: TokenMixer) -> Tensor:
        ctx.scan = scan
        return scan.apply(s)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _without_faint(ctx.scan.apply_transposed(grad_outputs[0].contiguous())), None


def _without_faint(flow: Tensor) -> Tensor:
    """Return a gradient that was just computed, with faint numbers set to zero."""
    return torch.hardshrink(flow, FAINT.get(flow.dtype, 0.0), out=None if flow.requires_grad else flow)


def carried_scan(
    scan: Carried, s: Float[Tensor, "b L D"], before: Float[Tensor, "b *state"] | None
) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b *state"]]:
    """Return `frozen_scan` of a piece of a text from the state before it (None for zero), and the state after it."""
    return _CarriedScan.apply(s, before, scan)


class _CarriedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, before: Tensor | None, scan: Carried) -> tuple[Tensor, Tensor]:
        ctx.scan, ctx.first = scan, before is None
        return scan.forwards(s, before)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
        flow, before = map(_without_faint, ctx.scan.backwards(*(one.contiguous() for one in grad_outputs)))
        return flow, None if ctx.first else before, None


class _SparseRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, output: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape = x.shape
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        rows = grad_outputs[0].flatten(0, -2)
        asked = rows.any(dim=-1).nonzero()[:, 0]
        flow = rows.new_zeros(rows.shape[0], weight.shape[1])
        flow[asked] = rows[asked] @ weight
        return flow.view(ctx.shape), None, None


def sparse_rows(
    x: Float[Tensor, "*b E"], weight: Float[Tensor, "v E"], output: Float[Tensor, "*b v"]
) -> Float[Tensor, "*b v"]:
    """Return a linear layer's output, with a backward pass through only those rows whose gradient is not zero.

    A readout usually needs the logits of one position; every other row would cost a product with the vocabulary.
    """
    return _SparseRows.apply(x, weight, output.detach())


def secant_silu(a: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return SiLU(a) = a σ(a) with σ(a) held constant."""
    return a * torch.sigmoid(a).detach()


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor | float) -> Tensor:
        ctx.slope = slope
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return grad_outputs[0] * ctx.slope, None, None


def half(product: Float[Tensor, "*s"], branches: int = 2) -> Float[Tensor, "*s"]:
    """Return a product, each of whose branches gets an equal share of its relevance: half of it, if there are two."""
    return _Scaled.apply(product, product.detach(), 1 / branches)


def secant(x: Float[Tensor, "*s"], value: Float[Tensor, "*s"], at_zero: float) -> Float[Tensor, "*s"]:
    """Return f(x), whose backward pass multiplies by the secant f(x) / x.

    Args:
        x: The argument.
        value: f(x), of a function with f(0) = 0.
        at_zero: The limit of the secant at x = 0.
    """
    working = torch.promote_types(x.dtype, torch.float32)
    argument = x.detach().to(working)
    nearly_zero = argument.abs() < torch.finfo(working).tiny ** 0.5
    slope = value.detach().to(working) / argument
    slope = slope.masked_fill_(nearly_zero, at_zero) if nearly_zero.any() else slope
    return _Scaled.apply(x, value.detach(), slope.to(x.dtype))


def frozen_ratio(value: Float[Tensor, "*s"], stand_in: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return `value`, with its relevance flowing back through `stand_in` instead, in proportion."""
    nearly_zero = stand_in.abs() < torch.finfo(stand_in.dtype).tiny ** 0.5
    ratio = torch.where(nearly_zero, 0.0, value / torch.where(nearly_zero, 1.0, stand_in))
    through = stand_in * ratio.detach()
    return through + (value - through).detach()


def gamma_stand_in(
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: float,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return what stands in for a linear layer under the generalised LRP-γ rule, and its biases.

    The rule favours inputs that agree in sign with the output.

    Outputs above zero become x⁺(w + γ w⁺) + x⁻(w + γ w⁻), those below zero x⁺(w + γ w⁻) + x⁻(w + γ w⁺); the bias is
    treated as a weight on an input of one (MambaLRP's appendix; Andéol et al., arXiv 2108.12443).

    Args:
        linear: The layer as a function of input, weight and bias.
        x: Its input.
        weight: Its weight.
        bias: Its bias, or None.
        gamma: γ ≥ 0; with 0 the stand-in is the layer itself.

    Returns:
        The stand-in, and the biases of outputs above zero and of outputs below; None if there is no bias.
    """
    value = linear(x, weight, bias)
    up, down = weight + gamma * weight.clamp(min=0), weight + gamma * weight.clamp(max=0)
    high, low = x.clamp(min=0), x.clamp(max=0)
    raised = None if bias is None else bias + gamma * bias.clamp(min=0)
    lowered = None if bias is None else bias + gamma * bias.clamp(max=0)
    above = linear(high, up, raised) + linear(low, down, None)
    below = linear(high, down, lowered) + linear(low, up, None)
    biases = None if raised is None or lowered is None else (raised, lowered)
    return torch.where(value > 0, above, below), biases
