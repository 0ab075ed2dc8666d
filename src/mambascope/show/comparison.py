"""Several models on one picture: what each drew from, with one method per column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mambascope.attribution import Attribution
from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.show.check import require_finite, require_picture


@dataclass(frozen=True, eq=False)
class Compared:
    """One model's row of a comparison.

    Attributes:
        results: One result per column; None where the method cannot read the model.
        reasons: Why there is no result, one per column; empty where there is one.
    """

    results: tuple[Attribution | None, ...]
    reasons: tuple[str, ...]

    __repr__ = brief

    @property
    def first(self) -> Attribution:
        """The first result there is."""
        return next(result for result in self.results if result is not None)


def require_comparable(rows: Sequence[Compared], columns: Sequence[str]) -> None:
    """Refuse a comparison that cannot be drawn.

    Raises:
        InputError: if there is nothing to compare, a row has not as many results as there are columns, a model has no
            result at all, a result is of a text, or a score is not a finite number.
    """
    if not rows or not columns:
        raise InputError("there is nothing to compare: name at least one model and one method")
    for row in rows:
        if len(row.results) != len(columns) or len(row.reasons) != len(columns):
            raise InputError(f"a row of {len(row.results)} results does not fit {len(columns)} columns")
        if not any(row.results):
            raise InputError(f"none of the methods {', '.join(columns)} can read one of the models: {row.reasons[0]}")
        for result in row.results:
            if result is not None:
                require_picture(result)
                require_finite(result)


def same_name(method: str, column: str) -> bool:
    """Return whether a column is named after the method in it."""
    return method == column.replace(" ", "-")
