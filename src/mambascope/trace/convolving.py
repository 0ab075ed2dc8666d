"""One call of a model's causal convolution, answered by our own, and compared with the model's on a few tokens.

Stock convolutions read their tokens across memory, since channels come before them; ours leaves each token's channels
side by side, as the products and the scan after it want them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.families import Family
from mambascope.models.convolutions import causal_convolution
from mambascope.operators.convolution import FEW, CausalConvolution, Convolution
from mambascope.trace.mixer_calls import input_of
from mambascope.trace.scanning import PREFIX, relative_error

#: Names of the activations that are a SiLU, and None for no activation.
ACTIVATIONS = {None: False, "silu": True, "swish": True}


@dataclass(frozen=True, eq=False)
class Convolved:
    """A convolution's call that has been answered.

    Attributes:
        read: What it read.
        call: What it was called with, if our own answered.
        made: What ours returned; None if the model's own ran.
    """

    read: Float[Tensor, "b C ..."]
    call: ConvolutionCall | None = None
    made: Float[Tensor, "b L C"] | None = None

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class ConvolutionCall:
    """What a causal convolution was called with besides its tokens.

    Attributes:
        convolution: Its taps, in the precision of the answer.
        bias: What is added to its result; None for nothing.
        silu: Whether the SiLU is taken of it.
    """

    convolution: CausalConvolution
    bias: Float[Tensor, " C"] | None
    silu: bool

    __repr__ = brief

    def of(self, c: Float[Tensor, "b L C"]) -> Float[Tensor, "b L C"]:
        """Return the convolution of some tokens, with its activation."""
        a = self.convolution.apply(c)
        a = a if self.bias is None else a.add_(self.bias)
        return F.silu(a, inplace=True) if self.silu else a

    def same(self, convolution: Convolution, bias: Float[Tensor, " D"] | None, silu: bool, channels: slice) -> bool:
        """Return whether some of its channels have these taps, this bias and this activation."""
        if not isinstance(convolution, CausalConvolution) or self.silu != silu or (self.bias is None) != (bias is None):
            return False
        biases = self.bias is None or bias is None or torch.equal(self.bias[channels], bias)
        return biases and torch.equal(self.convolution.taps[channels], convolution.taps)


def answer_convolution(
    family: Family, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], allowed: float
) -> tuple[Any, Convolved]:
    """Return the result of a convolution's call, by our own on a CPU if it agrees with the model's, and the record.

    Args:
        family: The family whose convolution was called.
        original: The model's own function.
        args, kwargs: The arguments of the call.
        allowed: The largest relative error, on the first and the last tokens, with which ours answers.
    """
    x = input_of(args, kwargs)
    call = _read(*args, **kwargs) if family.convolve is causal_convolution else None
    if call is not None:
        made = call.of(x.transpose(1, 2).to(call.convolution.taps.dtype)).to(x.dtype)
        if _error(call, made, original, args, kwargs) <= allowed:
            return made.transpose(1, 2), Convolved(x, call, made)
    return original(*args, **kwargs), Convolved(x)


def _read(
    hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **others: Any
) -> ConvolutionCall | None:
    """Return what a convolution is called with; None if ours does not answer such a call."""
    more = any(isinstance(value, Tensor) for value in others.values())
    plain = hidden_states.ndim == 3 and hidden_states.device.type == "cpu" and weight.ndim == 2
    if more or not plain or activation not in ACTIVATIONS or weight.shape[1] > FEW:
        return None
    working = torch.promote_types(hidden_states.dtype, torch.float32)
    bias = None if bias is None else bias.detach().to(working)
    return ConvolutionCall(CausalConvolution(weight.detach().to(working).flip(1)), bias, ACTIVATIONS[activation])


def _error(
    call: ConvolutionCall,
    made: Float[Tensor, "b L C"],
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> float:
    """Return the relative error of our answer against the model's own on the first and the last tokens."""
    reference = inspect.unwrap(original)  # without the wrapper that looks for kernels and warns if there are none
    x, reach = input_of(args, kwargs), call.convolution.taps.shape[1] - 1

    def by_model(part: Tensor) -> Tensor:
        own, named = (part if value is x else value for value in args), kwargs.items()
        convolved: Tensor = reference(*own, **{name: part if value is x else value for name, value in named})
        return convolved[..., -PREFIX:].transpose(1, 2)

    theirs = torch.cat([by_model(x[..., :PREFIX]), by_model(x[..., -(PREFIX + reach) :])], dim=1)
    return relative_error(torch.cat([made[:, :PREFIX], made[:, -PREFIX:]], dim=1), theirs)
