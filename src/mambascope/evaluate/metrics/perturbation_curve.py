"""Flipping and insertion: what becomes of a readout as its sources go, or come, in the order of their scores.

Most relevant first (MoRF) and least relevant first (LeRF), Samek et al. 2017 (arXiv 1509.06321); the differences of
areas are those of Jafari et al. (arXiv 2406.07592). How a source is taken away is the caller's choice: the curves
ask for the readout with sets of sources kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError

MODES = ("flipping", "insertion")
#: Given which sources are kept, (b, n), returns the readout of each of the b texts.
KeptReadout = Callable[[Bool[Tensor, "b n"]], Float[Tensor, " b"]]

TENTHS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class PerturbationCurves:
    """The readout along both orders.

    Attributes:
        mode: `flipping`, sources are removed from the whole; or `insertion`, they are added to nothing.
        fractions: The share of sources removed, or added, at each step.
        most_first: The readout with the most relevant sources going, or coming, first.
        least_first: The same with the least relevant first.
    """

    mode: str
    fractions: Float[Tensor, " steps"]
    most_first: Float[Tensor, " steps"]
    least_first: Float[Tensor, " steps"]

    __repr__ = brief

    @property
    def area_most_first(self) -> float:
        """The area under the MoRF curve, by trapezoids."""
        return area(self.fractions, self.most_first)

    @property
    def area_least_first(self) -> float:
        """The area under the LeRF curve, by trapezoids."""
        return area(self.fractions, self.least_first)

    @property
    def gap(self) -> float:
        """ΔA_F = A_LeRF - A_MoRF of flipping, ΔA_I = A_MoRF - A_LeRF of insertion: larger is better, chance is 0."""
        gap = self.area_least_first - self.area_most_first
        return gap if self.mode == "flipping" else -gap

    def rows(self) -> dict[str, float]:
        """Return areas and gap under their names in a table of results."""
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
    """Return a readout's curves along a method's scores.

    Of equal scores the earlier source comes first in both orders, so that scores that are all alike give twice the same
    curve, and a gap of 0.

    Args:
        scores: One score per source, signed: the most relevant source is the one that speaks most *for* the readout.
        readout: Given which sources are kept, (b, n), returns the readout of each text.
        mode: `flipping` or `insertion`.
        candidates: The sources that may be removed; the rest (special tokens, padding) are always kept. None for all.
        fractions: See `perturbation_curve`.
        batch: See `perturbation_curve`.

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
        order: Positions of the sources that go or come, first to last; sources that are not in it are always kept.
        length: Number of sources in all, n.
        readout: Given which sources are kept, (b, n), returns the readout of each text.
        mode: `flipping` or `insertion`.
        fractions: Rising shares of the order, from 0 to 1 or a part of that, at which the readout is taken; the number
            of sources is rounded, halves up. By default every tenth, so that texts' curves can be averaged;
            `[k / m for k in range(m + 1)]` takes every source.
        batch: Sets of sources given to the readout at a time; a set that is asked for twice runs once.

    Raises:
        InputError: if the order has a place twice, none, or one out of range, the fractions do not rise within 0 to 1,
            or the readout is not one finite number per text.
    """
    return _values(readout, kept_sets(order.cpu(), length, mode, fractions), batch)


def kept_sets(
    order: Int[Tensor, " m"], length: int, mode: str, fractions: Sequence[float]
) -> Bool[Tensor, "steps length"]:
    """Return which sources are kept at each fraction; arguments and errors as `perturbation_curve`."""
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; choose 'flipping' or 'insertion'")
    if not len(order) or len(set(order.tolist())) < len(order) or int(order.min()) < 0 or int(order.max()) >= length:
        raise InputError(f"an order of sources names some of the places 0 to {length - 1}, each once")
    steps = torch.tensor(fractions, dtype=torch.float64)
    if len(steps) < 2 or not (steps.diff() > 0).all() or steps[0] < 0 or steps[-1] > 1:
        raise InputError(f"fractions must be two or more, rising within 0 to 1, found {list(fractions)}")
    counts = (steps * len(order) + 0.5).floor().long()
    turn = torch.full((length,), length)
    turn[order] = torch.arange(len(order))
    touched = turn < counts[:, None]
    return ~touched if mode == "flipping" else touched | (turn == length)


def area(fractions: Float[Tensor, " steps"], values: Float[Tensor, " steps"]) -> float:
    """Return the area under a curve by trapezoids; over fractions 0 to 1 it is the curve's mean height."""
    return float(torch.trapezoid(values.double(), fractions.double()))


def _values(readout: KeptReadout, kept: Bool[Tensor, "sets n"], batch: int) -> Float[Tensor, " sets"]:
    distinct, places = kept.unique(dim=0, return_inverse=True)
    values = []
    for part in distinct.split(batch):
        found = readout(part)
        if found.shape != part.shape[:1] or not found.isfinite().all():
            raise InputError(
                f"the readout must be one finite number for each of {len(part)} texts, found {tuple(found.shape)}"
                + ("" if found.isfinite().all() else " with numbers that are not finite")
            )
        values.append(found.detach().double().cpu())
    return torch.cat(values)[places]
