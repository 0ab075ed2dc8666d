"""A figure that a notebook displays when it is returned, whether or not pyplot is imported."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from matplotlib.figure import Figure

from mambascope.show.typeface import families

LETTERS = 8.0  # points
#: Inches of one letter at 8 points: a generous average.
LETTER = 0.058
#: Inches of one line of such letters.
LINE = 0.15
RED = "#a61e00"


class Sheet(Figure):
    """A matplotlib figure that notebooks can display by itself, with room for a heading and a caption.

    Notebooks display matplotlib's figures once pyplot is imported; before that, a cell that ends with one shows
    `<Figure size …>`. With pyplot imported its own display is used, so nothing is shown twice.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

    def head(self, heading: str) -> None:
        """Write what the figure shows above all its parts."""
        self.suptitle(self._lines(heading, LETTERS + 2), fontweight="bold", **_text(LETTERS + 2))

    def caption(self, words: str, caution: str = "") -> None:
        """Write how to read the figure below all its parts, after why its scores should not be relied on, in red."""
        colour, says = "#444444", self._lines(words, LETTERS)
        if caution:
            first = self._lines(f"Caution: {caution}.", LETTERS)
            self.set_figheight(self.get_figheight() + LINE * (first.count("\n") + 1))
            colour, says = RED, f"{first}\n{says}"
        self.supxlabel(says, color=colour, **_text(LETTERS))

    def _lines(self, words: str, size: float) -> str:
        return broken(words, self.get_figwidth() - 0.3, size)


def broken(words: str, width: float, size: float = LETTERS) -> str:
    """Return words broken into lines that fit a width in inches, for letters of a size in points."""
    letters = max(int(width / (LETTER * size / LETTERS)), 12)
    return "\n".join("\n".join(textwrap.wrap(line, letters)) for line in words.split("\n"))


def _text(size: float) -> dict[str, Any]:
    """Return keywords for text at the left that is never mathematics: a token may contain dollar signs."""
    return {"x": 0.012, "ha": "left", "fontsize": size, "parse_math": False, "family": families()}
