"""Running text that sentences are hidden in: drawn by characters, cut by tokens, opened where its sentences end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mambascope.errors import InputError
from mambascope.evaluate.data.folder import data_file
from mambascope.evaluate.data.novels import held_out_novels, text_files
from mambascope.inputs.tokens import text_ids

#: Characters of text that are cut for each token of a haystack, to have enough.
CHARACTERS = 8


def haystacks(source: str | None, tokens: int) -> list[str]:
    """Return texts from which so many tokens can be drawn: of the held-out novels, or of a user's own .txt files.

    Raises:
        InputError: if there are none, none is long enough, or one cannot be read.
    """
    found = text_files(source) if source else held_out_novels(data_file("lm_novels", "novels.tar.xz"))
    least = 2 * CHARACTERS * tokens + 1
    texts = [text for text in found.values() if len(text) >= least]
    if not texts:
        longest = max(map(len, found.values()))
        raise InputError(f"{source} holds texts of at most {longest} characters; haystacks need {least} or more")
    return texts


def drawn_text(texts: Sequence[str], draw: Callable[[int], int], tokens: int) -> str:
    """Return a piece of one of the texts that holds so many tokens, from a sentence's beginning if there is one.

    Args:
        texts: As `haystacks` returns them for so many tokens or more.
        draw: Returns a random number from 0 to below its argument.
        tokens: Tokens wanted.
    """
    text = texts[draw(len(texts))]
    start = draw(len(text) - 2 * CHARACTERS * tokens)
    sentence = text.find(". ", start, start + CHARACTERS * tokens) + 1
    start = sentence or start
    return text[start : start + CHARACTERS * tokens]


def hidden(
    tokenizer: Any, text: str, room: int, sentences: Sequence[Sequence[int]], places: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Return a text's first `room` tokens with sentences put between its own, and where each of them begins.

    Sentences keep the order of their places and stand apart, each in a gap of its own: between the text's sentences,
    or, if these are too few, anywhere between its tokens.

    Args:
        tokenizer: The model's.
        text: The haystack.
        room: Tokens of the haystack to keep.
        sentences: Token ids of the sentences to hide.
        places: Where, as shares of the gaps there are, from 0 to below 1.
    """
    stop = text_ids(tokenizer, " a.")[-1]
    hay = text_ids(tokenizer, text)[: max(room, 0)]
    gaps = [0, *(place + 1 for place, token in enumerate(hay) if token == stop)]
    if len(gaps) < len(sentences):
        gaps = list(range(len(hay) + 1))
    ids: list[int] = []
    begins, done = [0] * len(sentences), 0
    order = sorted(range(len(sentences)), key=lambda k: places[k])
    for number, gap in zip(order, _apart([int(place * len(gaps)) for place in places], len(gaps)), strict=True):
        ids += hay[done : gaps[gap]]
        begins[number], done = len(ids), gaps[gap]
        ids += sentences[number]
    return ids + hay[done:], begins


def _apart(wanted: Sequence[int], gaps: int) -> list[int]:
    """Return the gaps that are taken, in order: each one wanted, or the free one nearest to it."""
    taken: list[int] = []
    for gap in wanted:
        free = [k for k in range(gaps) if k not in taken]
        taken.append(min(free, key=lambda k: abs(k - gap)) if free else gap)
    return sorted(taken)
