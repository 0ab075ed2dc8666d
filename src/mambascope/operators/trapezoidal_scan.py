"""Mamba-3's scan by the trapezoidal rule (Lahoti et al., arXiv 2603.15569) as a lower-triangular matrix per head.

    h_t = exp(fall_t) h_{t-1} + before_t B_{t-1} v_{t-1} + now_t B_t v_t ,     o_t = C_t · h_t
    alpha_ij = C_i · B_j (Γ_ij now_j + Γ_i,j+1 before_{j+1}) ,     Γ_ij = exp(Σ_{k=j+1..i} fall_k) ,

with the second term absent at i = j: a token writes twice, once when it comes and once when the next one comes. Its
matrix is that of two decaying linear attentions, the second on values that are moved by one token. In the paper now =
λΔ and before = (1 - λ) Δ exp(ΔA); B and C are already rotated, which is what makes the state complex.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Places, numbers
from mambascope.operators.decayed_attention import DecayedAttention
from mambascope.operators.per_head import PerHead


@dataclass(frozen=True, eq=False)
class TrapezoidalScan(PerHead):
    """The data-dependent coefficients of one trapezoidal scan, frozen at the values of a forward pass.

    Attributes:
        fall: Logarithm of the decay, at most 0: ΔA.
        now: What multiplies a token when it is written: λΔ.
        before: What multiplies the token before, when this one is written; of the first token it is not used.
        B: Write vectors, rotated.
        C: Read vectors, rotated.
        skip: D per channel.
    """

    fall: Float[Tensor, "b L H"]
    now: Float[Tensor, "b L H"]
    before: Float[Tensor, "b L H"]
    B: Float[Tensor, "b L H N"]
    C: Float[Tensor, "b L H N"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per head."""
        return self.fall.shape[2]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.fall.shape[1]

    @property
    def state_size(self) -> int:
        """N, the state size per channel."""
        return self.B.shape[-1]

    @cached_property
    def at_once(self) -> DecayedAttention:
        """What tokens write when they come."""
        return DecayedAttention(self.fall, self.B * self.now[..., None], self.C, self.skip)

    @cached_property
    def afterwards(self) -> DecayedAttention:
        """What tokens write when the next one comes: token t of this matrix writes for token t - 1."""
        return DecayedAttention(self.fall, _later(self.B) * self.before[..., None], self.C, self.skip)

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, by two recurrences: O(L·D·N)."""
        return self.at_once.apply(v) + self.afterwards.apply(_later(v))

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by two reversed recurrences: O(L·D·N)."""
        return self.at_once.apply_transposed(v) + _earlier(self.afterwards.apply_transposed(v))

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels, with one channel per head: O(L·H·N)."""
        return self.at_once.pull(v) + _earlier(self.afterwards.pull(v)[..., None])[..., 0]

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero where the source comes after the target."""
        tile = self.at_once.tile(rows, columns, maps)
        sources = numbers(columns, tile.device)
        following = (sources + 1).clamp(max=self.length - 1)  # the last token has none, and writes once
        return tile + self.afterwards.tile(rows, following, maps) * (following > sources)


def _later(values: Float[Tensor, "b L *c"]) -> Float[Tensor, "b L *c"]:
    """Return at every token the value of the token before, zero at the first."""
    return F.pad(values, [0, 0] * (values.ndim - 2) + [1, 0])[:, :-1]


def _earlier(values: Float[Tensor, "b L *c"]) -> Float[Tensor, "b L *c"]:
    """Return at every token the value of the next, zero at the last."""
    return F.pad(values, [0, 0] * (values.ndim - 2) + [0, 1])[:, 1:]
