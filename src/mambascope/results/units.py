"""Which tokens make up a word, a sentence, a line or a paragraph: found in the text that the tokens add up to.

A token belongs to the unit in which its first character stands that is no space. One that reaches into the next word
joins the two; one that reaches into the next sentence, line or paragraph counts with the first. Spaces belong to the
word after them. Every mark of punctuation is a word of its own, and so is every character of a script that writes no
spaces, and every special token.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

#: Scripts that write no spaces: kana, Chinese characters, Thai, Lao, Khmer, Burmese.
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
SPACES = r"[^\S\n]*"
WORD = re.compile(rf"{SPACES}(?:[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+(?:['’](?:(?![{UNSPACED}])\w)+)*|(\S)\1*)|\n+|\s+")
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)\s*|[。！？]+[」』”]*|\n\s*\n\s*")
#: What ends in a full stop and no sentence.
ABBREVIATION = re.compile(
    r"(?:\b(?:Mrs?|Ms|Dr|Prof|Rev|Sr|Jr|St|Mt|Gen|Col|Capt|Lt|vs|cf|etc|No|Fig|e\.g|i\.e)|\b[A-Z])\.$"
)
#: Special tokens, such as `<s>`, `<|endoftext|>` and `[CLS]`.
SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]|<\|[^|\s]+\|>")


def words(pieces: Sequence[str]) -> list[range]:
    """Return the tokens of each word, in order; together they are all tokens."""
    return _in_units(pieces, lambda text: [found.start() for found in WORD.finditer(text)], joined=True)


def sentences(pieces: Sequence[str]) -> list[range]:
    """Return the tokens of each sentence, by its closing mark; titles and initials end none. Blank lines end one."""

    def starts(text: str) -> list[int]:
        return [0, *(end.end() for end in SENTENCE_END.finditer(text) if not _abbreviated(text, end))]

    return _in_units(pieces, starts)


def lines(pieces: Sequence[str]) -> list[range]:
    """Return the tokens of each line; a line's end belongs to it."""
    return _in_units(pieces, lambda text: [0, *(end.end() for end in re.finditer(r"\n+", text))])


def paragraphs(pieces: Sequence[str]) -> list[range]:
    """Return the tokens of each paragraph; blank lines part them."""
    return _in_units(pieces, lambda text: [0, *(end.end() for end in re.finditer(r"\n\s*\n\s*", text))])


#: The kinds of unit, by name.
UNITS: dict[str, Callable[[Sequence[str]], list[range]]] = {
    "words": words,
    "sentences": sentences,
    "lines": lines,
    "paragraphs": paragraphs,
}


def _abbreviated(text: str, end: re.Match[str]) -> bool:
    closing = end.group().rstrip()
    return closing == "." and ABBREVIATION.search(text[max(0, end.start() - 8) : end.start() + 1]) is not None


def _in_units(pieces: Sequence[str], starts: Callable[[str], list[int]], *, joined: bool = False) -> list[range]:
    """Return runs of tokens that belong to one unit.

    Args:
        pieces: The tokens' texts; an empty one continues a character that the token before it begins.
        starts: Given the text, returns the characters at which units begin.
        joined: Whether a token that reaches into the next unit joins it to its own.
    """
    begun = sorted(set(starts("".join(pieces))))
    edges: list[int] = []
    place, left, special_before = 0, -1, False  # left: the unit in which the token before this one ends
    for number, piece in enumerate(pieces):
        inked = [k for k, character in enumerate(piece) if not character.isspace()] or range(len(piece))
        special = SPECIAL.fullmatch(piece.strip()) is not None
        if not piece:
            special = special_before
        else:
            first, last = (bisect_right(begun, place + inked[end]) for end in (0, -1))
            if first != left or special or special_before:
                edges.append(number)
            left = last if joined else first
        if number == 0 and not edges:
            edges.append(0)
        place, special_before = place + len(piece), special
    return [range(start, stop) for start, stop in pairwise([*edges, len(pieces)])]
