"""What every reference layer says: how it runs, and the operator that it is when frozen at its input."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.operators.token_mixer import TokenMixer


class SequenceLayer(nn.Module, ABC):
    """A layer (b, L, E) → (b, L, E) of one kind of token mixing, as its paper gives it, in a few lines.

    It can be read in two ways, which must agree: `forward` runs the layer's own recurrence or convolution, token by
    token; `mixer` is the operator that mixes `values`, and `finish` makes the output of what is mixed.

        forward(x) = finish(mixer(x).apply(values(x)) + mixer(x).skip * values(x), x)

    Attributes:
        width: E.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the layer's output, by its own recurrence or convolution."""
        return self.finish(self.run(x), x)

    @abstractmethod
    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L D"]:
        """Return what the mixing gives, direct path included, without the operator."""

    @torch.no_grad()
    def mixer(self, x: Float[Tensor, "b L E"]) -> TokenMixer:
        """Return the operator, frozen at an input: it carries no gradients to the layer's weights."""
        return self.operator(x)

    @abstractmethod
    def operator(self, x: Float[Tensor, "b L E"]) -> TokenMixer:
        """Return the operator at an input, as a function of it and of the weights."""

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L D"]:
        """Return the values that the operator mixes, by default the tokens themselves."""
        return x

    def finish(self, mixed: Float[Tensor, "b L D"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the output that mixed values give; x is where its gates come from. By default they are the output."""
        return mixed


class Draws:
    """Random weights from one seed; torch's own generator is left alone."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0) -> nn.Parameter:
        """Return normal numbers."""
        return nn.Parameter(std * torch.randn(*shape, generator=self._generator))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> nn.Parameter:
        """Return numbers between two bounds."""
        return nn.Parameter(low + (high - low) * torch.rand(*shape, generator=self._generator))

    def linear(self, inputs: int, outputs: int) -> nn.Parameter:
        """Return a matrix that keeps the size of its input: (outputs, inputs), of variance 1 / inputs."""
        return self.normal(outputs, inputs, std=inputs**-0.5)

    def log_steps(self, *shape: int) -> nn.Parameter:
        """Return log Δ, uniform between log 0.001 and log 0.1, as S4 and Mamba draw it."""
        return self.uniform(*shape, low=-6.9078, high=-2.3026)


def before(x: Float[Tensor, "b L *s"]) -> Float[Tensor, "b L *s"]:
    """Return at every token what stands at the token before, zero at the first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def normed(x: Float[Tensor, "*b n"], eps: float = 1e-6) -> Float[Tensor, "*b n"]:
    """Return x divided by its root mean square."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
