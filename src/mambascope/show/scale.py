"""Where on the colours a score falls: the square root of its share of the largest, as everywhere in this package."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize, PowerNorm


def score_norm(largest: float, signed: bool, smallest: float = 0.0) -> Normalize:
    """Return the norm for scores up to a largest size, of both signs or of one; these from a smallest on."""
    largest = largest or 1.0
    return SignedRoot(largest) if signed else PowerNorm(0.5, smallest, largest)


class SignedRoot(Normalize):
    """Scores from -largest to largest onto 0 to 1 by the square root of their size: zero falls on the middle colour."""

    def __init__(self, largest: float) -> None:
        super().__init__(-largest, largest)

    def __call__(self, value, clip=None):  # type: ignore[no-untyped-def]  # matplotlib's signature
        """Return where on the colour map the scores fall."""
        share = np.ma.asarray(value, dtype=float) / self.vmax
        return np.ma.asarray(0.5 + 0.5 * np.sign(share) * np.sqrt(np.abs(share)))

    def inverse(self, value):  # type: ignore[no-untyped-def]  # matplotlib's signature
        """Return the scores at these places of the colour map."""
        root = 2 * np.asarray(value, dtype=float) - 1
        return self.vmax * np.sign(root) * root**2
