"""Linear attention, RetNet, GLA and HGRN2: one matrix-valued state per head, which decays or does not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.models.layers.sequence_layer import Draws, SequenceLayer, normed
from mambascope.operators.channel_decay import ChannelDecay
from mambascope.operators.decayed_attention import DecayedAttention


class LinearAttention(SequenceLayer):
    """Linear attention (Katharopoulos et al., arXiv 2006.16236): φ = elu + 1, weights divided by their sum."""

    def __init__(self, width: int, seed: int = 0, heads: int = 2) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_q, self.W_k, self.W_v, self.W_o = (draw.linear(width, width) for _ in range(4))

    def features(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L H N"], Float[Tensor, "b L H N"]]:
        """Return φ(q) and φ(k)."""
        q, k = (_heads(F.elu(x @ W.t()) + 1, self.heads) for W in (self.W_q, self.W_k))
        return q, k

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence of S = Σ φ(k) vᵀ and z = Σ φ(k)."""
        (q, k), v = self.features(x), self.values(x)
        ones = torch.ones_like(k)
        weights = (q * k.cumsum(dim=1)).sum(dim=-1, keepdim=True)
        return (_state_run(ones, k, q, _heads(v, self.heads)) / weights).flatten(2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_v x."""
        return x @ self.W_v.t()

    def operator(self, x: Float[Tensor, "b L E"]) -> DecayedAttention:
        """Return the attention without decay, the divisor in what targets read."""
        q, k = self.features(x)
        weights = torch.einsum("blhn,blhn->blh", q, k.cumsum(dim=1))[..., None]
        return DecayedAttention(q.new_zeros(q.shape[:3]), k, q / weights, q.new_zeros(self.width))

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o o."""
        return mixed @ self.W_o.t()


class RetNet(SequenceLayer):
    """Retention (Sun et al., arXiv 2307.08621): γ_h = 1 - 2^(-5-h), q and k rotated, a norm per head, a SiLU gate."""

    def __init__(self, width: int, seed: int = 0, heads: int = 2) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_q, self.W_k, self.W_v, self.W_g, self.W_o = (draw.linear(width, width) for _ in range(5))

    def rotated(self, x: Float[Tensor, "b L E"], W: Float[Tensor, "E E"]) -> Float[Tensor, "b L H N"]:
        """Return a projection, its pairs of channels turned by the token's number times θ_n = 10000^(-2n/N)."""
        parts = _heads(x @ W.t(), self.heads)
        n = torch.arange(parts.shape[-1] // 2, dtype=x.dtype, device=x.device)
        times = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        return rotated(parts, (times[:, None] * 10000 ** (-2 * n / parts.shape[-1]))[:, None])

    @property
    def fall(self) -> Float[Tensor, " H"]:
        """log γ."""
        return torch.log1p(-(2.0 ** (-5 - torch.arange(self.heads, dtype=self.W_q.dtype, device=self.W_q.device))))

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence."""
        q, k = self.rotated(x, self.W_q), self.rotated(x, self.W_k)
        decay = self.fall.exp()[:, None].expand(k.shape)
        return _state_run(decay, k * k.shape[-1] ** -0.5, q, _heads(self.values(x), self.heads)).flatten(2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_v x."""
        return x @ self.W_v.t()

    def operator(self, x: Float[Tensor, "b L E"]) -> DecayedAttention:
        """Return the attention that decays by γ."""
        q, k = self.rotated(x, self.W_q), self.rotated(x, self.W_k)
        return DecayedAttention(self.fall.expand(q.shape[:3]), k * k.shape[-1] ** -0.5, q, q.new_zeros(self.width))

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o (SiLU(W_g x) ⊙ norm(o)); the norm of a head subtracts its mean."""
        heads = F.layer_norm(_heads(mixed, self.heads), (self.width // self.heads,))
        return (heads.flatten(2) * F.silu(x @ self.W_g.t())) @ self.W_o.t()


class GLA(SequenceLayer):
    """Gated linear attention (Yang et al., arXiv 2312.06635): decays per key channel, σ(W x)^(1/16), of low rank."""

    def __init__(self, width: int, seed: int = 0, heads: int = 2, rank: int = 4) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_q, self.W_k, self.W_v, self.W_g, self.W_o = (draw.linear(width, width) for _ in range(5))
        self.W_1, self.W_2, self.b_2 = draw.linear(width, rank), draw.linear(rank, width), draw.normal(width)

    def gates(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L H N"]:
        """Return log α."""
        return _heads(F.logsigmoid(x @ self.W_1.t() @ self.W_2.t() + self.b_2) / 16, self.heads)

    def keys(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L H N"], Float[Tensor, "b L H N"]]:
        """Return q, scaled, and k."""
        q, k = (_heads(x @ W.t(), self.heads) for W in (self.W_q, self.W_k))
        return q * q.shape[-1] ** -0.5, k

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence."""
        q, k = self.keys(x)
        return _state_run(self.gates(x).exp(), k, q, _heads(self.values(x), self.heads)).flatten(2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_v x."""
        return x @ self.W_v.t()

    def operator(self, x: Float[Tensor, "b L E"]) -> ChannelDecay:
        """Return the attention with a decay per key channel."""
        q, k = self.keys(x)
        return ChannelDecay(self.gates(x), k, q, q.new_zeros(self.width))

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o (SiLU(W_g x) ⊙ norm(o)), a norm for each head."""
        return (normed(_heads(mixed, self.heads)).flatten(2) * F.silu(x @ self.W_g.t())) @ self.W_o.t()


class HGRN2(SequenceLayer):
    """HGRN2 (Qin et al., arXiv 2404.07904): the key is what the forget gate lets go, k = 1 - g, and q the output gate.

        g = lower + (1 - lower) σ(W_g x),   S_t = diag(g_t) S_{t-1} + (1 - g_t) v_tᵀ,   o_t = S_tᵀ q_t

    Args:
        lower: The gates' lower bound, which rises with depth in the paper.
    """

    def __init__(self, width: int, seed: int = 0, heads: int = 2, lower: float = 0.2) -> None:
        super().__init__(width)
        draw, self.heads, self.lower = Draws(seed), heads, lower
        self.W_q, self.W_g, self.W_v, self.W_o = (draw.linear(width, width) for _ in range(4))

    def gates(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L H N"]:
        """Return g."""
        return _heads(self.lower + (1 - self.lower) * (x @ self.W_g.t()).sigmoid(), self.heads)

    def queries(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L H N"]:
        """Return q."""
        return _heads((x @ self.W_q.t()).sigmoid(), self.heads)

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the recurrence."""
        g = self.gates(x)
        return _state_run(g, 1 - g, self.queries(x), _heads(self.values(x), self.heads)).flatten(2)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return SiLU(W_v x)."""
        return F.silu(x @ self.W_v.t())

    def operator(self, x: Float[Tensor, "b L E"]) -> ChannelDecay:
        """Return the attention with a decay per key channel."""
        g = self.gates(x)
        return ChannelDecay(g.log(), 1 - g, self.queries(x), g.new_zeros(self.width))

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o norm(o), a norm for each head."""
        return normed(_heads(mixed, self.heads)).flatten(2) @ self.W_o.t()


def rotated(parts: Float[Tensor, "b L H N"], angles: Float[Tensor, "*b L G n"]) -> Float[Tensor, "b L H N"]:
    """Return vectors whose neighbouring pairs of channels are turned by angles."""
    first, second = rearrange(parts, "b L h (n two) -> two b L h n", two=2)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.flatten(-2)


def _heads(x: Float[Tensor, "b L D"], heads: int) -> Float[Tensor, "b L H P"]:
    return rearrange(x, "b L (h p) -> b L h p", h=heads)


def _state_run(
    decay: Float[Tensor, "b L H N"],
    write: Float[Tensor, "b L H N"],
    read: Float[Tensor, "b L H N"],
    v: Float[Tensor, "b L H P"],
) -> Float[Tensor, "b L H P"]:
    """Return S_tᵀ read_t of S_t = diag(decay_t) S_{t-1} + write_t v_tᵀ, token by token."""
    S, outputs = torch.zeros_like(write[:, 0, ..., None] * v[:, 0, :, None]), []
    for t in range(v.shape[1]):
        S = decay[:, t, ..., None] * S + write[:, t, ..., None] * v[:, t, :, None]
        outputs.append(torch.einsum("bhn,bhnp->bhp", read[:, t], S))
    return torch.stack(outputs, dim=1)
