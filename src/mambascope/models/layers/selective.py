"""Selective state-space models: S6 of Mamba-1, SSD of Mamba-2, and Mamba-3's trapezoidal rule."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.models.layers.linear_attention import rotated
from mambascope.models.layers.sequence_layer import Draws, SequenceLayer, normed
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.state_space_dual import StateSpaceDual
from mambascope.operators.trapezoidal_scan import TrapezoidalScan


class SelectiveSSM(SequenceLayer):
    """S6 (Gu & Dao, arXiv 2312.00752), the scan of a Mamba block alone: Δ, B and C are functions of the tokens."""

    def __init__(self, width: int, seed: int = 0, states: int = 4, rank: int = 2) -> None:
        super().__init__(width)
        draw = Draws(seed)
        self.W_B, self.W_C = draw.linear(width, states), draw.linear(width, states)
        self.W_1, self.W_dt = draw.linear(width, rank), draw.linear(rank, width)
        self.b_dt = _step_bias(draw, width)
        self.A_log = nn.Parameter(torch.arange(1, states + 1).float().log().expand(width, -1).clone())
        self.D = draw.normal(width)

    def parts(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L E"], Tensor, Tensor, Tensor]:
        """Return Δ (b, L, E), A (E, N), B and C (b, L, N)."""
        dt = F.softplus(x @ self.W_1.t() @ self.W_dt.t() + self.b_dt)
        return dt, -self.A_log.exp(), x @ self.W_B.t(), x @ self.W_C.t()

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence."""
        dt, A, B, C = self.parts(x)
        h, outputs = torch.zeros_like(x[:, 0, :, None] * A), []
        for t in range(x.shape[1]):
            h = (dt[:, t, :, None] * A).exp() * h + dt[:, t, :, None] * B[:, t, None] * x[:, t, :, None]
            outputs.append(torch.einsum("bn,ben->be", C[:, t], h))
        return torch.stack(outputs, dim=1) + self.D * x

    def operator(self, x: Float[Tensor, "b L E"]) -> SelectiveScan:
        """Return the selective scan."""
        return SelectiveScan(*self.parts(x), self.D)


class SSD(SequenceLayer):
    """SSD (Dao & Gu, arXiv 2405.21060), the scan of a Mamba-2 block alone: one decay per head."""

    def __init__(self, width: int, seed: int = 0, states: int = 4, heads: int = 2) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_B, self.W_C, self.W_dt = (
            draw.linear(width, states),
            draw.linear(width, states),
            draw.linear(width, heads),
        )
        self.b_dt = _step_bias(draw, heads)
        self.A_log = nn.Parameter(draw.uniform(heads, low=1.0, high=16.0).detach().log())
        self.D = draw.normal(heads)

    def parts(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L H"], Tensor, Tensor, Tensor]:
        """Return Δ (b, L, H), A (H), B and C (b, L, 1, N)."""
        B, C = ((x @ W.t())[:, :, None] for W in (self.W_B, self.W_C))
        return F.softplus(x @ self.W_dt.t() + self.b_dt), -self.A_log.exp(), B, C

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence."""
        (dt, A, B, C), v = self.parts(x), rearrange(x, "b L (h p) -> b L h p", h=self.heads)
        h, outputs = torch.zeros_like(v[:, 0, :, :, None] * B[:, 0, :, None]), []
        for t in range(x.shape[1]):
            written = dt[:, t, :, None, None] * v[:, t, :, :, None] * B[:, t, :, None]
            h = (dt[:, t] * A).exp()[..., None, None] * h + written
            outputs.append((h * C[:, t, :, None]).sum(dim=-1))
        return (torch.stack(outputs, dim=1) + self.D[:, None] * v).flatten(2)

    def operator(self, x: Float[Tensor, "b L E"]) -> StateSpaceDual:
        """Return the scan of Mamba-2."""
        return StateSpaceDual(*self.parts(x), self.D.repeat_interleave(self.width // self.heads))


class Mamba3(SequenceLayer):
    """Mamba-3 (Lahoti et al., arXiv 2603.15569), one input and one output per head.

        h_t = exp(Δ_t A_t) h_{t-1} + (1 - λ_t) Δ_t exp(Δ_t A_t) B_{t-1} v_{t-1} + λ_t Δ_t B_t v_t

    Δ, A, λ and the angles θ are functions of the tokens. B and C are normalised, get a bias per head, and are turned by
    the angles Σ Δ θ, which is the same as a complex state. A SiLU gate follows.
    """

    def __init__(self, width: int, seed: int = 0, states: int = 4, heads: int = 2) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_v, self.W_z, self.W_o = (draw.linear(width, width) for _ in range(3))
        self.W_B, self.W_C = draw.linear(width, states), draw.linear(width, states)
        self.W_dt, self.W_A, self.W_lambda = (draw.linear(width, heads) for _ in range(3))
        self.W_theta = draw.linear(width, states // 2)
        self.b_dt = _step_bias(draw, heads)
        self.b_B, self.b_C = (nn.Parameter(torch.ones(heads, states)) for _ in range(2))
        self.D = draw.normal(heads)

    def parts(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L H"], ...]:
        """Return Δ, ΔA and λ."""
        dt = F.softplus(x @ self.W_dt.t() + self.b_dt)
        return dt, -dt * F.softplus(x @ self.W_A.t()), (x @ self.W_lambda.t()).sigmoid()

    def vectors(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L H N"], Float[Tensor, "b L H N"]]:
        """Return B and C before they are turned."""
        B, C = (normed(x @ W.t())[:, :, None] + b for W, b in ((self.W_B, self.b_B), (self.W_C, self.b_C)))
        return B, C

    def turns(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L H n"]:
        """Return Δ θ, by how much each token turns the state."""
        return self.parts(x)[0][..., None] * (x @ self.W_theta.t())[:, :, None]

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence of the complex state: each token turns it, B and C are not turned."""
        (dt, fall, share), turns = self.parts(x), self.turns(x)
        B, C = (torch.view_as_complex(part.unflatten(-1, (-1, 2)).contiguous()) for part in self.vectors(x))
        v = rearrange(self.values(x), "b L (h p) -> b L h 1 p", h=self.heads)
        h = last = torch.zeros_like(B[:, 0, ..., None] * v[:, 0])
        outputs = []
        for t in range(x.shape[1]):
            decay = torch.polar(fall[:, t].exp()[..., None].expand(turns[:, t].shape), -turns[:, t])[..., None]
            now, step = B[:, t, ..., None] * v[:, t], dt[:, t, :, None, None]
            h = decay * h + (1 - share[:, t, :, None, None]) * step * decay * last
            h = h + share[:, t, :, None, None] * step * now
            outputs.append((C[:, t, ..., None].conj() * h).sum(dim=2).real)
            last = now
        return (torch.stack(outputs, dim=1) + self.D[:, None] * v[:, :, :, 0]).flatten(2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_v x."""
        return x @ self.W_v.t()

    def operator(self, x: Float[Tensor, "b L E"]) -> TrapezoidalScan:
        """Return the trapezoidal scan; B and C are turned by all tokens up to theirs."""
        (dt, fall, share), angles = self.parts(x), self.turns(x).cumsum(dim=1)
        B, C = (rotated(part, angles) for part in self.vectors(x))
        skip = self.D.repeat_interleave(self.width // self.heads)
        return TrapezoidalScan(fall, share * dt, (1 - share) * dt * fall.exp(), B, C, skip)

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o (SiLU(W_z x) ⊙ o)."""
        return (mixed * F.silu(x @ self.W_z.t())) @ self.W_o.t()


def _step_bias(draw: Draws, count: int) -> nn.Parameter:
    """Return the bias that softplus turns into steps between 0.001 and 0.1."""
    step = draw.log_steps(count).detach().exp()
    return nn.Parameter(step + torch.log(-torch.expm1(-step)))
