"""Haystacks: running text to hide sentences in, from held-out novels or from a user's own files.

A piece of text is drawn by characters and cut to a number of tokens; the sentences to hide go between its own.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mambascope.errors import InputError
from mambascope.evaluate.data.folder import DAMAGED_ARCHIVE, data_file
from mambascope.inputs.tokens import text_ids
from mambascope.loading.json_files import one_line

#: The novels that no model of this project was trained on (training/README.md).
HELD_OUT = (
    "Bennet_Babylon_1902",
    "Bennet_Helen_1910",
    "Dickens_Expectations_1861",
    "Doyle_Lost_1912",
    "Woolf_Night_1919",
)
#: Characters of text taken for each token of a haystack, more than enough.
CHARACTERS = 8


def haystacks(source: str | None, tokens: int) -> list[str]:
    """Return texts long enough to draw so many tokens from: the held-out novels, or a user's own .txt files.

    Raises:
        InputError: if there are no texts, none is long enough, or one cannot be read.
    """
    found = text_files(source) if source else held_out_novels(data_file("lm_novels", "novels.tar.xz"))
    least = 2 * CHARACTERS * tokens + 1
    texts = [text for text in found.values() if len(text) >= least]
    if not texts:
        longest = max(map(len, found.values()))
        raise InputError(f"{source} holds texts of at most {longest} characters; haystacks need {least} or more")
    return texts


def drawn_text(texts: Sequence[str], draw: Callable[[int], int], tokens: int) -> str:
    """Return a piece of one of the texts, long enough for so many tokens; it starts with a sentence where possible.

    Args:
        texts: What `haystacks` returns for so many tokens or more.
        draw: Returns a random number from 0 up to, but not including, its argument.
        tokens: How many tokens are needed.
    """
    text = texts[draw(len(texts))]
    start = draw(len(text) - 2 * CHARACTERS * tokens)
    sentence = text.find(". ", start, start + CHARACTERS * tokens) + 1
    start = sentence or start
    return text[start : start + CHARACTERS * tokens]


def hidden(
    tokenizer: Any, text: str, room: int, sentences: Sequence[Sequence[int]], places: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Return a text's first `room` tokens with sentences hidden between them, and where each of those begins.

    The sentences come in the order of their places, each in a gap of its own: between the text's sentences or, if these
    are too few, anywhere between its tokens.

    Args:
        tokenizer: The model's tokenizer.
        text: The haystack.
        room: How many tokens of the haystack to keep.
        sentences: Token ids of the sentences to hide.
        places: Where to hide each, as a share of the gaps, from 0 to below 1.
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
    """Return the gaps to use, in order: each gap wanted, or the nearest that is still free."""
    taken: list[int] = []
    for gap in wanted:
        free = [k for k in range(gaps) if k not in taken]
        taken.append(min(free, key=lambda k: abs(k - gap)) if free else gap)
    return sorted(taken)


@lru_cache(maxsize=1)
def held_out_novels(archive: Path) -> dict[str, str]:
    """Return each held-out novel of `lm_novels/novels.tar.xz`, with white space collapsed to single spaces.

    Raises:
        InputError: if the archive cannot be read or lacks one of the novels.
    """
    novels = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).stem
                file = tar.extractfile(member) if name in HELD_OUT and member.isfile() else None
                if file is not None:
                    novels[name] = re.sub(r"\s+", " ", file.read().decode("utf-8-sig"))
    except DAMAGED_ARCHIVE as error:
        raise InputError(f"{archive} could not be read: {one_line(error)}") from error
    missing = [name for name in HELD_OUT if name not in novels]
    if missing:
        raise InputError(f"{archive} holds no novel {missing[0]}")
    return novels


def text_files(source: str) -> dict[str, str]:
    """Return the texts of a folder's .txt files, or of one such file, with white space collapsed to single spaces.

    Raises:
        InputError: if there is no file, or one cannot be read as UTF-8.
    """
    path = Path(source)
    if not os.path.exists(path):
        raise InputError(f"{source} does not exist; name a folder of .txt files, or one of them")
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{source} holds no .txt files")
    texts = {}
    for file in files:
        try:
            texts[file.stem] = re.sub(r"\s+", " ", file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} could not be read: {one_line(error)}") from error
    return texts
