"""Whether a mixer's operator gives what the mixer gave: by a second run of all of it, or step by step.

The full check rebuilds the output, y = `AffineMap.output()`, by another scan. The projected check needs no scan. Where
our own scan answered the mixer's call, what passed between the mixer's steps is known, and each step of the operator is
held to it:

    c = W_x x + b_x                   what the model's convolution read; if no function was called with it, s is rebuilt
    s = f(conv(c) + b)                what the scan read; if our own convolution made it, taps and bias are compared
    o = alpha s + D s                 by the operator's scan: the one that answered has the same numbers
    y = W_o (g ⊙ M o + offset) + b_o  what the mixer returned

A product W v is held to a result r through k random directions R (Freivalds, IFIP 1977): ‖(r - W v) R‖² / k estimates
‖r - W v‖² without bias, and v (Wᵀ R) costs k / F of the product itself. So does s, of which the channels are projected:
that is cheaper than to compare tensors that lie in memory in different orders. Whatever the error is, its estimate is
less than 1/n of it with a probability of at most (e^(1-1/n²) / n²)^(k/2), by Chernoff's bound. A layer passes this
check if the largest estimate is at most 1/n of the error that is allowed; else the full check decides. So an error
beyond what is allowed is missed with a probability below 2e-13 for each product (k = 32, n = 4). What neither check can
see is a fault that moves no number by more than is allowed, relative to the whole tensor, and a scan or a convolution
of ours that is right on the first tokens (a convolution also on the last), where it is compared with the model's, and
wrong elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.affine import AffineMixer
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace.block import Branch, precision
from mambascope.trace.convolving import Convolved
from mambascope.trace.scanning import ScanRun, relative_error

#: How a capture checks its layers; False for not at all.
Check = Literal["projected", "full", False]

#: k, the number of random directions, and n, the part of the allowed error that an estimate may reach.
DIRECTIONS, MARGIN = 32, 4

#: Tokens that are projected at a time, since the product of a tensor in another layout copies it.
PART = 1024


def reconstruction_error(
    branch: Branch,
    allowed: float,
    *,
    full: bool,
    run: ScanRun | None,
    convolved: Sequence[Convolved],
) -> float:
    """Return the relative error with which a mixer's operator gives its output, estimated if the check is projected.

    Args:
        branch: The mixer.
        allowed: The largest error that passes.
        full: Whether to make the full check, which is also made where the projected one cannot tell.
        run: The mixer's only scan, if our own ran.
        convolved: The calls of its convolutions.
    """
    operator, y = branch.operator(precision(branch.y.dtype)), branch.y
    if not full and run is not None and type(operator) is AffineMixer and same_scan(operator.scan, run.scan):
        error = error_by_steps(operator, run, convolved, y)
        if error <= allowed / MARGIN:
            return error
    return relative_error(operator.output(), y)


def error_by_steps(
    operator: AffineMixer, run: ScanRun, convolved: Sequence[Convolved], y: Float[Tensor, "b L F"]
) -> float:
    """Return the largest relative error of the steps to and from a scan, those of products estimated."""
    written = projected_error(y, operator.received(run.o.to(operator.x.dtype)), operator.W_o, operator.b_o)
    read = next(_read(operator, run.s, convolved), None)
    if read is None:
        read = projected_error(run.s, operator.slope * operator.preactivation)
    return max(written, read)


def _read(operator: AffineMixer, s: Tensor, convolved: Sequence[Convolved]) -> Iterator[float]:
    """Yield the error of s by what a convolution read, if some of its channels are W_x x + b_x: the first or last D."""
    D, length = operator.inner_width, operator.length
    for one in (one for one in convolved if one.read.ndim == 3 and one.read.shape[2] == length):
        whole = one.read.transpose(1, 2)
        for first in dict.fromkeys((0, whole.shape[2] - D)) if whole.shape[2] >= D else ():
            found = whole[..., first : first + D].to(operator.x.dtype)
            product = projected_error(found, operator.x, operator.W_x, operator.b_x)
            if product <= 1 / MARGIN:  # these channels, and not others of the same convolution
                made = _made(operator, one, first)
                if made is not None and _same(s, made.to(s.dtype)):
                    yield product
                    continue
                a = operator.convolution.apply(found)
                a = a if operator.conv_bias is None else a.add_(operator.conv_bias)
                rebuilt = F.silu(a, inplace=True) if operator.silu else a
                rebuilt = rebuilt if operator.mask is None else rebuilt.mul_(operator.mask[..., None])
                yield max(product, projected_error(s, rebuilt))


def _made(operator: AffineMixer, convolved: Convolved, first: int) -> Tensor | None:
    """Return what our own convolution made of D channels from `first` on, if it is the operator's."""
    if convolved.call is None or convolved.made is None or operator.mask is not None:
        return None
    some = slice(first, first + operator.inner_width)
    same = convolved.call.same(operator.convolution, operator.conv_bias, operator.silu, some)
    return convolved.made[..., some] if same else None


def projected_error(
    result: Float[Tensor, "b L F"],
    v: Float[Tensor, "b L D"],
    weight: Float[Tensor, "F D"] | None = None,
    bias: Float[Tensor, " F"] | None = None,
) -> float:
    """Return an estimate of ‖result - (W v + bias)‖ / ‖result‖ through random directions; without a weight, W = 1."""
    R = directions(result.shape[-1], v.dtype, v.device)
    shift = 0 if bias is None else bias @ R
    through = R if weight is None else weight.t() @ R
    squares = []
    for found, given in zip(result.split(PART, dim=1), v.split(PART, dim=1), strict=True):
        difference = found.to(v.dtype) @ R - (given @ through + shift)
        squares.append([torch.linalg.vector_norm(part).double() ** 2 for part in (difference, found.to(v.dtype))])
    whole, size = torch.tensor(squares, dtype=torch.float64).sum(dim=0).sqrt()
    error = float(whole / (size * DIRECTIONS**0.5).clamp_min(1e-300))
    return error if error == error and size.isfinite() else float("inf")


@lru_cache(maxsize=8)
def directions(width: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "F k"]:
    """Return random directions, the same in every process, so that results are; they know nothing of any model."""
    generator = torch.Generator().manual_seed(width)
    return torch.randn(width, DIRECTIONS, generator=generator, dtype=torch.float64).to(device, dtype)


def same_scan(one: TokenMixer, other: TokenMixer) -> bool:
    """Return whether two scans are of one kind and have the same coefficients, number for number."""
    if type(one) is not type(other) or not dataclasses.is_dataclass(one):
        return False
    parts = [(getattr(one, part.name), getattr(other, part.name)) for part in dataclasses.fields(one)]
    return all(_same(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b) for a, b in parts)


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same numbers; the same place in memory holds the same, without a look."""
    places = [(each.data_ptr(), each.shape, each.stride(), each.dtype) for each in (one, other)]
    return places[0] == places[1] or torch.equal(one, other)
