"""Where a score falls on the colours: by the square root of its share of the largest, as all over this package."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize, PowerNorm


def score_norm(largest: float, signed: bool, smallest: float = 0.0) -> Normalize:
    """Return the norm for scores up to a largest absolute value; unsigned scales begin at the smallest score."""
    largest = largest or 1.0
    return SignedRoot(largest) if signed else PowerNorm(0.5, smallest, largest)


class SignedRoot(Normalize):
    """Maps scores from -largest to largest onto 0 to 1, by the square root of their size: zero to the middle."""

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
