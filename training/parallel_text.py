"""English-French sentence pairs: where they are found, how they are spaced, and which are held out.

Both languages are written as words and punctuation parted by single spaces, with elided articles, pronouns and
hyphenated words parted too (`l' homme`, `donne - moi`), because word alignments are annotated on such words. `joined`
puts French back together.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Shares of the English sentences of Tatoeba that are held out for choosing and for the final figures.
VALIDATION_SHARE, TEST_SHARE = 0.01, 0.02
#: One pair in so many is written without its first capitals, as words within sentences and the Hansards are.
LOWERED = 4

ENGLISH_CLITIC = re.compile(r"\s+(?=(?:'(?:s|t|re|ve|m|ll|d)|n't)\b)", re.IGNORECASE)
PUNCTUATION = re.compile(r"(\.\.\.|--|[.,!?;:«»\"“”()\[\]…/%$€])")
INNER_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
ELISION = re.compile(r"(?<=\w)'(?=\w)")


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation, spaced."""

    english: str
    french: str


@dataclass(frozen=True)
class Split:
    """Pairs to train on, to choose by, and to report on."""

    training: list[Pair]
    validation: list[Pair]
    test: list[Pair]


def spaced(text: str, french: bool) -> str:
    """Return a sentence as words and punctuation parted by single spaces."""
    text = unicodedata.normalize("NFC", text).replace("’", "'").replace("‘", "'")
    text = PUNCTUATION.sub(r" \1 ", text)
    text = re.sub(r"(?<=\d) ([.,:]) (?=\d)", r"\1", text)
    text = re.sub(r"\b(Mr|Mrs|Dr|M|Mme|St) \.", r"\1.", text)
    text = INNER_HYPHEN.sub(" - ", text)
    text = ELISION.sub("' ", text) if french else ENGLISH_CLITIC.sub("", text)
    return " ".join(text.split())


def joined(french: str) -> str:
    """Return a spaced French sentence as it is written: `l' homme` as `l'homme`, `donne - moi` as `donne-moi`."""
    text = re.sub(r"(?<=\w') (?=\w)", "", french)
    text = re.sub(r"(?<=\w) - (?=\w)", "-", text)
    return re.sub(r" (?=[.,…)\]])", "", text)


def lowered(pair: Pair) -> Pair:
    """Return the pair without the capitals that begin its sentences."""
    english, french = pair.english, pair.french
    if not re.match(r"I\b", english):
        english = english[:1].lower() + english[1:]
    return Pair(english, french[:1].lower() + french[1:])


def read_tatoeba(data: Path) -> list[Pair]:
    """Return the pairs of `par_tatoeba/fra-eng.zip`."""
    with zipfile.ZipFile(data / "par_tatoeba" / "fra-eng.zip") as archive:
        lines = archive.read("fra-eng/fra.txt").decode("utf-8").splitlines()
    sides = (line.split("\t")[:2] for line in lines if "\t" in line)
    return [Pair(spaced(english, False), spaced(french, True)) for english, french in sides]


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
    pairs = (Pair(spaced(e, False), spaced(f, True)) for e, f in zip(english, french, strict=True))
    return [pair for pair in pairs if pair.english and pair.french]


def sentence_key(text: str) -> str:
    """Return what makes two sentences the same for the split: their letters and digits alone."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def split(pairs: Iterable[Pair], always_training: Iterable[Pair] = ()) -> Split:
    """Return the pairs split by English sentence; a sentence's place depends on its letters alone.

    What shares an English or a French sentence with a held-out pair is not trained on.
    """
    parts: dict[str, list[Pair]] = {"training": [], "validation": [], "test": []}
    for pair in pairs:
        parts[_place(sentence_key(pair.english))].append(pair)
    held = parts["validation"] + parts["test"]
    english, french = {sentence_key(p.english) for p in held}, {sentence_key(p.french) for p in held}
    candidates = [*parts["training"], *always_training]
    parts["training"] = [
        p for p in candidates if sentence_key(p.english) not in english and sentence_key(p.french) not in french
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


def with_lowered(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs with one in `LOWERED` of them lowered, chosen by its French sentence."""
    return [lowered(pair) if _draw("lower " + pair.french) < 1 / LOWERED else pair for pair in pairs]
