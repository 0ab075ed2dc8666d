"""Which tokens of several tokenizations of a text, or of two texts, stand for the same piece of text.

Two tokenizers cut one text at different places. What can be compared is what lies between the places where both cut:
a token of each if they agree there, else several, up to whole words. Places are counted in characters other than
spaces, so it does not matter which token a space belongs to; a token of spaces alone belongs with the next one. Tokens
that a tokenizer adds at either end, such as `<s>`, are aligned with those of the others or with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from mambascope.characters import character_starts, piece_names
from mambascope.errors import InputError
from mambascope.results.units import SPECIAL


def common_units(tokenizations: Sequence[Sequence[str]]) -> list[list[range]]:
    """Return the tokens of each unit in each tokenization of one text; units are as small as all of them allow.

    Args:
        tokenizations: The pieces of one text by each tokenizer, as `encode` returns them.

    Returns:
        For each tokenization, a run of tokens per unit, the same number of them for all; empty where a tokenizer has
        none, which happens only at the ends.

    Raises:
        InputError: if they are not pieces of one text.
    """
    if len(set(map(tuple, tokenizations))) == 1:
        starts = [*sorted(set(character_starts(tokenizations[0]))), len(tokenizations[0])]
        return [[range(*ends) for ends in pairwise(starts)] for _ in tokenizations]
    inner = [range(len(pieces)) for pieces in tokenizations]
    if len(set(map(_ink, tokenizations))) > 1:
        inner = [_without_added(pieces) for pieces in tokenizations]
        texts = [_ink(pieces[own.start : own.stop]) for pieces, own in zip(tokenizations, inner, strict=True)]
        if len(set(texts)) > 1:
            raise InputError(
                "the tokenizers of these models change the text, each in its own way, so their tokens cannot be aligned"
            )
    ends = [_ends(pieces, own) for pieces, own in zip(tokenizations, inner, strict=True)]
    shared = sorted(set.intersection(*map(set, ends)))
    of_each = list(zip(tokenizations, inner, ends, strict=True))
    before, after = any(own.start for own in inner), any(own.stop < len(pieces) for pieces, own, _ in of_each)
    units = []
    for pieces, own, places in of_each:
        runs = [range(*both) for both in pairwise([own.start, *(places[end] for end in shared)])]
        first, last = [range(own.start)] * before, [range(own.stop, len(pieces))] * after
        units.append([*first, *runs, *last])
    return units


def unit_names(pieces: Sequence[str], units: Sequence[range]) -> list[str]:
    """Return the text of each unit; a character that is split over tokens is written whole."""
    starts, names = character_starts(pieces), piece_names(pieces)
    return ["".join(names[k] for k in unit if starts[k] == k) for unit in units]


def beside(first: Sequence[str], second: Sequence[str]) -> list[tuple[range, range]]:
    """Return what stands beside what in two texts: equal tokens one by one, and what replaces what.

    Spaces around a token do not count. As many tokens as they replace stand one by one; more or fewer stand together;
    what only one text has stands beside an empty run.
    """
    pairs: list[tuple[range, range]] = []
    ours, theirs = ([name.strip() or name for name in names] for names in (first, second))
    for _, start, stop, begin, end in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if stop - start == end - begin:
            pairs += [(range(start + k, start + k + 1), range(begin + k, begin + k + 1)) for k in range(stop - start)]
        elif start == stop or begin == end:
            pairs += [(range(k, k + 1), range(begin, begin)) for k in range(start, stop)]
            pairs += [(range(start, start), range(k, k + 1)) for k in range(begin, end)]
        else:
            pairs.append((range(start, stop), range(begin, end)))
    return pairs


def _ink(pieces: Sequence[str]) -> str:
    """Return the characters of a text that are no spaces; line breaks count."""
    return "".join(character for piece in pieces for character in piece if character == "\n" or not character.isspace())


def _without_added(pieces: Sequence[str]) -> range:
    """Return the tokens without the special ones at either end."""
    start, stop = 0, len(pieces)
    while start < stop and SPECIAL.fullmatch(pieces[start].strip()):
        start += 1
    while stop > start and SPECIAL.fullmatch(pieces[stop - 1].strip()):
        stop -= 1
    return range(start, stop)


def _ends(pieces: Sequence[str], own: range) -> dict[int, int]:
    """Return, for each number of characters after which a token ends, the token that follows."""
    ends, inked, starts = {}, 0, character_starts(pieces)
    for place in own:
        inked += len(_ink(pieces[place : place + 1]))
        if inked not in ends or starts[place] != place:
            ends[inked] = place + 1
    ends.pop(0, None)  # spaces that begin the text belong with what follows
    return ends | {inked: own.stop}
