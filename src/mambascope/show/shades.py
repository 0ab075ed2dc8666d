"""Shades of scores as classes of a style sheet, for pages without a script, on light and on dark backgrounds."""

from __future__ import annotations

from itertools import pairwise

from mambascope.show.palette import ANCHORS, shade

#: How many shades each hue has.
LEVELS = 12
INKS = ("#1b1f24", "#ffffff")


def shade_class(score: float, largest: float) -> str:
    """Return the class of a score's shade; empty if it is too faint for any."""
    level = round(shade(score, largest) * LEVELS)
    return f"{'minus' if score < 0 else 'plus'}{level}" if level else ""


def shade_rules() -> str:
    """Return the rules of all classes, with letters in whichever ink stands out more."""
    light, dark = ("\n".join(_rules(ground)) for ground in ("light", "dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _rules(ground: str) -> list[str]:
    rules = []
    for hue, name in (("positive", "plus"), ("negative", "minus")):
        for level in range(1, LEVELS + 1):
            colour = _between(ANCHORS[ground][hue], level / LEVELS)
            ink = max(INKS, key=lambda one: _contrast(one, colour))
            rules.append(f".{name}{level} {{ background: {colour}; color: {ink}; }}")
    return rules


def _between(anchors: tuple[str, ...], strength: float) -> str:
    """Return the colour at a place from 0 to 1 along evenly spaced colours."""
    place = strength * (len(anchors) - 1)
    number = min(int(place), len(anchors) - 2)
    first, second = map(_channels, list(pairwise(anchors))[number])
    mixed = (a + (b - a) * (place - number) for a, b in zip(first, second, strict=True))
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in mixed)


def _channels(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))


def _contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, as the Web Content Accessibility Guidelines define it."""
    lighter, darker = sorted(map(_luminance, (first, second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour))
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
