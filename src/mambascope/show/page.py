"""The self-contained page, of a text or of a picture: one file, no network."""

from __future__ import annotations

import torch

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.memory import require_bytes
from mambascope.show.picture_page import picture_page
from mambascope.show.text_page import text_page
from mambascope.theory.gallery import Gallery

#: Bytes that each score of one layer takes while it is packed: integers that order it, its code, its share.
PACKING = 64

#: Bytes of the page for each score of a layer: its code in base64, in the block, in the page, and as it is written.
PACKED = 4


def html_page(
    attribution: Attribution, *others: Attribution, command: str | None = None, gallery: Gallery | None = None
) -> str:
    """Return a page that shows the result and loads nothing, as `text_page` or `picture_page` make it.

    Args:
        attribution: The result that the page opens with.
        others: Results of other methods on the same text or picture, which the page can switch to.
        command: The command line that makes the page again; by default the one in `diagnostics["command"]`.
        gallery: What each head does, and its map of the text.

    Raises:
        InputError: if the results or the gallery do not belong on one page, or hold scores that are not finite numbers.
        MapTooLargeError: if the page of one would not fit in memory.
    """
    results = (attribution, *others)
    if len({one.grid is None for one in results}) > 1:
        raise InputError("results of a text and of a picture cannot share a page; make one for each")
    for one in results:
        scores = "{} x {} x {}".format(*one.scores.shape)
        way_out = "explain fewer positions or layers, or write the scores as .safetensors"
        require_bytes(bytes_of_page(*one.scores.shape), torch.device("cpu"), f"a page of {scores} scores", way_out)
    if attribution.grid is None:
        return text_page(attribution, *others, command=command, gallery=gallery)
    if gallery is not None:
        raise InputError("the gallery of heads is of a text, and this page of a picture; leave it out")
    return picture_page(attribution, *others, command=command)


def bytes_of_page(layers: int, targets: int, sources: int) -> int:
    """Return about how many bytes the page of a result takes while it is made, beyond the result."""
    return targets * sources * (PACKING + PACKED * (layers + 1))
