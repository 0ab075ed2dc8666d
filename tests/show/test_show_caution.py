"""What should not be relied on is said to be so wherever a result is shown, and what is sound is not."""

import dataclasses

import pandas
import pytest
from matplotlib.text import Text

import mambascope
from mambascope.evaluate.summary import ALL_LAYERS, COLUMNS, summarise
from mambascope.show.comparison import Compared
from mambascope.show.comparison_figure import comparison_figure
from mambascope.show.comparison_page import comparison_page
from mambascope.show.figure import figure
from mambascope.show.notebook import frame_height
from mambascope.show.page import html_page
from mambascope.show.terminal import print_attribution
from page_contents import data_of
from show_results import picture_result, result

WORDS = "do not rely on these scores: they miss the number that they explain by 120%, more than half of it"
KINDS = {
    "a line": {"single": True, "tokens": 60},
    "bars": {"single": True},
    "a map": {},
}


def in_one_line(text):
    return " ".join(text.split())


def words_of(sheet):
    """Return all that a figure says."""
    return in_one_line(" ".join(text.get_text() for text in sheet.findobj(Text)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [1.2, 0.01])
def test_a_text(kind, error, capsys):
    shown = result(**KINDS[kind], completeness_error=error)
    bad = error > 1
    print_attribution(shown)
    assert (WORDS in in_one_line(capsys.readouterr().out)) == bad
    assert (data_of(html_page(shown))["methods"][0]["diagnostics"].get("caution") == WORDS) == bad
    assert (f"Caution: {WORDS}." in words_of(figure(shown))) == bad
    assert (frame_height(shown) > frame_height(result(**KINDS[kind]))) == bad
    stored = dataclasses.replace(shown, diagnostics={**shown.diagnostics, **({"caution": WORDS} if bad else {})})
    assert ("do not rely on these scores" in repr(stored)) == bad


@pytest.mark.parametrize("error", [1.2, 0.01])
def test_a_picture_and_a_comparison(error, capsys):
    shown, bad = picture_result(completeness_error=error), error > 1
    print_attribution(shown)
    assert (WORDS in in_one_line(capsys.readouterr().out)) == bad
    assert (data_of(html_page(shown))["methods"][0]["diagnostics"].get("caution") == WORDS) == bad
    assert (f"Caution: {WORDS}." in words_of(figure(shown))) == bad
    rows = [Compared((shown,), ("",)), Compared((picture_result(),), ("",))]
    sheet = words_of(comparison_figure(rows, [shown.method]))
    assert (f"Caution: {shown.method}: {WORDS}." in sheet) == bad
    assert ("do not rely on these scores class" in sheet) == bad, "below the cell, before its shares"
    assert (f"Caution: {WORDS}." in comparison_page(rows, [shown.method])) == bad


@pytest.mark.parametrize("error", [1.2, 1e-6])
def test_a_report(error):
    lines = [("task", "m", "a", ALL_LAYERS, str(sample), "conservation_error", error) for sample in range(3)]
    (summary,) = summarise(pandas.DataFrame(lines, columns=list(COLUMNS)), resamples=20)
    assert ("a on m: do not rely on these scores: they miss what they should add up to" in summary.note()) == (
        error > 1
    )


def test_a_rule_that_leaves_most_of_a_layer_unexplained_says_so_by_itself():
    """On the bundled model the paper's rule leaves a tenth of the layers' outputs unexplained, the identity most."""
    loaded = mambascope.load("tiny-mamba")
    exact, silu, identity = mambascope.explain(
        *loaded, "When Mary and John went to the store", method=["latim", "latim-silu", "latim-identity"]
    )
    assert "caution" not in exact.diagnostics
    assert "caution" not in silu.diagnostics
    left = f"{identity.diagnostics['residual']:.0%}"
    assert identity.diagnostics["caution"].startswith(f"do not rely on these scores: the activation rule leaves {left}")
    assert "do not rely on these scores" in repr(identity)
    assert exact.diagnostics["precision"] == "float32"
