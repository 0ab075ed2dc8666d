"""Sentence pairs whose words people have linked: the Hansards of the HLT-NAACL 2003 shared task (Och & Ney's links).

There are three files: `.e` and `.f` have a sentence on each line, `<s snum=1> words </s>`, and `.align` has its links,
`f-e` or `f-e-P` (possible), with the French word first, counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mambascope.errors import InputError
from mambascope.loading.json_files import one_line
from mambascope.numbering import shown

SENTENCE = re.compile(r"^<s snum=(\d+)>\s+(.*?)\s*</s>\s*$")
LINK = re.compile(r"^([0-9]{1,9})-([0-9]{1,9})(-P)?$")


@dataclass(frozen=True)
class LinkedPair:
    """Two sentences and the links between their words.

    Attributes:
        number: The pair's number in the file.
        source: The words of the sentence to translate.
        target: The words of its translation.
        sure: Links (target, source) that should be found.
        possible: Links that are not counted as errors; they include the sure ones.
        left_out: Links that were dropped because they are known to be damaged, as written in the file.
    """

    number: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    sure: frozenset[tuple[int, int]]
    possible: frozenset[tuple[int, int]]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """One link in a file: its text there, the words it joins, and whether it is sure."""

    text: str
    target: int
    source: int
    sure: bool

    def is_outside(self, source: tuple[str, ...], target: tuple[str, ...]) -> bool:
        """Return whether it points past the end of a sentence."""
        return self.target >= len(target) or self.source >= len(source)


def linked_pair(
    number: str, source: tuple[str, ...], target: tuple[str, ...], links: Iterable[Link], place: str
) -> LinkedPair:
    """Return the pair; a link that is listed twice is sure if it is marked sure once.

    Raises:
        InputError: if a link points past the end of a sentence; the message begins with `place`, a file and line.
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
        InputError: naming file and line, if a file is missing or damaged, their lengths differ, or a link joins words
            that do not exist.
    """
    paths = [beside(stem, suffix) for suffix in (".e", ".f", ".align")]
    english, french, links = map(read_lines, paths)
    if not len(english) == len(french) == len(links):
        raise InputError(
            f"{stem}.e, .f and .align must have as many lines as each other, but have {len(english)}, "
            f"{len(french)} and {len(links)}"
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
    """Return the path with this suffix added; dots in the stem are part of its name."""
    return stem.with_name(stem.name + suffix)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, without its byte-order mark if it has one.

    Raises:
        InputError: if it cannot be read or is not UTF-8.
    """
    try:
        return text_lines(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} could not be read: {one_line(error)}") from error


def text_lines(content: bytes) -> list[str]:
    """Return the lines of UTF-8 text; only a line feed, alone or after a carriage return, ends a line."""
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
        raise InputError(f"{place}: {shown(text)} is not a link 'target-source' or 'target-source-P'")
    return Link(text, int(found[1]), int(found[2]), not found[3])
