"""Tokens as people read them."""

import pytest

from mambascope.show.tokens import visible
from show_results import HOSTILE


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", "∅"),
        (" the", " the"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("\x1b[1m", "␛[1m"),
        ("\u2028", "‹U+2028›"),
        ("\u202e", "‹U+202E›"),
        ("\ud800", "‹U+D800›"),
        ("\u200d", "‹U+200D›"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("<b>&", "<b>&"),
    ],
)
def test_visible(token, says):
    assert visible(token) == says


@pytest.mark.parametrize("token", HOSTILE)
def test_visible_is_never_empty_and_can_be_written(token):
    assert visible(token)
    visible(token).encode("utf-8")
