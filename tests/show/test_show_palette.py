"""Colours keep their order in grey and keep letters readable."""

import itertools

import pytest

from mambascope.show.palette import ANCHORS, TERMINAL_GROUNDS, TERMINAL_TEXT, shade, terminal_style


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ANCHORS)
@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_lightness_is_monotone(theme, sign):
    steps = [luminance(colour) for colour in ANCHORS[theme][sign]]
    direction = -1 if theme == "light" else 1
    assert all(direction * (after - before) > 0 for before, after in itertools.pairwise(steps))


@pytest.mark.parametrize("sign", TERMINAL_GROUNDS)
def test_terminal_letters_are_readable_and_grounds_stand_out_on_black_and_white(sign):
    for ground in TERMINAL_GROUNDS[sign]:
        assert contrast(ground, TERMINAL_TEXT) >= 4.5  # the accessibility guidelines' figure for body text
        assert contrast(ground, "#ffffff") >= 3
        assert contrast(ground, "#000000") >= 3


def test_shade():
    assert shade(0.25, 1.0) == 0.5
    assert shade(-4.0, 1.0) == 1.0
    assert shade(1.0, 0.0) == 0.0
    assert terminal_style(0.001, 1.0) is None
    assert terminal_style(-1.0, 1.0) != terminal_style(1.0, 1.0)
