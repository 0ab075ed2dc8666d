"""The gallery of heads in the page of a text: what each head does, and its map in a byte for each cell.

The maps of one mixer are one block of bytes, deflated and written in base64: map after map, row after row, the codes
round(127 · sqrt(share / m)), m being the map's largest share. A map has as many cells as the text has pairs of tokens
where the text is short, and else at most 48 × 48: then a head takes at most 2,304 bytes before they are deflated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mambascope.errors import InputError
from mambascope.numbering import shown
from mambascope.show.pack import CODES, deflated
from mambascope.show.page_parts import block
from mambascope.theory.gallery import Gallery, MixerGallery
from mambascope.theory.heads import LIFT, SHARES, Head

#: Letters that are shown of the text that separators were looked for in.
LETTERS = 60
#: What the sources of each label are, in the page's words.
SOURCES = {
    "previous": "the token before",
    "first": "the first token",
    "same": "earlier places of the same token",
    "induction": "the place after an earlier place of the same token",
    "separator": "punctuation and ends of lines",
}


def gallery_facts(gallery: Gallery | None, tokens: tuple[str, ...]) -> dict[str, Any] | None:
    """Return what the page says about heads; None without a gallery.

    Raises:
        InputError: if the gallery is of another text.
    """
    if gallery is None:
        return None
    if not isinstance(gallery, Gallery):
        raise InputError(f"a page shows a gallery of heads, made for its text, found {shown(gallery)}")
    if gallery.tokens != tokens:
        raise InputError("the gallery of heads is of another text than the result; make one of the same text")
    probes = gallery.probes
    return {
        "mixers": [_mixer_facts(one) for one in gallery.mixers],
        "labels": [{"name": name, "share": SHARES[name], "sources": SOURCES[name]} for name in SHARES],
        "lift": LIFT,
        "rows": [len(probes.rows), probes.span],
        "read": None if probes.read is None else _start(probes.read),
    }


def _mixer_facts(mixer: MixerGallery) -> dict[str, Any]:
    return {
        "layer": mixer.layer,
        "kind": mixer.kind,
        "channels": mixer.channels,
        "side": mixer.maps.shape[-1],
        "heads": [_head_facts(head) for head in mixer.heads],
        "scales": [_short(value) for value in mixer.maps.amax(dim=(1, 2)).tolist()],
    }


def _head_facts(head: Head) -> dict[str, Any]:
    """Return a head's numbers; those of labels in the order of `SHARES`, None where they could not be measured."""
    return {
        "number": head.head,
        "label": head.label,
        "spread": head.spread,
        "distance": _short(head.distance),
        "near": _short(head.near),
        "even": _short(head.even),
        "shares": [_short(head.shares.get(name)) for name in SHARES],
        "lifts": [_short(head.lifts.get(name)) for name in SHARES],
    }


def _start(text: str) -> str:
    """Return a text on one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= LETTERS else line[: LETTERS - 1] + "…"


def _short(value: float | None) -> float | None:
    """Return a number with four digits; None if it is none."""
    return None if value is None or value != value else float(f"{value:.4g}")


def gallery_blocks(gallery: Gallery | None) -> list[str]:
    """Return each mixer's maps as a block."""
    if gallery is None:
        return []
    return [block(f"heads-{number}", deflated(_codes(one.maps.numpy()))) for number, one in enumerate(gallery.mixers)]


def _codes(maps: np.ndarray) -> bytes:
    largest = maps.max(axis=(1, 2), keepdims=True)
    return np.rint(CODES * np.sqrt(maps / np.where(largest > 0, largest, 1.0))).astype(np.int8).tobytes()
