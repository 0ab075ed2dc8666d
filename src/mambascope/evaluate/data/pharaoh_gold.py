"""Linked sentence pairs in plain text: two files of sentences and one of links in the format of Pharaoh and Moses.

Each line of the first two is a sentence, its words separated by spaces or tabs; the same line of the third holds the
pair's links, separated in the same way, or nothing. Links count words from 0, source first: `3-4` joins the source's
fourth word and the target's fifth and is sure; `3?4`, `3p4` and `3-4-P` are possible; `3-4-S` is sure like `3-4`. All
three files are UTF-8 and have as many lines as each other; no sentence is empty.

The German-English gold of Ergun Bicici (100 sentences of Europarl, sure links only; his thesis, Koç University, 2011)
is a zip of three such files.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from mambascope.errors import InputError
from mambascope.evaluate.data.alignment_gold import (
    Link,
    LinkedPair,
    beside,
    linked_pair,
    read_hansards,
    read_lines,
    text_lines,
)
from mambascope.evaluate.data.folder import DAMAGED_ARCHIVE
from mambascope.loading.json_files import one_line
from mambascope.numbering import shown

LINK = re.compile(r"^([0-9]{1,9})(?:-([0-9]{1,9})(-[SP])?|[?p]([0-9]{1,9}))$")
SUFFIXES = (".src", ".tgt", ".links")
HANSARDS_SUFFIXES = (".e", ".f", ".align")
BICICI = tuple(f"German-English_WordAlignment/{name}" for name in ("test.de", "test.en", "de-en.wa"))
#: The one link in that gold, by line, that points past the end of its sentence: the English one has 13 words. It is
#: where the full stops should be linked, 12-12; but a gold standard is no place for guesses.
BICICI_DAMAGED = {63: frozenset({"12-16"})}


def read_linked_pairs(stem: Path) -> list[LinkedPair]:
    """Return the pairs of a user's own files: `stem.src`, `.tgt` and `.links`, or `stem.e`, `.f` and `.align`.

    Raises:
        InputError: if neither or both kinds exist, or a file is damaged; the message has file, line and reason.
    """
    stem = stem.expanduser()
    found = [suffixes for suffixes in (SUFFIXES, HANSARDS_SUFFIXES) if os.path.exists(beside(stem, suffixes[-1]))]
    if len(found) != 1:
        raise InputError(
            f"{stem} should be how the names of three files begin, {stem.name}.src, .tgt and .links or "
            f"{stem.name}.e, .f and .align, but {'both kinds exist' if found else 'neither .links nor .align exists'}"
        )
    pairs = read_pharaoh(stem) if found[0] == SUFFIXES else read_hansards(stem)
    if not pairs:
        raise InputError(f"{stem}{found[0][0]} holds no sentences")
    return pairs


def read_pharaoh(stem: Path) -> list[LinkedPair]:
    """Return the pairs of `stem.src`, `stem.tgt` and `stem.links`, numbered from 1.

    Raises:
        InputError: naming file and line, if a file is missing or damaged, their lengths differ, or a link joins words
            that do not exist.
    """
    paths = [beside(stem, suffix) for suffix in SUFFIXES]
    return _pairs([read_lines(path) for path in paths], [str(path) for path in paths], {})


def read_bicici(path: Path, damaged: Mapping[int, frozenset[str]] = BICICI_DAMAGED) -> list[LinkedPair]:
    """Return the 100 German-English pairs of Bicici's zip, German first.

    Args:
        path: `German-English_WordAlignment.zip`.
        damaged: Links, by line, to drop if they point past the end of a sentence; the pair's `left_out` lists them.
            Any other such link is an error; with `{}`, so is the one in the published file.

    Raises:
        InputError: naming file and line, if the file is missing or damaged in any other way.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [text_lines(archive.read(name)) for name in BICICI]
    except DAMAGED_ARCHIVE as error:
        raise InputError(f"{path} could not be read: {one_line(error)}") from error
    return _pairs(texts, [f"{path}/{name}" for name in BICICI], damaged)


def _pairs(texts: list[list[str]], names: list[str], damaged: Mapping[int, frozenset[str]]) -> list[LinkedPair]:
    """Return the pairs of the lines of three files, without the links that are listed as damaged."""
    sources, targets, links = texts
    if not len(sources) == len(targets) == len(links):
        counts = ", ".join(f"{name} has {len(text)}" for name, text in zip(names, texts, strict=True))
        raise InputError(f"sentences and links must have as many lines as each other, but {counts}")
    pairs = []
    for line, (source_text, target_text, link_text) in enumerate(zip(sources, targets, links, strict=True), start=1):
        source, target = _words(source_text, names[0], line), _words(target_text, names[1], line)
        place = f"{names[2]} line {line}"
        of_line = [_link(text, place) for text in _split(link_text)]
        dropped = [one for one in of_line if one.text in damaged.get(line, ()) and one.is_outside(source, target)]
        kept = [one for one in of_line if one not in dropped]
        pair = linked_pair(str(line), source, target, kept, place)
        left_out = tuple(one.text for one in dropped)
        pairs.append(LinkedPair(pair.number, source, target, pair.sure, pair.possible, left_out))
    return pairs


def _split(text: str) -> list[str]:
    """Return the words between spaces and tabs; a no-break space is part of a word."""
    return [word for word in re.split("[ \t]+", text) if word]


def _words(text: str, name: str, line: int) -> tuple[str, ...]:
    words = tuple(_split(text))
    if not words:
        raise InputError(f"{name} line {line} is empty where a sentence should be")
    return words


def _link(text: str, place: str) -> Link:
    found = LINK.match(text)
    if not found:
        raise InputError(f"{place}: {shown(text)} is not a link '1-2', nor a possible one '1?2', '1p2' or '1-2-P'")
    return Link(text, int(found[2] or found[4]), int(found[1]), not found[4] and found[3] != "-P")
