"""Flipping and insertion: how a readout changes as sources are removed, or added, in the order of their scores.

Most relevant first (MoRF) and least relevant first (LeRF) are from Samek et al. 2017 (arXiv 1509.06321); the
differences of areas are those of Jafari et al. (arXiv 2406.07592). How a source is removed is up to the caller, who
provides the readout for any set of sources that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.numbering import shown

MODES = ("flipping", "insertion")
#: Takes b sets of sources to keep, (b, n), and returns the readout of each.
KeptReadout = Callable[[Bool[Tensor, "b n"]], Float[Tensor, " b"]]

TENTHS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class PerturbationCurves:
    """The readout in both orders.

    Attributes:
        mode: `flipping`: sources are removed from the whole; `insertion`: they are added to an empty input.
        fractions: The share of sources removed, or added, at each step.
        most_first: The readout when the most relevant sources are removed, or added, first.
        least_first: The same for the least relevant first.
    """

    mode: str
    fractions: Float[Tensor, " steps"]
    most_first: Float[Tensor, " steps"]
    least_first: Float[Tensor, " steps"]

    __repr__ = brief

    @property
    def area_most_first(self) -> float:
        """The area under the MoRF curve, by the trapezoid rule."""
        return area(self.fractions, self.most_first)

    @property
    def area_least_first(self) -> float:
        """The area under the LeRF curve, by the trapezoid rule."""
        return area(self.fractions, self.least_first)

    @property
    def gap(self) -> float:
        """ΔA_F = A_LeRF - A_MoRF of flipping, ΔA_I = A_MoRF - A_LeRF of insertion: larger is better, chance is 0."""
        gap = self.area_least_first - self.area_most_first
        return gap if self.mode == "flipping" else -gap

    def rows(self) -> dict[str, float]:
        """Return areas and gap by their names in a table of results."""
        return {
            f"{self.mode}_area_most_first": self.area_most_first,
            f"{self.mode}_area_least_first": self.area_least_first,
            f"{self.mode}_gap": self.gap,
        }


def perturbation_curves(
    scores: Num[Tensor, " n"],
    readout: KeptReadout,
    mode: str,
    *,
    candidates: Bool[Tensor, " m"] | None = None,
    fractions: Sequence[float] = TENTHS,
    batch: int = 16,
) -> PerturbationCurves:
    """Return the readout's curves in the orders that a method's scores give.

    Among equal scores the earlier source comes first in both orders. Scores that are all equal therefore give the same
    curve twice, and a gap of 0.

    Args:
        scores: One score per source, signed: the most relevant source is the one that counts most *for* the readout.
        readout: Takes sets of sources to keep, (b, n), and returns the readout of each.
        mode: `flipping` or `insertion`.
        candidates: The sources that may be removed; the rest (special tokens, padding) are always kept. None for all.
        fractions, batch: See `perturbation_curve`.

    Raises:
        InputError: if a candidate's score is not finite; and see `perturbation_curve`.
    """
    candidates = torch.ones(len(scores), dtype=torch.bool) if candidates is None else candidates.cpu()
    if candidates.shape != scores.shape:
        raise InputError(f"{len(scores)} scores need as many candidate marks, found {len(candidates)}")
    places = candidates.nonzero().flatten()
    found = scores.cpu()[places]
    if not found.isfinite().all():
        raise InputError("a source's score is NaN or infinite; leave such sources out of the candidates")
    orders = [places[found.argsort(descending=descending, stable=True)] for descending in (True, False)]
    kept = torch.cat([kept_sets(order, len(scores), mode, fractions) for order in orders])
    most_first, least_first = _values(readout, kept, batch).chunk(2)
    return PerturbationCurves(mode, torch.tensor(fractions, dtype=torch.float64), most_first, least_first)


def perturbation_curve(
    order: Int[Tensor, " m"],
    length: int,
    readout: KeptReadout,
    mode: str,
    *,
    fractions: Sequence[float] = TENTHS,
    batch: int = 16,
) -> Float[Tensor, " steps"]:
    """Return the readout at each fraction of sources removed (flipping) or added (insertion) in a given order.

    Args:
        order: Positions of the sources to remove or add, first to last; sources that are not in it are always kept.
        length: Number of all sources, n.
        readout: Takes sets of sources to keep, (b, n), and returns the readout of each.
        mode: `flipping` or `insertion`.
        fractions: Rising shares of the order, within 0 to 1, at which the readout is taken; the number of sources is
            rounded, halves up. By default every tenth, so that the curves of several texts can be averaged;
            `[k / m for k in range(m + 1)]` takes every source.
        batch: How many sets of sources the readout gets at a time; equal sets are computed once.

    Raises:
        InputError: if the order is empty or has a position twice or out of range, the fractions do not rise within 0 to
            1, or the readout is not one finite number per set.
    """
    return _values(readout, kept_sets(order.cpu(), length, mode, fractions), batch)


def kept_sets(
    order: Int[Tensor, " m"], length: int, mode: str, fractions: Sequence[float]
) -> Bool[Tensor, "steps length"]:
    """Return which sources are kept at each fraction; arguments and errors are those of `perturbation_curve`."""
    if mode not in MODES:
        raise InputError(f"unknown mode {shown(mode)}; choose 'flipping' or 'insertion'")
    if not len(order) or len(set(order.tolist())) < len(order) or int(order.min()) < 0 or int(order.max()) >= length:
        raise InputError(f"an order of sources lists some of the positions 0 to {length - 1}, each once")
    steps = torch.tensor(fractions, dtype=torch.float64)
    if len(steps) < 2 or not (steps.diff() > 0).all() or steps[0] < 0 or steps[-1] > 1:
        raise InputError(f"fractions must be two or more, rising within 0 to 1, found {list(fractions)}")
    counts = (steps * len(order) + 0.5).floor().long()
    turn = torch.full((length,), length)
    turn[order] = torch.arange(len(order))
    touched = turn < counts[:, None]
    return ~touched if mode == "flipping" else touched | (turn == length)


def area(fractions: Float[Tensor, " steps"], values: Float[Tensor, " steps"]) -> float:
    """Return the area under a curve by the trapezoid rule; over fractions 0 to 1 it is the curve's mean height."""
    return float(torch.trapezoid(values.double(), fractions.double()))


def _values(readout: KeptReadout, kept: Bool[Tensor, "sets n"], batch: int) -> Float[Tensor, " sets"]:
    distinct, places = kept.unique(dim=0, return_inverse=True)
    values = []
    for sets in distinct.split(batch):
        found = readout(sets)
        if found.shape != sets.shape[:1] or not found.isfinite().all():
            raise InputError(
                f"the readout must be one finite number for each of {len(sets)} sets, found {tuple(found.shape)}"
                + ("" if found.isfinite().all() else " with numbers that are not finite")
            )
        values.append(found.detach().double().cpu())
    return torch.cat(values)[places]
