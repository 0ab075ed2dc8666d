"""What ALTI-Logit returns: every input's share of a readout, layer by layer, and the terms that no input has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.families import Kind
from mambascope.methods.direct import by_kind, share_by_kind


@dataclass(frozen=True, eq=False)
class LogitUpdates:
    """Every input's share of a readout, layer by layer.

    Attributes:
        scores: The share of each input in each layer's update; their sum over layers is the attribution. A shared
            attention that feeds a mixer (Zamba) has the share of the mixer's update that came through it.
        terms: The rest of the readout, by name: `residual` (the embedding at the readout's own positions), `bias` (of
            the mixers), `other` (parts that mix no tokens, such as MLPs), `constant` (final norm, head) and, where
            weights were left out, `untraced`.
        value: The readout, to which scores and terms sum.
        direct: What each mixer adds to the readout directly, layer by layer and in the order of the branches.
        kinds: The kind of each of these mixers.
        untraced: The absolute weights that were not traced back, added up (`traced_share`): the scores of an input, all
            inputs' errors added, are off by no more.
    """

    scores: Float[Tensor, "b layer L"]
    terms: Mapping[str, Float[Tensor, " b"]]
    value: Float[Tensor, " b"]
    direct: Float[Tensor, "b mixer"]
    kinds: tuple[Kind, ...]
    untraced: Float[Tensor, " b"]

    __repr__ = brief

    @property
    def by_kind(self) -> dict[Kind, Float[Tensor, " b"]]:
        """d_K, what all mixers of each kind add to the readout directly, with its sign."""
        return by_kind(self.direct, self.kinds)

    @property
    def shares(self) -> dict[Kind, Float[Tensor, " b"]]:
        """The share of each kind of mixer in the sizes of what all of them add to the readout directly."""
        return share_by_kind(self.direct, self.kinds)

    @property
    def conservation_error(self) -> Float[Tensor, " b"]:
        """|value - Σ scores - Σ terms| over the sum of all absolute values; only rounding, if all is well."""
        parts = [self.scores.double().sum(dim=(1, 2)), *(term.double() for term in self.terms.values())]
        size = self.scores.double().abs().sum(dim=(1, 2)) + sum(term.double().abs() for term in self.terms.values())
        return (self.value.double() - sum(parts)).abs() / size.clamp_min(1e-300)
