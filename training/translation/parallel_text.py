"""Sentence pairs: which are held out, and how those that are trained on are made to resemble what is asked later."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Shares of the source sentences of Tatoeba that are held out for choosing and for the final figures.
VALIDATION_SHARE, TEST_SHARE = 0.01, 0.02
#: One pair in so many is written without its first capitals, as words within sentences and the Hansards are.
LOWERED = 4
#: One pair in so many goes into one row with one or two others.
IN_COMPANY = 3


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation, spaced."""

    source: str
    target: str


@dataclass(frozen=True)
class Split:
    """Pairs to train on, to choose by, and to report on."""

    training: list[Pair]
    validation: list[Pair]
    test: list[Pair]


def sentence_key(text: str) -> str:
    """Return what makes two sentences the same for the split: their letters and digits alone."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def split(pairs: Iterable[Pair], always_training: Iterable[Pair] = ()) -> Split:
    """Return the pairs split by source sentence; a sentence's place depends on its letters alone.

    What shares a source or a target sentence with a held-out pair is not trained on.
    """
    parts: dict[str, list[Pair]] = {"training": [], "validation": [], "test": []}
    for pair in pairs:
        parts[_place(sentence_key(pair.source))].append(pair)
    held = parts["validation"] + parts["test"]
    sources, targets = {sentence_key(p.source) for p in held}, {sentence_key(p.target) for p in held}
    candidates = [*parts["training"], *always_training]
    parts["training"] = [
        p for p in candidates if sentence_key(p.source) not in sources and sentence_key(p.target) not in targets
    ]
    return Split(**parts)


def _place(key: str) -> str:
    share = _draw(key)
    if share < VALIDATION_SHARE:
        return "validation"
    return "test" if share < VALIDATION_SHARE + TEST_SHARE else "training"


def _draw(key: str) -> float:
    """Return a number in [0, 1) that depends on the string alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def lowered(pair: Pair) -> Pair:
    """Return an English-French pair without the capitals that begin its sentences."""
    english, french = pair.source, pair.target
    if not re.match(r"I\b", english):
        english = english[:1].lower() + english[1:]
    return Pair(english, french[:1].lower() + french[1:])


def with_lowered(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs with one in `LOWERED` of them lowered, chosen by its target sentence."""
    return [lowered(pair) if _draw("lower " + pair.target) < 1 / LOWERED else pair for pair in pairs]


def with_company(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs with one in `IN_COMPANY` of them put together by twos and threes, chosen by their sentences.

    Tatoeba's sentences are half as long as Europarl's; a model that has only seen short rows loses its place in long
    ones.
    """
    alone, company = [], []
    for pair in pairs:
        place = _draw(f"company {pair.source} {pair.target}")
        if place < 1 / IN_COMPANY:
            company.append((place, pair.source, pair.target))
        else:
            alone.append(pair)
    company.sort()
    first, size = 0, 2
    while first < len(company):
        group = company[first : first + size]
        alone.append(Pair(" ".join(one[1] for one in group), " ".join(one[2] for one in group)))
        first, size = first + size, 5 - size
    return alone
