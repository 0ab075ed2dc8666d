"""The self-contained page, of a text or of a picture: one file, no network."""

from __future__ import annotations

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.show.picture_page import picture_page
from mambascope.show.text_page import text_page


def html_page(attribution: Attribution, *others: Attribution, command: str | None = None) -> str:
    """Return a page that shows the result and loads nothing, as `text_page` or `picture_page` make it.

    Args:
        attribution: The result that the page opens with.
        others: Results of other methods on the same text or picture, which the page can switch to.
        command: The command line that makes the page again; by default the one in `diagnostics["command"]`.

    Raises:
        InputError: if the results do not belong on one page, or hold scores that are not finite numbers.
    """
    if len({one.grid is None for one in (attribution, *others)}) > 1:
        raise InputError("results of a text and of a picture cannot share a page; make one for each")
    make = text_page if attribution.grid is None else picture_page
    return make(attribution, *others, command=command)
