"""Sentence pairs whose words people have linked: the Hansards of the HLT-NAACL 2003 shared task (Och & Ney's links).

Three files side by side: `.e` and `.f` hold a sentence a line, `<s snum=1> words </s>`, and `.align` its links,
`f-e` or `f-e-P` (possible), French first, counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
        left_out: Links of the file, as they stand there, that are known to be damaged and were dropped.
    """

    number: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    sure: frozenset[tuple[int, int]]
    possible: frozenset[tuple[int, int]]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """One link as it stands in a file: its text, the words it joins, and whether it is sure."""

    text: str
    target: int
    source: int
    sure: bool

    def is_outside(self, source: tuple[str, ...], target: tuple[str, ...]) -> bool:
        """Return whether it points past a sentence's end."""
        return self.target >= len(target) or self.source >= len(source)


def linked_pair(
    number: str, source: tuple[str, ...], target: tuple[str, ...], links: Iterable[Link], place: str
) -> LinkedPair:
    """Return the pair; a link that stands there twice is sure if it is so once.

    Raises:
        InputError: naming `place`, a file and line, if a link points past a sentence's end.
    """
    links = list(links)
    for link in links:
        if link.is_outside(source, target):
            raise InputError(
                f"{place}: link {link.text} is outside sentences of {len(target)} target and {len(source)} source words"
            )
    sure = frozenset((link.target, link.source) for link in links if link.sure)
    return LinkedPair(number, source, target, sure, frozenset((link.target, link.source) for link in links))


def read_hansards(stem: Path) -> list[LinkedPair]:
    """Return the pairs of `stem.e` (source), `stem.f` (target) and `stem.align`.

    Raises:
        InputError: naming file and line, if one is absent, damaged, of another length, or links words that are not
            there.
    """
    paths = [beside(stem, suffix) for suffix in (".e", ".f", ".align")]
    english, french, links = map(read_lines, paths)
    if not len(english) == len(french) == len(links):
        raise InputError(
            f"{stem}.e, .f and .align belong line to line, but have {len(english)}, {len(french)} and {len(links)}"
        )
    pairs = []
    for line, (source_text, target_text, link_text) in enumerate(zip(english, french, links, strict=True), start=1):
        number, source = _sentence(source_text, paths[0], line)
        other, target = _sentence(target_text, paths[1], line)
        if number != other:
            raise InputError(f"{stem}.f line {line} is sentence {other} where {stem}.e has {number}")
        place = f"{paths[2]} line {line}"
        pairs.append(linked_pair(number, source, target, (_link(text, place) for text in link_text.split()), place))
    return pairs


def beside(stem: Path, suffix: str) -> Path:
    """Return the file of this suffix; points in the stem are part of its name."""
    return stem.with_name(stem.name + suffix)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file in UTF-8; a byte-order mark before them does not count.

    Raises:
        InputError: if it cannot be read or is no UTF-8.
    """
    try:
        return text_lines(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} could not be read: {error}") from error


def text_lines(content: bytes) -> list[str]:
    """Return the lines of text in UTF-8; they end where an editor ends them and at no rarer character."""
    lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _sentence(text: str, path: Path, line: int) -> tuple[str, tuple[str, ...]]:
    found = SENTENCE.match(text)
    if not found or not found[2]:
        raise InputError(f"{path} line {line} is not a sentence '<s snum=N> words </s>'")
    return found[1], tuple(found[2].split())


def _link(text: str, place: str) -> Link:
    found = LINK.match(text)
    if not found:
        raise InputError(f"{place}: {text!r} is not a link 'target-source' or 'target-source-P'")
    return Link(text, int(found[1]), int(found[2]), not found[3])
