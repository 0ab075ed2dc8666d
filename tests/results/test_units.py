"""Words, sentences, lines and paragraphs from tokens."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mambascope.results.units import UNITS


def parts(pieces, units):
    return ["".join(pieces[run.start : run.stop]) for run in UNITS[units](pieces)]


WORDS = {
    "pieces of words": (["Mr", ".", " Bol", "ton", " was", "n", "'t", ","], ["Mr", ".", " Bolton", " wasn't", ","]),
    "a token that reaches into the next word": (["Mr", ". Bol", "ton"], ["Mr", ". Bolton"]),
    "single characters": (list("Mr. B  hi"), ["Mr", ".", " B", "  hi"]),
    "special tokens": (["<s>", "Hel", "lo", "</s>", "[CLS]", "<|end|>"], ["<s>", "Hello", "</s>", "[CLS]", "<|end|>"]),
    "special tokens side by side": (["[MASK]", "[MASK]"], ["[MASK]", "[MASK]"]),
    "no spaces between words": (["好", "你", "好"], ["好", "你", "好"]),
    "a character of several tokens": (["a", " 好", "", "", "b"], ["a", " 好", "b"]),
    "numbers and marks": ([" 3", ".", "5", "..", "."], [" 3", ".", "5", "..."]),
    "ends of lines": (["a", "\n", "\n", " b"], ["a", "\n\n", " b"]),
    "spaces alone": (["  "], ["  "]),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_words(name):
    pieces, expected = WORDS[name]
    assert parts(pieces, "words") == expected


def test_sentences_end_at_their_marks_but_not_at_titles():
    pieces = ["Mr", ". Bol", "ton", " came", ".", " He", " left", '!"', " J", ".", " Smith", " stayed", "."]
    assert parts(pieces, "sentences") == ["Mr. Bolton came.", ' He left!"', " J. Smith stayed."]


def test_a_token_that_reaches_into_the_next_sentence_counts_with_the_first():
    assert parts(["He came", ". The", "n he", " left."], "sentences") == ["He came. The", "n he left."]


def test_lines_and_paragraphs():
    pieces = ["a", "\n", "b", "\n\n", "c", "\n", "d"]
    assert parts(pieces, "lines") == ["a\n", "b\n\n", "c\n", "d"]
    assert parts(pieces, "paragraphs") == ["a\nb\n\n", "c\nd"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.text("ab.A \n好<>'", max_size=4), max_size=12), st.sampled_from(sorted(UNITS)))
def test_units_part_the_tokens(pieces, units):
    runs = UNITS[units](pieces)
    assert [position for run in runs for position in run] == list(range(len(pieces)))
    assert all(len(run) for run in runs)
