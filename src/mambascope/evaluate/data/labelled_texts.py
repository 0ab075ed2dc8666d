"""Texts that are good or bad, from whatever source (`records.py`)."""

from __future__ import annotations

from typing import Any

from mambascope.errors import InputError
from mambascope.evaluate.data.records import Record, placed_records

TEXT_COLUMNS = ("text", "sentence", "review")


def labelled_texts(source: str) -> list[tuple[str, bool]]:
    """Return the texts of a source with white space closed, True for those that speak well of their subject.

    Args:
        source: As `records` takes it, with a column `text`, `sentence` or `review` (the first of these that there is)
            and a column `label`: 1 for good and 0 for bad.

    Raises:
        InputError: naming file and line, if a record lacks its text or its label.
    """
    return [(_text(record), _label(record)) for record in placed_records(source)]


def _text(record: Record) -> str:
    column = next((name for name in TEXT_COLUMNS if name in record.values), None)
    if column is None:
        raise InputError(
            f"{record.place} has none of the columns {', '.join(TEXT_COLUMNS)}: found {', '.join(record.values)}"
        )
    text = record.values[column]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{record.place} has no text in its column {column}")
    return " ".join(text.split())


def _label(record: Record) -> bool:
    label: Any = record.values.get("label")
    if label in (0, 1):
        return bool(label)
    if isinstance(label, str) and label.strip() in ("0", "1"):
        return label.strip() == "1"
    raise InputError(f"{record.place} must have the label 0 or 1, found {label!r}")
