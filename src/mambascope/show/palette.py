"""The colours of a score: one hue for positive, another for negative, both monotone in lightness.

Blue and orange are told apart by readers with every common colour-vision deficiency, and because lightness falls (on a
dark page: rises) steadily with the score, the order survives a black-and-white printer. The shade of a score is the
square root of its share of the largest score in view: a hundredth of the largest still gets a tenth of the colour.
"""

from __future__ import annotations

import math

from matplotlib.colors import Colormap, LinearSegmentedColormap

# From no score to the largest, on a light and on a dark background; the first colour is the background itself.
ANCHORS = {
    "light": {
        "positive": ("#ffffff", "#d6e6f5", "#8fc1e3", "#3e8ec9", "#0f5ca8", "#08306b"),
        "negative": ("#ffffff", "#fde3c8", "#fbb36b", "#ec7a1c", "#b84e04", "#702603"),
    },
    "dark": {
        "positive": ("#14181f", "#16324f", "#1b5688", "#2f86cc", "#6bb8f2", "#cfe9ff"),
        "negative": ("#14181f", "#44290e", "#7d450c", "#c4701a", "#f0a552", "#ffe2bd"),
    },
}
# In a terminal the background is unknown, so every shade has the same medium lightness, which stands out as much from
# black as from white, and the score shows in how colourful it is.
TERMINAL_GROUNDS = {
    "positive": ("#66707d", "#536f92", "#3c6da8", "#2268bd", "#0560d2"),
    "negative": ("#78706a", "#8c6a4e", "#9c6331", "#aa5a17", "#b85000"),
}
TERMINAL_TEXT = "#ffffff"
# Below this shade, a twenty-fifth of the largest score, the terminal leaves a token uncoloured.
FAINT = 0.2


def shade(score: float, largest: float) -> float:
    """Return how strongly to colour a score, from 0 to 1: the square root of its share of the largest in view."""
    return math.sqrt(min(abs(score) / largest, 1.0)) if largest > 0 else 0.0


def terminal_style(score: float, largest: float) -> str | None:
    """Return the rich style (text and background) for a score in a terminal, or None if it is too faint to show."""
    strength = shade(score, largest)
    if strength < FAINT:
        return None
    grounds = TERMINAL_GROUNDS["negative" if score < 0 else "positive"]
    ground = grounds[min(int(strength * len(grounds)), len(grounds) - 1)]
    return f"{TERMINAL_TEXT} on {ground}"


def colormap(signed: bool) -> Colormap:
    """Return the matplotlib colours for scores on white paper: from 0 to 1, or for signed scores from -1 to 1."""
    positive = ANCHORS["light"]["positive"]
    if not signed:
        return LinearSegmentedColormap.from_list("mambascope", positive)
    negative = ANCHORS["light"]["negative"]
    return LinearSegmentedColormap.from_list("mambascope-signed", (*reversed(negative[1:]), *positive))
