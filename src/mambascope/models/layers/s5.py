"""S5: one state-space model that reads and writes all channels at once, still the same for every text."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor, nn

from mambascope.models.layers.hippo import hippo
from mambascope.models.layers.sequence_layer import Draws, SequenceLayer
from mambascope.operators.kernels import damped
from mambascope.operators.long_convolution import LongConvolution


class S5(SequenceLayer):
    """S5 (Smith et al., arXiv 2208.04933): a diagonal model of complex states, a matrix into them and one out of them.

        h_t = Ā h_{t-1} + B̄ x_t ,     y_t = 2 Re C h_t + D x_t ,     Ā = exp(ΔΛ),   B̄ = (Ā - 1)/Λ B

    A complex state is a pair of real ones, which two real kernels mix: |λ|^k cos kθ and |λ|^k sin kθ. So the operator
    mixes 4 values per state, each part of B̄ x by each kernel, and `finish` reads the state from them.
    """

    def __init__(self, width: int, seed: int = 0, states: int = 8) -> None:
        super().__init__(width)
        draw = Draws(seed)
        eigenvalues, _, _, V = hippo(2 * states)
        chosen = eigenvalues.imag > 0
        self.log_fall = nn.Parameter((-eigenvalues.real[chosen]).log().float())
        self.angle = nn.Parameter(eigenvalues.imag[chosen].float())
        into = V.conj().t()[chosen] @ draw.linear(width, 2 * states).detach().to(V.dtype)
        out_of = draw.linear(2 * states, width).detach().to(V.dtype) @ V[:, chosen]
        self.B = nn.Parameter(torch.view_as_real(into.resolve_conj()).float())
        self.C = nn.Parameter(torch.view_as_real(out_of.resolve_conj()).float())
        self.log_step = draw.log_steps(states)
        self.D = draw.normal(width)

    @property
    def exponent(self) -> Complex[Tensor, " N"]:
        """ΔΛ."""
        return self.log_step.exp() * torch.complex(-self.log_fall.exp(), self.angle)

    def driven(self, x: Float[Tensor, "b L E"]) -> Complex[Tensor, "b L N"]:
        """Return B̄ x, what enters the states."""
        held = (self.exponent.exp() - 1) / torch.complex(-self.log_fall.exp(), self.angle)
        B = held[:, None] * torch.view_as_complex(self.B)
        return x.to(B.dtype) @ B.t()

    def forward(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the layer's output by the recurrence of the complex states."""
        A, C, entering = self.exponent.exp(), torch.view_as_complex(self.C), self.driven(x)
        h, outputs = torch.zeros_like(entering[:, 0]), []
        for t in range(x.shape[1]):
            h = A * h + entering[:, t]
            outputs.append(2 * (h @ C.t()).real)
        return torch.stack(outputs, dim=1) + self.D * x

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L D"]:
        """Return the recurrence of the complex states, taken apart as the operator does: cos and sin of both parts."""
        A, entering = self.exponent.exp(), self.driven(x)
        parts = [torch.zeros_like(entering[:, 0]), torch.zeros_like(entering[:, 0])]
        states = []
        for t in range(x.shape[1]):
            parts = [A * h + part[:, t] for h, part in zip(parts, (entering.real, entering.imag), strict=True)]
            states.append(torch.stack([parts[0].real, parts[1].real, parts[0].imag, parts[1].imag], dim=1))
        return rearrange(torch.stack(states, dim=1), "b L (k part) n -> b L (k n part)", k=2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L D"]:
        """Return the real and imaginary parts of B̄ x, state by state, once for each kernel."""
        parts = rearrange(torch.view_as_real(self.driven(x)), "b L n part -> b L (n part)")
        return torch.cat([parts, parts], dim=-1)

    def operator(self, x: Float[Tensor, "b L E"]) -> LongConvolution:
        """Return the convolution with |λ|^k cos kθ of every state, then with |λ|^k sin kθ."""
        turned = damped(self.exponent[None], x.shape[1])[0]
        kernel = torch.cat([turned.real, turned.imag]).to(x.dtype)
        return LongConvolution.fixed(kernel, len(x), kernel.new_zeros(2 * len(kernel)))

    def finish(self, mixed: Float[Tensor, "b L D"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return 2 Re C h + D x, with Re h = cos Re - sin Im and Im h = cos Im + sin Re."""
        cos, sin = rearrange(mixed, "b L (k n part) -> k b L n part", k=2, part=2)
        real, imaginary = cos[..., 0] - sin[..., 1], cos[..., 1] + sin[..., 0]
        return 2 * (real @ self.C[..., 0].t() - imaginary @ self.C[..., 1].t()) + self.D * x
