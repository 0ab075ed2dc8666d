"""A figure that a notebook shows as it is returned, whether or not pyplot is there."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from matplotlib.figure import Figure

from mambascope.show.typeface import families

LETTERS = 8.0  # points
#: Inches of one letter at 8 points, on average and generously.
LETTER = 0.058


class Sheet(Figure):
    """matplotlib's figure with a picture of its own for notebooks, and room for a heading and a caption.

    Notebooks show matplotlib's figures once pyplot is imported; before, a cell that ends with one says
    `<Figure size …>`. Where pyplot is there its own way is taken, so that nothing is shown twice.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

    def head(self, heading: str) -> None:
        """Write what the figure shows above all its parts."""
        self.suptitle(self._lines(heading, LETTERS + 2), fontweight="bold", **_text(LETTERS + 2))

    def caption(self, words: str) -> None:
        """Write how to read the figure below all its parts."""
        self.supxlabel(self._lines(words, LETTERS), color="#444444", **_text(LETTERS))

    def _lines(self, words: str, size: float) -> str:
        return broken(words, self.get_figwidth() - 0.3, size)


def broken(words: str, width: float, size: float = LETTERS) -> str:
    """Return words on as many lines as letters of a size need in so many inches."""
    letters = max(int(width / (LETTER * size / LETTERS)), 12)
    return "\n".join("\n".join(textwrap.wrap(line, letters)) for line in words.split("\n"))


def _text(size: float) -> dict[str, Any]:
    """Keywords for text at the left that is never mathematics: a token may hold dollar signs."""
    return {"x": 0.012, "ha": "left", "fontsize": size, "parse_math": False, "family": families()}
