"""Sentence pairs whose words people have linked: the Hansards of the HLT-NAACL 2003 shared task (Och & Ney's links).

Three files side by side: `.e` and `.f` hold a sentence a line, `<s snum=1> words </s>`, and `.align` its links,
`f-e` or `f-e-P` (possible), French first, counted from 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mambascope.errors import InputError

SENTENCE = re.compile(r"^<s snum=(\d+)>\s+(.*?)\s*</s>\s*$")
LINK = re.compile(r"^(\d+)-(\d+)(-P)?$")


@dataclass(frozen=True)
class LinkedPair:
    """Two sentences and the links between their words.

    Attributes:
        number: The pair's number in the file.
        source: Words translated from.
        target: Words translated to.
        sure: Links (target, source) that must be found.
        possible: Links that are no mistake; those that are sure are among them.
    """

    number: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    sure: frozenset[tuple[int, int]]
    possible: frozenset[tuple[int, int]]


def read_hansards(stem: Path) -> list[LinkedPair]:
    """Return the pairs of `stem.e` (source), `stem.f` (target) and `stem.align`.

    Raises:
        InputError: naming file and line, if one is absent, damaged, of another length, or links words that are not
            there.
    """
    english, french, links = (_lines(stem.with_suffix(suffix)) for suffix in (".e", ".f", ".align"))
    if not len(english) == len(french) == len(links):
        raise InputError(
            f"{stem}.e, .f and .align belong line to line, but have {len(english)}, {len(french)} and {len(links)}"
        )
    pairs = []
    for line, (source_text, target_text, link_text) in enumerate(zip(english, french, links, strict=True), start=1):
        number, source = _sentence(source_text, stem.with_suffix(".e"), line)
        other, target = _sentence(target_text, stem.with_suffix(".f"), line)
        if number != other:
            raise InputError(f"{stem}.f line {line} is sentence {other} where {stem}.e has {number}")
        sure, possible = _links(link_text, len(target), len(source), stem.with_suffix(".align"), line)
        pairs.append(LinkedPair(number, source, target, sure, possible))
    return pairs


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} could not be read: {error}") from error


def _sentence(text: str, path: Path, line: int) -> tuple[str, tuple[str, ...]]:
    found = SENTENCE.match(text)
    if not found or not found[2]:
        raise InputError(f"{path} line {line} is not a sentence '<s snum=N> words </s>'")
    return found[1], tuple(found[2].split())


def _links(
    text: str, targets: int, sources: int, path: Path, line: int
) -> tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int]]]:
    sure, possible = set(), set()
    for link in text.split():
        found = LINK.match(link)
        if not found:
            raise InputError(f"{path} line {line}: {link!r} is not a link 'target-source' or 'target-source-P'")
        pair = int(found[1]), int(found[2])
        if pair[0] >= targets or pair[1] >= sources:
            raise InputError(
                f"{path} line {line}: link {link} is outside sentences of {targets} target and {sources} source words"
            )
        possible.add(pair)
        if not found[3]:
            sure.add(pair)
    return frozenset(sure), frozenset(possible)
