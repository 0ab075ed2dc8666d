"""Texts with a label, good or bad: the held-out film reviews, and a user's own texts.

The reviews are Pang & Lee's: sentences (2005) and whole reviews (2004).
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from mambascope.errors import InputError
from mambascope.evaluate.data.folder import DAMAGED_ARCHIVE
from mambascope.evaluate.data.records import Record, placed_records
from mambascope.loading.json_files import one_line
from mambascope.numbering import shown

TEXT_COLUMNS = ("text", "sentence", "review")
#: A hash gives each text a place in [0, 1). The models of this project were trained on the texts from 0.15 on, and
#: chosen on those below 0.05 (training/sentiment.py).
TEST_PLACES = (0.05, 0.15)


def test_sentences(archive: Path) -> list[tuple[str, bool]]:
    """Return the held-out sentences of `sent_nltk_pang_lee/sentence_polarity.zip`, with True for the good ones.

    Raises:
        InputError: if the archive cannot be read or lacks one of its two files.
    """
    sentences: dict[str, bool] = {}
    try:
        with zipfile.ZipFile(archive) as files:
            for good, name in ((False, "neg"), (True, "pos")):
                lines = files.read(f"sentence_polarity/rt-polarity.{name}").decode("utf-8").split("\n")
                sentences |= {" ".join(line.split()): good for line in lines if line.strip()}
    except DAMAGED_ARCHIVE as error:
        raise InputError(f"{archive} could not be read: {one_line(error)}") from error
    low, high = TEST_PLACES
    return [(text, good) for text, good in sentences.items() if low <= _place(text) < high]


def test_reviews(archive: Path) -> list[tuple[str, bool]]:
    """Return the held-out whole reviews of `sent_nltk_pang_lee/movie_reviews.zip`, with True for the good ones.

    Raises:
        InputError: if the archive cannot be read or holds no reviews.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            names = sorted(name for name in files.namelist() if name.endswith(".txt") and "/cv" in name)
            reviews = [(" ".join(files.read(n).decode("utf-8", "replace").split()), "/pos/" in n) for n in names]
    except DAMAGED_ARCHIVE as error:
        raise InputError(f"{archive} could not be read: {one_line(error)}") from error
    if not reviews:
        raise InputError(f"{archive} holds no reviews (movie_reviews/pos/cv*.txt and neg/cv*.txt)")
    low, high = TEST_PLACES
    return [(text, good) for text, good in reviews if low <= _place(text) < high]


def labelled_texts(source: str) -> list[tuple[str, bool]]:
    """Return a user's own texts, white space collapsed to single spaces, with True for the good ones.

    Args:
        source: A source that `records` can read. The text is in its column `text`, `sentence` or `review` (the first
            that exists), and the column `label` has 1 for good and 0 for bad.

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
    raise InputError(f"{record.place} must have the label 0 or 1, found {shown(label)}")


def _place(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
