"""Softmax attention as a matrix per head that mixes values: the probabilities are the coefficients ([6] section 2.2).

    o_i[d] = Σ_j p_ij[h(d)] v_j[d],   v = W_V x + b_V

The P channels of a head share its matrix. In p, pairs removed by the causal mask or as padding are exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Places
from mambascope.operators.per_head import PerHead


@dataclass(frozen=True, eq=False)
class SoftmaxAttention(PerHead):
    """The probabilities of one attention layer, frozen at the values of a forward pass.

    Attributes:
        p: Probabilities per head; row i is the target, column j the source.
        skip: Zero for every channel: attention has no direct path.
    """

    p: Float[Tensor, "b H L L"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per head."""
        return self.p.shape[1]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.p.shape[-1]

    @property
    def state_size(self) -> int:
        """N = L: the state of attention is every token's key and value, so it grows with the text."""
        return self.p.shape[-1]

    @cached_property
    def causal(self) -> bool:
        """Whether no target depends on later tokens.

        Read from p: in transformers' eager attention, a decoder's row for a padded token with nothing to attend to is
        uniform over all tokens. A batch with such rows counts as not causal, and the rows are kept.
        """
        return not bool(self.p.triu(1).any())

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return p v per channel: O(L²·D), not linear in L as for a scan."""
        return self._by_head(self.p, v)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ p per channel: O(L²·D)."""
        return self._by_head(self.p.transpose(-1, -2), v)

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of p over heads: O(L²·H)."""
        return torch.einsum("bi,bhij->bj", v, self.p) / self.maps

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return p for the given targets and sources.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Heads to return, all by default.
        """
        part = self.p[:, :, rows][..., columns]
        return part.clone() if maps is None else part[:, torch.as_tensor(maps, device=part.device)]

    def _by_head(self, matrix: Tensor, v: Tensor) -> Float[Tensor, "b L D"]:
        mixed = matrix @ rearrange(v, "b L (h p) -> b h L p", h=self.maps)
        return rearrange(mixed, "b h L p -> b L (h p)")
