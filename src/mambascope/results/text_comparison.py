"""Scores of several models and methods on one text, or on two, column by column, and where they are furthest apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.brief import brief
from mambascope.ranks import rank_correlation


@dataclass(frozen=True, eq=False)
class ComparedRow:
    """One method on one model.

    Attributes:
        results: Its result for each text.
        scores: The score of each column in each text, the sum over the column's tokens, in float64; NaN where the
            text has no token there.
        targets: The column of the target in each text.
    """

    results: tuple[Attribution, ...]
    scores: Float[Tensor, "text column"]
    targets: tuple[int, ...]

    __repr__ = brief

    @property
    def name(self) -> str:
        """The method and the model."""
        return f"{self.results[0].method} on {self.results[0].model.name}"

    @property
    def signed(self) -> bool:
        """Whether scores can be negative."""
        return self.results[0].signed

    @cached_property
    def shares(self) -> Float[Tensor, "text column"]:
        """The scores over the sum of the first text's absolute ones: one scale for all rows."""
        total = self.scores[0].abs().nansum()
        return self.scores / total if total > 0 else self.scores

    @property
    def values(self) -> tuple[float | None, ...]:
        """The number explained in each text; None for methods that explain a position."""
        return tuple(one.target.value for one in self.results)


class Contrast(NamedTuple):
    """What two rows, or one row's two texts, give one column.

    Attributes:
        column: The column's number.
        rows: The numbers of the two rows; for two texts twice the same.
        shares: Both shares: signed if both methods are, else absolute.
        difference: The second less the first.
    """

    column: int
    rows: tuple[int, int]
    shares: tuple[float, float]
    difference: float


class Agreement(NamedTuple):
    """How far two rows agree on one text.

    Attributes:
        rows: The numbers of the two rows.
        elsewhere: Half the sum of the absolute differences of their shares: what one places elsewhere than the other.
        rank_correlation: Spearman's ρ of their shares; None where one of them has no order.
    """

    rows: tuple[int, int]
    elsewhere: float
    rank_correlation: float | None


@dataclass(frozen=True, eq=False)
class TextComparison:
    """Methods and models compared on one text, or on two.

    Attributes:
        rows: One for each method on each model that it can read.
        names: For each text, what each column is in it; empty where the text has nothing there.
        left_out: Why a method on a model has no row, a sentence each.
        patched: For each model, what parts of the first text's run bring back in the second's, if that was asked.
        merged: Whether columns are what several tokenizers have in common, and not tokens.
    """

    rows: tuple[ComparedRow, ...]
    names: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...] = ()
    patched: tuple[Attribution, ...] = ()
    merged: bool = False

    __repr__ = brief

    @property
    def texts(self) -> int:
        """How many texts there are: one or two."""
        return len(self.names)

    @cached_property
    def largest(self) -> float:
        """The largest absolute share of all rows, by which all are drawn."""
        return max((float(row.shares.abs().nan_to_num().max()) for row in self.rows), default=0.0)

    @property
    def changed(self) -> tuple[int, ...]:
        """The columns in which the two texts differ."""
        return tuple(k for k, names in enumerate(zip(*self.names, strict=True)) if len(set(names)) > 1)

    def named(self, column: int) -> str:
        """Return what a column is: the token, or what stands beside what."""
        names = dict.fromkeys(names[column] for names in self.names)
        return " → ".join(repr(name) if name else "nothing" for name in names)

    def contrasts(self, row: int | None = None) -> list[Contrast]:
        """Return for each column what is furthest apart there, the largest difference first.

        Of one text: the two rows that differ most. Of two texts: what the row's share in the second is more than in
        the first; nothing has no share.

        Args:
            row: The row, for two texts.
        """
        pairs = [(row or 0, row or 0)] if self.texts == 2 else list(combinations(range(len(self.rows)), 2))
        each = [(pair, [shares.tolist() for shares in self._pair(pair)]) for pair in pairs]
        found = []
        for column in range(len(self.names[0])):
            both = ((pair, first[column], second[column]) for pair, (first, second) in each)
            apart = [Contrast(column, pair, (a, b), b - a) for pair, a, b in both if a == a and b == b]
            found += [max(apart, key=lambda one: abs(one.difference))] if apart else []
        return sorted(found, key=lambda one: -abs(one.difference))

    def differences(self) -> list[tuple[str, Float[Tensor, " column"]]]:
        """Return lines of differences of shares, each with its name; none for one row on one text.

        Two texts have a line for each row: the second's shares less the first's. Two rows have one line: the second's
        less the first's. For more rows it is the size of the largest difference between two of them.
        """
        if self.texts == 2:
            pairs = [self._pair((number, number)) for number in range(len(self.rows))]
            return [
                (f"change of {row.name}", second - first) for row, (first, second) in zip(self.rows, pairs, strict=True)
            ]
        if len(self.rows) < 2:
            return []
        line = torch.zeros(len(self.names[0]), dtype=torch.float64)
        for one in self.contrasts():
            line[one.column] = one.difference
        return [("row 2 less row 1", line)] if len(self.rows) == 2 else [("largest difference of two rows", line.abs())]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values: what `mambascope compare --json` prints."""
        return {
            "columns": [list(names) for names in zip(*self.names, strict=True)],
            "merged": self.merged,
            "rows": [
                {
                    "method": row.results[0].method,
                    "model": row.results[0].model.name,
                    "values": list(row.values),
                    "scores": _plain(row.scores),
                    "shares": _plain(row.shares),
                    "targets": list(row.targets),
                    "results": [one.to_dict() for one in row.results],
                }
                for row in self.rows
            ],
            "differences": [{"name": name, "shares": _plain(line)} for name, line in self.differences()],
            "agreements": [] if self.texts == 2 else [one._asdict() for one in self.agreements()],
            "patched": [one.to_dict() for one in self.patched],
            "left_out": list(self.left_out),
        }

    def agreements(self) -> list[Agreement]:
        """Return how far every two rows agree on one text, those that agree least first."""
        found = []
        for pair in combinations(range(len(self.rows)), 2):
            first, second = self._pair(pair)
            both = first.isfinite() & second.isfinite()
            ordered = rank_correlation(first[both], second[both]) if int(both.sum()) > 1 else float("nan")
            apart = float((second - first).nan_to_num().abs().sum()) / 2
            found.append(Agreement(pair, apart, None if ordered != ordered else ordered))
        return sorted(found, key=lambda one: -one.elsewhere)

    def _pair(self, rows: Sequence[int]) -> tuple[Float[Tensor, " column"], Float[Tensor, " column"]]:
        """Return the shares of two rows that are compared, or of one row in both texts."""
        first, second = (self.rows[number] for number in rows)
        if self.texts == 2:
            both = first.shares.nan_to_num()
            return both[0], both[1]
        shares = first.shares[0], second.shares[0]
        return shares if first.signed and second.signed else (shares[0].abs(), shares[1].abs())


def _plain(values: Tensor) -> list[Any]:
    """Return nested lists with None for NaN."""
    if values.ndim > 1:
        return [_plain(line) for line in values]
    return [None if value != value else value for value in values.tolist()]


def compared_row(
    results: Sequence[Attribution], units: Sequence[Sequence[range]], targets: Sequence[int]
) -> ComparedRow:
    """Return a row whose columns are units of tokens.

    Args:
        results: The result for each text.
        units: For each text, the tokens of each column.
        targets: The target's column in each text.
    """
    scores = []
    for result, columns in zip(results, units, strict=True):
        row = result.row().tolist()
        scores.append([sum(row[unit.start : unit.stop]) if unit else float("nan") for unit in columns])
    return ComparedRow(tuple(results), torch.tensor(scores, dtype=torch.float64), tuple(targets))
