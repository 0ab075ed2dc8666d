"""The pairs of languages that translation models are trained on: where their text is, and how it is written.

English to French follows the Hansards, German to English follows Europarl (`spacing.py`), because those are the texts
that people's word alignments are of. To add a pair, write its readers and list it here.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from training.translation.parallel_text import Pair, Split, split, with_lowered
from training.translation.spacing import europarl, hansards, joined_english, joined_french


@dataclass(frozen=True)
class LanguagePair:
    """Two languages, the first translated into the second.

    Attributes:
        name: For commands and folders.
        tatoeba: Returns the pairs that are split.
        more: Returns pairs that are trained on only, from the data folder; told whether to add research-only text.
        written: Returns training pairs as they are to be written.
        company: Whether some go into one row together, because Tatoeba's sentences are shorter than what is asked.
        joined: Returns a spaced target sentence as it is written, which is what BLEU is of.
        cache: Where the prepared text lies unless the user says otherwise.
    """

    name: str
    tatoeba: Callable[[Path], list[Pair]]
    more: Callable[[Path, bool], list[Pair]]
    written: Callable[[Iterable[Pair]], list[Pair]]
    company: bool
    joined: Callable[[str], str]
    cache: Path

    def split(self, data: Path, research_only: bool = False) -> Split:
        """Return the pairs of the data folder, split."""
        return split(self.tatoeba(data), self.more(data, research_only))


def _tatoeba_lines(data: Path, archive: str, name: str) -> list[list[str]]:
    """Return the (English, other) sentences of a Tatoeba archive."""
    with zipfile.ZipFile(data / "par_tatoeba" / archive) as opened:
        lines = opened.read(name).decode("utf-8").splitlines()
    return [line.split("\t")[:2] for line in lines if "\t" in line]


def read_tatoeba_french(data: Path) -> list[Pair]:
    """Return the English-French pairs of `par_tatoeba/fra-eng.zip`."""
    lines = _tatoeba_lines(data, "fra-eng.zip", "fra-eng/fra.txt")
    return [Pair(hansards(english, False), hansards(french, True)) for english, french in lines]


def read_tatoeba_german(data: Path) -> list[Pair]:
    """Return the German-English pairs of `par_tatoeba/deu-eng.zip`, in small letters."""
    lines = _tatoeba_lines(data, "deu-eng.zip", "deu.txt")
    return [Pair(europarl(german, False), europarl(english, True)) for english, german in lines]


def read_novels(data: Path) -> list[Pair]:
    """Return the pairs of `par_enfr_novels`, line beside line."""
    with tarfile.open(data / "par_enfr_novels" / "novels_en-fr_aligned.tar.xz") as archive:
        files = {m.name: archive.extractfile(m).read().decode("utf-8") for m in archive if m.name.endswith(".aligned")}
    pairs = []
    for name in sorted(files):
        if name.endswith("_en.aligned"):
            french = files[name.replace("_en.aligned", "_fr.aligned")].splitlines()
            pairs += _beside(files[name].splitlines(), french)
    return pairs


def read_hansards(data: Path) -> list[Pair]:
    """Return the unaligned training pairs of `align_enfr_hansards` (research and education only)."""
    pairs = []
    for english in sorted((data / "align_enfr_hansards" / "train").glob("*.e")):
        both = (path.read_text("utf-8").splitlines() for path in (english, english.with_suffix(".f")))
        pairs += _beside(*both)
    return pairs


def _beside(english: Iterable[str], french: Iterable[str]) -> list[Pair]:
    pairs = (Pair(hansards(e, False), hansards(f, True)) for e, f in zip(english, french, strict=True))
    return [pair for pair in pairs if pair.source and pair.target]


def _english_french_more(data: Path, research_only: bool) -> list[Pair]:
    return read_novels(data) + (read_hansards(data) if research_only else [])


def _none(data: Path, research_only: bool) -> list[Pair]:
    return []


PAIRS = {
    pair.name: pair
    for pair in (
        LanguagePair(
            "en-fr",
            tatoeba=read_tatoeba_french,
            more=_english_french_more,
            written=with_lowered,
            company=False,
            joined=joined_french,
            cache=Path("runs/translation-data"),
        ),
        LanguagePair(
            "de-en",
            tatoeba=read_tatoeba_german,
            more=_none,
            written=list,
            company=True,
            joined=joined_english,
            cache=Path("runs/translation-data-de-en"),
        ),
    )
}
