"""Recurrences with one state per channel, whose decay and writing depend on the tokens, as an operator.

    h_k = a_k ⊙ h_{k-1} + write_k ⊙ v_k,      a_k = exp(fall_k)

A target reads the state after its own token has been written (RG-LRU: De et al., arXiv 2402.19427), or the state before
it, and its own token by a weight of its own (RWKV-4: Peng et al., arXiv 2305.13048):

    alpha_ij = write_j exp(Σ_{k=j+1..i} fall_k)                                  for j ≤ i, or
    alpha_ij = read_i write_j exp(Σ_{k=j+1..i-1} fall_k) for j < i,   alpha_ii = own_i

Sums of `fall` are taken in float64, so that their differences do not lose precision with the length of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Block, Places, future, numbers
from mambascope.operators.decays import Fallen, decay_from
from mambascope.operators.per_head import PerHead
from mambascope.operators.recurrence import channel_recurrence, reverse_in_time


@dataclass(frozen=True, eq=False)
class GatedRecurrence(PerHead):
    """The matrices of one recurrence that reads after writing, frozen at the gates of a forward pass.

    Several channels in a row may share a state: channel d belongs to map d // (D / M).

    Attributes:
        fall: Logarithm of the decay, at most 0.
        write: What a token's value is multiplied by when it enters the state.
        skip: Zero: a token reaches its own output through the state alone.
    """

    fall: Float[Tensor, "b L M"]
    write: Float[Tensor, "b L M"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per state."""
        return self.fall.shape[2]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.fall.shape[1]

    @property
    def state_size(self) -> int:
        """N, the numbers of state per channel."""
        return 1

    @cached_property
    def fallen(self) -> Fallen:
        """Σ_{k≤i} fall_k, in float64: (b, M, L)."""
        return Fallen.of(self.fall.double().transpose(1, 2), dim=-1)

    def reading(self, number: int) -> GatedRecurrence:
        """Return the recurrence whose outputs are the states, of which every channel has one."""
        del number
        return GatedRecurrence(self.fall, self.write, self.skip)

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v."""
        return self._states(self._wide(self.write) * v)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel."""
        return self._wide(self.write) * self._flows(v)

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero where the source comes after the target."""
        fallen = self.fallen if maps is None else self.fallen[:, list(maps)]
        write = self.write if maps is None else self.write[..., list(maps)]
        exponent = fallen[..., rows, None] - fallen[..., None, columns]
        masked = future(Block(rows, columns), write.device)
        exponent = exponent if masked is None else exponent.masked_fill(masked, -torch.inf)
        return decay_from(exponent.to(write.dtype)) * write[:, columns].transpose(1, 2)[:, :, None]

    def _wide(self, values: Float[Tensor, "b L M"]) -> Float[Tensor, "b L D"]:
        """Return values per channel."""
        return self.channels(values.transpose(1, 2)).transpose(1, 2)

    def _states(self, written: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return h after every token, given what enters it."""
        return _decayed(written, self._wide(self.fall))

    def _flows(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return Σ_{i≥k} v_i exp(Σ_{k+1..i} fall) for every token k, by the same recurrence run backwards."""
        return _decayed(v.flip(1), reverse_in_time(self._wide(self.fall))).flip(1)


@dataclass(frozen=True, eq=False)
class WeightedAverage(GatedRecurrence):
    """The matrices of one recurrence that reads before writing, and weighs a target's own token apart.

    Attributes:
        read: What a target multiplies the state before it by.
        own: What it multiplies its own value by.
    """

    read: Float[Tensor, "b L M"]
    own: Float[Tensor, "b L M"]

    __repr__ = brief

    @classmethod
    def of_keys(
        cls,
        key: Float[Tensor, "b L M"],
        decay: Float[Tensor, " M"],
        bonus: Float[Tensor, " M"],
        skip: Float[Tensor, " D"],
    ) -> WeightedAverage:
        """Return RWKV-4's average ([Peng et al.] eq. 16): weights exp(key_j - (i-1-j) decay) and exp(bonus + key_i).

        With m_i the logarithm of the weights' sum up to token i, as the next one finds them, the state is divided by
        exp(m_i) throughout, so that no number overflows: what it keeps and what it takes in add up to 1.

        Args:
            key: k, the logarithm of every token's weight.
            decay: What a weight's logarithm loses per token, at least 0.
            bonus: u, what a token's logarithm gains while it is the target itself.
            skip: Zero per channel.
        """
        sums, before = [], torch.full_like(key[:, 0], -torch.inf)
        for k in range(key.shape[1]):
            before = torch.logaddexp(before - decay, key[:, k])
            sums.append(before)
        total = torch.stack(sums, dim=1)
        earlier = F.pad(total[:, :-1], (0, 0, 1, 0), value=-torch.inf)
        weights = torch.logaddexp(earlier, bonus + key)
        fall = F.pad((earlier - decay - total)[:, 1:], (0, 0, 1, 0))  # nothing comes before the first token
        return cls(
            fall=fall,
            write=(key - total).exp(),
            skip=skip,
            read=(earlier - weights).exp(),
            own=(bonus + key - weights).exp(),
        )

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v."""
        before = F.pad(super().apply(v)[:, :-1], (0, 0, 1, 0))
        return self._wide(self.read) * before + self._wide(self.own) * v

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel."""
        read = F.pad((self._wide(self.read) * v)[:, 1:], (0, 0, 0, 1))
        return super().apply_transposed(read) + self._wide(self.own) * v

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero where the source comes after the target."""
        read, own = (part if maps is None else part[..., list(maps)] for part in (self.read, self.own))
        targets, sources = (numbers(places, read.device) for places in (rows, columns))
        before = super().tile((targets - 1).clamp(min=0), columns, maps)
        weighed = before * read[:, rows].transpose(1, 2)[..., None]
        at_target = own[:, rows].transpose(1, 2)[..., None]
        return torch.where(targets[:, None] == sources, at_target, weighed * (sources < targets[:, None]))


def _decayed(written: Float[Tensor, "b L D"], fall: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
    """Return h_k = exp(fall_k) h_{k-1} + written_k."""
    one = written.new_ones(())
    shared = one.expand(*written.shape[:2], 1)
    return channel_recurrence(written, -fall, -one.expand(written.shape[2], 1), shared, shared)
