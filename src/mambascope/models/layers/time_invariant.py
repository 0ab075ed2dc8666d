"""Layers whose mixing is the same for every text: S4, S4D and DSS, one long convolution per channel."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from mambascope.models.layers.hippo import hippo
from mambascope.models.layers.sequence_layer import Draws, SequenceLayer
from mambascope.operators.kernels import dss_kernel, s4_kernel, s4d_kernel
from mambascope.operators.long_convolution import LongConvolution


class S4(SequenceLayer):
    """S4 (Gu et al., arXiv 2111.00396): A = Λ - P Pᴴ from HiPPO-LegS, by the bilinear rule, a model for each channel.

    Complex numbers are kept as pairs of real ones, so that a change of precision reaches them.
    """

    def __init__(self, width: int, seed: int = 0, states: int = 8) -> None:
        super().__init__(width)
        draw = Draws(seed)
        eigenvalues, P, B, V = hippo(states)
        self.eigenvalues, self.P, self.B = (_pairs(part.expand(width, -1)) for part in (eigenvalues, P, B))
        C = draw.normal(width, states).detach().to(V.dtype) @ V  # the real output vector, in that basis
        self.C = _pairs(C)
        self.log_step = draw.log_steps(width)
        self.D = draw.normal(width)

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence, with Ā applied as a diagonal and a vector (appendix C.2), never as a matrix."""
        eigenvalues, P, B, C = (torch.view_as_complex(part) for part in (self.eigenvalues, self.P, self.B, self.C))
        rate = 2 / self.log_step.exp()[:, None]
        resolvent = 1 / (rate - eigenvalues)

        def solved(h: Tensor) -> Tensor:
            """Return (2/Δ - A)⁻¹ h, by Woodbury's formula."""
            moved = resolvent * h
            weight = 1 + (P.conj() * resolvent * P).sum(dim=-1, keepdim=True)
            return moved - resolvent * P * (P.conj() * moved).sum(dim=-1, keepdim=True) / weight

        h, outputs = torch.zeros_like(x[:, 0, :, None] * B), []
        for t in range(x.shape[1]):
            ahead = (rate + eigenvalues) * h - P * (P.conj() * h).sum(dim=-1, keepdim=True)
            h = solved(ahead + 2 * B * x[:, t, :, None])
            outputs.append((C * h).sum(dim=-1).real)
        return torch.stack(outputs, dim=1) + self.D * x

    def operator(self, x: Float[Tensor, "b L E"]) -> LongConvolution:
        """Return the convolution with S4's kernel."""
        eigenvalues, P, B, C = (torch.view_as_complex(part) for part in (self.eigenvalues, self.P, self.B, self.C))
        kernel = s4_kernel(eigenvalues, P, P, B, C, self.log_step.exp(), x.shape[1])
        return LongConvolution.fixed(kernel, len(x), self.D)


class S4D(SequenceLayer):
    """S4D-Lin (Gu et al., arXiv 2206.11893): λ_n = -1/2 + iπn, B = 1, by zero-order hold, a model for each channel."""

    def __init__(self, width: int, seed: int = 0, states: int = 8) -> None:
        super().__init__(width)
        draw = Draws(seed)
        self.log_fall = nn.Parameter(torch.full((width, states), math.log(0.5)))
        self.angle = nn.Parameter(math.pi * torch.arange(states).expand(width, -1).clone())
        self.C = draw.normal(width, states, 2, std=0.5**0.5)
        self.log_step = draw.log_steps(width)
        self.D = draw.normal(width)

    @property
    def eigenvalues(self) -> Complex[Tensor, "E N"]:
        """λ."""
        return torch.complex(-self.log_fall.exp(), self.angle)

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence."""
        A = (self.log_step.exp()[:, None] * self.eigenvalues).exp()
        return 2 * _diagonal_run(A, (A - 1) / self.eigenvalues, torch.view_as_complex(self.C), x) + self.D * x

    def operator(self, x: Float[Tensor, "b L E"]) -> LongConvolution:
        """Return the convolution with S4D's kernel."""
        C = torch.view_as_complex(self.C)
        kernel = s4d_kernel(self.eigenvalues, torch.ones_like(C), C, self.log_step.exp(), x.shape[1])
        return LongConvolution.fixed(kernel, len(x), self.D)


class DSS(SequenceLayer):
    """A diagonal state space (Gupta et al., arXiv 2203.14343), a model for each channel.

    It starts from the eigenvalues of HiPPO with positive angles. DSS_softmax, whose softmax is over the
    tokens of a horizon, is the default; without a horizon it is DSS_exp.
    """

    def __init__(self, width: int, seed: int = 0, states: int = 8, horizon: int | None = 1024) -> None:
        super().__init__(width)
        draw = Draws(seed)
        eigenvalues, _, _, _ = hippo(2 * states)
        positive = eigenvalues[eigenvalues.imag > 0].expand(width, -1)
        self.log_fall = nn.Parameter((-positive.real).log().float())
        self.angle = nn.Parameter(positive.imag.float().clone())
        self.W = draw.normal(width, states, 2)
        self.log_step = draw.log_steps(width)
        self.D = draw.normal(width)
        self.horizon = horizon

    @property
    def eigenvalues(self) -> Complex[Tensor, "E N"]:
        """λ."""
        return torch.complex(-self.log_fall.exp(), self.angle)

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence; the softmax's sum is taken term by term."""
        exponent = self.log_step.exp()[:, None] * self.eigenvalues
        if self.horizon is None:
            weight = exponent.exp() - 1
        else:
            tokens = torch.arange(self.horizon, dtype=x.dtype, device=x.device)
            weight = 1 / (exponent[..., None] * tokens).exp().sum(dim=-1)
        return _diagonal_run(exponent.exp(), weight / self.eigenvalues, torch.view_as_complex(self.W), x) + self.D * x

    def operator(self, x: Float[Tensor, "b L E"]) -> LongConvolution:
        """Return the convolution with the kernel of the diagonal state space."""
        W = torch.view_as_complex(self.W)
        kernel = dss_kernel(self.eigenvalues, W, self.log_step.exp(), x.shape[1], self.horizon)
        return LongConvolution.fixed(kernel, len(x), self.D)


def _pairs(numbers: Complex[Tensor, "*s"]) -> nn.Parameter:
    """Return complex numbers as pairs of real ones, in single precision."""
    return nn.Parameter(torch.view_as_real(numbers.resolve_conj()).float().contiguous().clone())


def _diagonal_run(
    A: Complex[Tensor, "E N"], B: Complex[Tensor, "E N"], C: Complex[Tensor, "E N"], x: Float[Tensor, "b L E"]
) -> Float[Tensor, "b L E"]:
    """Return Re Σ_n C h of h_t = A h_{t-1} + B x_t."""
    h, outputs = torch.zeros_like(x[:, 0, :, None] * B), []
    for t in range(x.shape[1]):
        h = A * h + B * x[:, t, :, None]
        outputs.append((C * h).sum(dim=-1).real)
    return torch.stack(outputs, dim=1)
