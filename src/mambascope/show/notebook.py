"""The page in a frame, for notebooks: packed small, and as tall as what it shows."""

from __future__ import annotations

import base64
import html
import math
import zlib
from string import Template

from mambascope.attribution import Attribution
from mambascope.show.pack import TOP
from mambascope.show.page import html_page
from mambascope.show.page_parts import asset
from mambascope.show.path_parts import path_facts
from mambascope.show.tokens import visible
from mambascope.trust import caution

# Pixels that the parts of a framed page take at a notebook's usual width of 800 to 1,000 (see `page.css`, `.framed`).
LINE, ROW, TEXT_LINE = 21, 24.4, 31.4
LETTERS, TEXT_LETTERS = 115, 50  # on a line of the page, and on one of the text beside the table of sources
MARGINS, HEADER, HEADING = 24, 60, 58
LONGEST_TEXT, READOUT, OVERVIEW = 320, 50, 36
TABLE, CLASSES, SETTINGS = 160, 50, 110
STAGE, HIGHEST = 400, 620  # the most that a picture takes across and down, see `picturepage.js`
FOLDED = 46
CAUTION = 40
REMOVALS = 340


def notebook_frame(attribution: Attribution) -> str:
    """Return an `<iframe>` that holds the result's whole page, for a notebook's rich output.

    The frame is sandboxed: the page's script runs, but sees nothing of the notebook around it. The page is
    deflated, to half its size or less, and what is below its first section is folded, since a frame cannot grow. Where
    frames are not shown, as in an untrusted notebook, the result's one-line summary is.
    """
    packed = base64.b64encode(zlib.compress(html_page(attribution).encode(), 9)).decode("ascii")
    line = html.escape(visible(repr(attribution)))
    title = html.escape(f"What {visible(attribution.model.name)} looked at")
    page = Template(asset("frame.html")).substitute(title=title, says=line, packed=packed)
    return (
        f'<iframe name="mambascope-frame" title="{title}" sandbox="allow-scripts allow-downloads" width="100%" '
        f'height="{frame_height(attribution)}" style="border: 0; resize: vertical" '
        f'srcdoc="{html.escape(page, quote=True)}">{line}</iframe>'
    )


def frame_height(attribution: Attribution) -> int:
    """Return the page's approximate height in pixels, in a frame of usual width, with its other sections folded.

    It is an estimate, since only a browser knows; where it is too small the frame scrolls, and can be dragged taller.
    """
    target = attribution.target
    likely = sum(len(token) + 14 for token, _ in target.next_tokens) + len(target.asked)
    head = HEADER + LINE * (math.ceil((likely + 60) / LETTERS) if attribution.grid is None else 1)
    how = 4 * LINE
    if words := caution(attribution.diagnostics):
        how += CAUTION + LINE * math.ceil(len(words) / LETTERS)
    rows = min(TOP, len(attribution.tokens)) + (len(attribution.tokens) > TOP)
    side = TABLE + ROW * rows + (REMOVALS if attribution.diagnostics.get("verified") else 0)
    if attribution.grid is None:
        text = sum(len(visible(token)) for token in attribution.tokens)
        breaks = sum(token.count("\n") for token in attribution.tokens)
        shown = TEXT_LINE * (math.ceil(text / TEXT_LETTERS) + breaks) + 18
        main = min(shown, LONGEST_TEXT) + READOUT + (OVERVIEW if shown > LONGEST_TEXT else 0)
    else:
        height, width = attribution.grid.size if attribution.image is None else attribution.image.shape[:2]
        main = min(STAGE * height / width, HIGHEST) + SETTINGS
        side += CLASSES + ROW * len(target.next_tokens)
    layered, mapped = len(attribution.axes["layer"]) > 1, len(attribution.axes["target"]) > 1
    followed = attribution.grid is None and ("lens" in attribution.diagnostics or path_facts(attribution) is not None)
    folded = 1 + layered + followed + (attribution.grid is None and (layered or mapped))
    return math.ceil(MARGINS + head + HEADING + how + max(main, side) + FOLDED * folded)
