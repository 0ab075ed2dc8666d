"""A result on one screen of a terminal, or in a pipe."""

from __future__ import annotations

from rich.console import Console

from mambascope.attribution import Attribution
from mambascope.show.picture_text import picture_blocks
from mambascope.show.screen import Screen
from mambascope.show.text import text_blocks


def print_attribution(attribution: Attribution, console: Console | None = None) -> None:
    """Print one screen about the focused target: the shaded text or picture, top sources, layers and evidence.

    On a terminal scores are colours: blue for those that add, orange for those that take away. Where there is no colour
    (a pipe, a file, `NO_COLOR`) signs are used instead, and no escape codes are written.

    Args:
        attribution: The result to print.
        console: Where to print; by default standard output.

    Raises:
        InputError: if a score is NaN or infinite, or the focused position is not in the result.
    """
    console = console or Console()
    screen = Screen.of(console)
    blocks = text_blocks if attribution.grid is None else picture_blocks
    for block in blocks(attribution, screen):
        console.print(block, width=screen.width, highlight=False, overflow="fold")
