"""Film reviews, sentences (Pang & Lee 2005) and whole (2004), good or bad: those that are held out from training."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from mambascope.errors import InputError

#: A text's place in [0, 1) is a hash of its text; the models of this project were trained on those from 0.15 on and
#: chosen by those below 0.05 (training/sentiment.py).
TEST_PLACES = (0.05, 0.15)


def test_sentences(archive: Path) -> list[tuple[str, bool]]:
    """Return the held-out sentences of `sent_nltk_pang_lee/sentence_polarity.zip`, True for the good ones.

    Raises:
        InputError: if the archive cannot be read or lacks one of its two files.
    """
    sentences: dict[str, bool] = {}
    try:
        with zipfile.ZipFile(archive) as files:
            for good, name in ((False, "neg"), (True, "pos")):
                lines = files.read(f"sentence_polarity/rt-polarity.{name}").decode("utf-8").split("\n")
                sentences |= {" ".join(line.split()): good for line in lines if line.strip()}
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise InputError(f"{archive} could not be read: {error}") from error
    low, high = TEST_PLACES
    return [(text, good) for text, good in sentences.items() if low <= _place(text) < high]


def test_reviews(archive: Path) -> list[tuple[str, bool]]:
    """Return the held-out whole reviews of `sent_nltk_pang_lee/movie_reviews.zip`, True for the good ones.

    Raises:
        InputError: if the archive cannot be read or holds no reviews.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            names = sorted(name for name in files.namelist() if name.endswith(".txt") and "/cv" in name)
            reviews = [(" ".join(files.read(n).decode("utf-8", "replace").split()), "/pos/" in n) for n in names]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{archive} could not be read: {error}") from error
    if not reviews:
        raise InputError(f"{archive} holds no reviews (movie_reviews/pos/cv*.txt and neg/cv*.txt)")
    low, high = TEST_PLACES
    return [(text, good) for text, good in reviews if low <= _place(text) < high]


def _place(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
