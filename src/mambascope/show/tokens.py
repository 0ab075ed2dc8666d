"""How a token is written where people read it: nothing invisible, nothing that can disturb the page or the terminal."""

from __future__ import annotations

import unicodedata

EMPTY = "∅"
SYMBOLS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡"}
# Zero-width joiner, non-joiner and the emoji variation selector belong to the scripts that use them.
JOINERS = frozenset("\u200c\u200d\ufe0f")
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(token: str) -> str:
    """Return the token with line breaks, tabs, controls and invisible characters turned into visible signs.

    Ordinary spaces stay, so that tokens joined together read as the text did; an empty token becomes `∅`.
    """
    if not token:
        return EMPTY
    alone = all(character in JOINERS for character in token)
    return "".join(character if character in JOINERS and not alone else _sign(character) for character in token)


def _sign(character: str) -> str:
    if character in SYMBOLS:
        return SYMBOLS[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    if character in JOINERS or unicodedata.category(character) in UNPRINTABLE:
        return f"‹U+{ord(character):04X}›"
    return character
