"""Layers that gate a convolution as long as the text: GSS and Hyena, fixed mixers with diagonal data control."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from mambascope.models.layers.sequence_layer import Draws, SequenceLayer
from mambascope.operators.kernels import dss_kernel
from mambascope.operators.long_convolution import LongConvolution


class GSS(SequenceLayer):
    """A gated state space (Mehta et al., arXiv 2206.13947): a DSS_exp of few channels, and a gate of many beside it.

        u = GELU(W_u x),   v = GELU(W_v x),   o = W_o (W_y DSS(u) ⊙ v)

    GELU(z) = Φ(z) z: the operator mixes z, and Φ(z) is the gate of the sources. The targets' gate follows W_y, so it is
    in `finish`. As in the paper (pseudocode 3.1 and 3.2), eigenvalues start at random, all channels share them, and the
    step is 1.
    """

    def __init__(self, width: int, seed: int = 0, states: int = 8, inner: int | None = None) -> None:
        super().__init__(width)
        draw, inner = Draws(seed), inner or max(1, width // 2)
        self.W_u, self.W_v = draw.linear(width, inner), draw.linear(width, 2 * width)
        self.W_y, self.W_o = draw.linear(inner, 2 * width), draw.linear(2 * width, width)
        self.log_fall, self.log_angle = draw.normal(states), draw.normal(states)
        self.W = draw.normal(inner, states, 2)
        self.D = draw.normal(inner)

    @property
    def eigenvalues(self) -> Complex[Tensor, " N"]:
        """λ."""
        return torch.complex(-self.log_fall.exp(), self.log_angle.exp())

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L D"]:
        """Return the recurrence of DSS over u."""
        u, A = F.gelu(x @ self.W_u.t()), self.eigenvalues.exp()
        weight = torch.view_as_complex(self.W) * (A - 1) / self.eigenvalues
        h, outputs = torch.zeros_like(u[:, 0, :, None] * weight), []
        for t in range(u.shape[1]):
            h = A * h + u[:, t, :, None]
            outputs.append((weight * h).sum(dim=-1).real)
        return torch.stack(outputs, dim=1) + self.D * u

    def operator(self, x: Float[Tensor, "b L E"]) -> LongConvolution:
        """Return the convolution with DSS's kernel, whose first tap holds the direct path, behind the gate."""
        W, step = torch.view_as_complex(self.W), torch.ones_like(self.D)
        kernel = dss_kernel(self.eigenvalues.expand_as(W), W, step, x.shape[1]) + F.pad(
            self.D[:, None], (0, x.shape[1] - 1)
        )
        gate = torch.special.ndtr(self.values(x))
        return LongConvolution(kernel, gate, torch.ones_like(gate), torch.zeros_like(self.D))

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L D"]:
        """Return W_u x."""
        return x @ self.W_u.t()

    def finish(self, mixed: Float[Tensor, "b L D"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o (W_y s ⊙ GELU(W_v x))."""
        return (mixed @ self.W_y.t() * F.gelu(x @ self.W_v.t())) @ self.W_o.t()


class Hyena(SequenceLayer):
    """Hyena of order 2 (Poli et al., arXiv 2302.10866): o = W_o (q ⊙ (h ∗ (k ⊙ v))).

    q, k and v are projections, each through a causal convolution of 3 taps. The filter h is implicit: a small network
    with sines reads the time and its Fourier features, and a window decays, faster in some channels than in others.
    """

    def __init__(self, width: int, seed: int = 0, features: int = 4, hidden: int = 16, horizon: int = 1024) -> None:
        super().__init__(width)
        draw = Draws(seed)
        self.W_in, self.W_o = draw.linear(width, 3 * width), draw.linear(width, width)
        self.taps = draw.normal(3 * width, 3, std=3**-0.5)
        self.W_1, self.W_2 = draw.linear(2 * features + 1, hidden), draw.linear(hidden, hidden)
        self.W_3 = draw.linear(hidden, width)
        self.log_rate = draw.uniform(width, low=math.log(1.5), high=math.log(16))
        self.features, self.horizon = features, horizon

    def kernel(self, length: int) -> Float[Tensor, "E L"]:
        """Return h for some tokens; time is measured in horizons, so a longer text does not change it."""
        times = torch.arange(length, dtype=self.W_3.dtype, device=self.W_3.device) / self.horizon
        angles = 2 * math.pi * times[:, None] * torch.arange(1, self.features + 1, device=times.device)
        z = torch.cat([times[:, None], angles.cos(), angles.sin()], dim=-1)
        z = torch.sin(14 * torch.sin(14 * z @ self.W_1.t()) @ self.W_2.t()) @ self.W_3.t()
        return (z * torch.exp(-self.log_rate.exp() * times[:, None])).t()

    def projected(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L E"], ...]:
        """Return q, k and v."""
        u = F.pad(x @ self.W_in.t(), (0, 0, 2, 0))
        length = x.shape[1]
        mixed = [self.taps[:, tap] * u[:, 2 - tap : 2 - tap + length] for tap in range(3)]
        return torch.stack(mixed).sum(dim=0).chunk(3, dim=-1)

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return q ⊙ (h ∗ (k ⊙ v)), summed shift by shift."""
        q, k, v = self.projected(x)
        h, written, length = self.kernel(x.shape[1]), k * v, x.shape[1]
        total = torch.zeros_like(v)
        for shift in range(length):
            total = total + F.pad(h[:, shift] * written[:, : length - shift], (0, 0, shift, 0))
        return q * total

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return v."""
        return self.projected(x)[2]

    def operator(self, x: Float[Tensor, "b L E"]) -> LongConvolution:
        """Return the convolution with h between the gates k and q."""
        q, k, _ = self.projected(x)
        return LongConvolution(self.kernel(x.shape[1]), k, q, q.new_zeros(self.width))

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o s."""
        return mixed @ self.W_o.t()
