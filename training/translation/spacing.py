"""How sentences are written as words and punctuation parted by single spaces, as people's word alignments have them.

Two manners, after the two gold standards. The Hansards' (English-French) part elided articles, pronouns and hyphenated
words too (`l' homme`, `donne - moi`) and leave English contractions whole. Europarl's (German-English) is in small
letters, leaves hyphenated words whole (`eu-haushalts`) and parts what an apostrophe joins (`barnier 's`, `don 't`).
"""

from __future__ import annotations

import re
import unicodedata

ENGLISH_CLITIC = re.compile(r"\s+(?=(?:'(?:s|t|re|ve|m|ll|d)|n't)\b)", re.IGNORECASE)
PUNCTUATION = re.compile(r"(\.\.\.|--|[.,!?;:«»\"“”()\[\]…/%$€])")
INNER_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
ELISION = re.compile(r"(?<=\w)'(?=\w)")
WITHIN_NUMBERS = re.compile(r"(?<=\d) ([.,:]) (?=\d)")

#: A point within or at the end of `p.m.` belongs to it.
EUROPARL_PUNCTUATION = re.compile(r"(\.\.\.|--|(?<!\.\w)\.(?!\w)|[,!?;:«»\"“”„‟()\[\]…/%$€–—])")
#: An apostrophe that neither joins letters nor begins what one has parted (`'s`).
LONE_APOSTROPHE = re.compile(r"(?<!\w)'(?!(?:s|t|re|ve|m|ll|d|clock)\b)|'(?!\w)")
ENGLISH_TITLE = re.compile(r"\b(mr|mrs|ms|dr)\.")
ORDINAL = re.compile(r"\b(\d\d?) \.(?= \w)")
#: Soft hyphens and spaces of no width.
INVISIBLE = re.compile("[\u00ad\u200b]")


def hansards(text: str, french: bool) -> str:
    """Return an English or French sentence in the Hansards' manner."""
    text = PUNCTUATION.sub(r" \1 ", _plain(text))
    text = WITHIN_NUMBERS.sub(r"\1", text)
    text = re.sub(r"\b(Mr|Mrs|Dr|M|Mme|St) \.", r"\1.", text)
    text = INNER_HYPHEN.sub(" - ", text)
    text = ELISION.sub("' ", text) if french else ENGLISH_CLITIC.sub("", text)
    return " ".join(text.split())


def europarl(text: str, english: bool) -> str:
    """Return an English or German sentence in Europarl's manner.

    English titles lose their point (`mr president`), German ordinals keep it (`20. oktober`).
    """
    text = INVISIBLE.sub("", _plain(text)).lower()
    text = ENGLISH_TITLE.sub(r"\1", text) if english else text
    text = EUROPARL_PUNCTUATION.sub(r" \1 ", text)
    text = WITHIN_NUMBERS.sub(r"\1", text)
    text = ELISION.sub(" '", LONE_APOSTROPHE.sub(" ' ", text))
    text = " ".join(text.split())
    return text if english else ORDINAL.sub(r"\1.", text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("’", "'").replace("‘", "'")


def joined_french(spaced: str) -> str:
    """Return French of the Hansards' manner as it is written: `l' homme` as `l'homme`, `donne - moi` as `donne-moi`."""
    text = re.sub(r"(?<=\w') (?=\w)", "", spaced)
    text = re.sub(r"(?<=\w) - (?=\w)", "-", text)
    return re.sub(r" (?=[.,…)\]])", "", text)


def joined_english(spaced: str) -> str:
    """Return English of Europarl's manner as it is written, but for its capitals: `don 't .` as `don't.`."""
    text = re.sub(r"(?<=\w) (?='\w)", "", spaced)
    return re.sub(r" (?=[.,!?;:%…)\]])", "", text)
