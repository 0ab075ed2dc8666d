"""RWKV-6 and RWKV-7: what a token does to the state depends on it and on the token before."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.models.layers.sequence_layer import Draws, SequenceLayer, before
from mambascope.operators.channel_decay import ChannelDecay
from mambascope.operators.generalised_delta import GeneralisedDeltaRule


class RWKV6(SequenceLayer):
    """Time mixing of RWKV-6 (Peng et al., arXiv 2404.05892): decays per channel from the tokens, u for the own token.

        o_t = r_tᵀ (diag(u) k_t v_tᵀ + S_{t-1}) ,     S_t = diag(w_t) S_{t-1} + k_t v_tᵀ

    Each of r, k, v, w and g reads a mixture of the token and the one before, whose share depends on both.
    """

    def __init__(self, width: int, seed: int = 0, heads: int = 2, rank: int = 4) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_r, self.W_k, self.W_v, self.W_g, self.W_o = (draw.linear(width, width) for _ in range(5))
        self.share = draw.uniform(width)
        self.shares = draw.uniform(5, width)
        self.A_share, self.B_share = draw.normal(5, width, rank, std=width**-0.5), draw.normal(5, rank, width, std=0.3)
        self.A_w, self.B_w = draw.normal(width, rank, std=width**-0.5), draw.normal(rank, width, std=rank**-0.5)
        self.w = draw.uniform(width, low=-6.0, high=0.0)
        self.u = draw.normal(width)

    def mixed(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "five b L E"]:
        """Return what r, k, v, w and g read: x + (x_before - x) ⊙ (share + low-rank function of the same)."""
        change = before(x) - x
        hidden = torch.einsum("ble,ker->kblr", x + change * self.share, self.A_share).tanh()
        shares = self.shares[:, None, None] + torch.einsum("kblr,kre->kble", hidden, self.B_share)
        return x + change * shares

    def parts(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L H N"], ...]:
        """Return r, k and log w = -exp(d)."""
        r, k, _, w, _ = self.mixed(x)
        fall = -torch.exp(self.w + (w @ self.A_w).tanh() @ self.B_w)
        return tuple(_heads(part, self.heads) for part in (r @ self.W_r.t(), k @ self.W_k.t(), fall))

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence."""
        r, k, fall = self.parts(x)
        v, u = _heads(self.values(x), self.heads), rearrange(self.u, "(h n) -> h n 1", h=self.heads)
        S, outputs = torch.zeros_like(k[:, 0, ..., None] * v[:, 0, :, None]), []
        for t in range(x.shape[1]):
            written = k[:, t, ..., None] * v[:, t, :, None]
            outputs.append(torch.einsum("bhn,bhnp->bhp", r[:, t], u * written + S))
            S = fall[:, t].exp()[..., None] * S + written
        return torch.stack(outputs, dim=1).flatten(2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return v."""
        return self.mixed(x)[2] @ self.W_v.t()

    def operator(self, x: Float[Tensor, "b L E"]) -> ChannelDecay:
        """Return the attention with decays per channel that reads before it writes."""
        r, k, fall = self.parts(x)
        own = (r * rearrange(self.u, "(h n) -> h n", h=self.heads) * k).sum(dim=-1)
        return ChannelDecay(fall, k, r, r.new_zeros(self.width), own)

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o (SiLU(g) ⊙ norm(o)); the norm of a head subtracts its mean."""
        heads = F.layer_norm(_heads(mixed, self.heads), (self.width // self.heads,))
        return (heads.flatten(2) * F.silu(self.mixed(x)[4] @ self.W_g.t())) @ self.W_o.t()


class RWKV7(SequenceLayer):
    """Time mixing of RWKV-7 (Peng et al., arXiv 2503.14456), of a first layer: a generalised delta rule.

        S_t = S_{t-1} (diag(w_t) - κ̂_tᵀ (a_t ⊙ κ̂_t)) + v_tᵀ k̃_t ,     o_t = S_t r_t   (S is value by key)
        w = exp(-e^-½ σ(d)) ,   κ̂ = κ / |κ| ,   κ = k ⊙ ξ ,   k̃ = k ⊙ (1 + (a - 1) ⊙ α)

    After the norm, (r · (ρ ⊙ k̃)) v is added for the own token; it belongs to `finish`, as the norm does not see it.
    """

    def __init__(self, width: int, seed: int = 0, heads: int = 2, rank: int = 4) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_r, self.W_k, self.W_v, self.W_o = (draw.linear(width, width) for _ in range(4))
        self.shares = draw.uniform(6, width)
        self.W_d1, self.W_d2, self.b_d = draw.linear(width, rank), draw.linear(rank, width), draw.normal(width)
        self.W_a1, self.W_a2, self.b_a = draw.linear(width, rank), draw.linear(rank, width), draw.normal(width)
        self.W_g1, self.W_g2 = draw.linear(width, rank), draw.linear(rank, width)
        self.xi, self.alpha, self.rho = draw.normal(width), draw.uniform(width), draw.normal(width)

    def mixed(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "six b L E"]:
        """Return what r, d, k, v, a and g read: the token and a share of the one before."""
        return x + (before(x) - x) * self.shares[:, None, None]

    def parts(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L H N"], ...]:
        """Return r, κ̂, a, k̃ and log w."""
        r, d, k, _, a, _ = self.mixed(x)
        fall = -math.exp(-0.5) * ((d @ self.W_d1.t()).tanh() @ self.W_d2.t() + self.b_d).sigmoid()
        k, a = k @ self.W_k.t(), (a @ self.W_a1.t() @ self.W_a2.t() + self.b_a).sigmoid()
        removed = F.normalize(_heads(k * self.xi, self.heads), dim=-1)
        replaced = k * (1 + (a - 1) * self.alpha)
        r, a, replaced, fall = (_heads(part, self.heads) for part in (r @ self.W_r.t(), a, replaced, fall))
        return r, removed, a, replaced, fall

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence, with the whole matrix that changes the state."""
        r, removed, a, replaced, fall = self.parts(x)
        v = _heads(self.values(x), self.heads)
        S, outputs = torch.zeros_like(v[:, 0, ..., None] * replaced[:, 0, :, None]), []
        for t in range(x.shape[1]):
            change = torch.diag_embed(fall[:, t].exp())
            change = change - removed[:, t, ..., None] * (a * removed)[:, t, :, None]
            S = S @ change + v[:, t, ..., None] * replaced[:, t, :, None]
            outputs.append((S @ r[:, t, ..., None])[..., 0])
        return torch.stack(outputs, dim=1).flatten(2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return v."""
        return self.mixed(x)[3] @ self.W_v.t()

    def operator(self, x: Float[Tensor, "b L E"]) -> GeneralisedDeltaRule:
        """Return the generalised delta rule."""
        r, removed, a, replaced, fall = self.parts(x)
        return GeneralisedDeltaRule(r, -removed, a * removed, replaced, fall, r.new_zeros(self.width))

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o (g ⊙ (norm(o) + (r · (ρ ⊙ k̃)) v)); the norm of a head subtracts its mean."""
        r, _, _, replaced, _ = self.parts(x)
        heads = F.layer_norm(_heads(mixed, self.heads), (self.width // self.heads,), eps=64e-5)
        own = (r * rearrange(self.rho, "(h n) -> h n", h=self.heads) * replaced).sum(dim=-1, keepdim=True)
        gate = (self.mixed(x)[5] @ self.W_g1.t()).sigmoid() @ self.W_g2.t()
        return (gate * (heads + own * _heads(self.values(x), self.heads)).flatten(2)) @ self.W_o.t()


def _heads(x: Float[Tensor, "b L D"], heads: int) -> Float[Tensor, "b L H N"]:
    return rearrange(x, "b L (h n) -> b L h n", h=heads)
