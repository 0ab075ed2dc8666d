"""Models and methods on one text, or on two: on the screen, as a figure, as a page."""

import dataclasses
import io
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from browser import open_file
from mambascope.errors import InputError
from mambascope.results.alignment import common_units, unit_names
from mambascope.results.text_comparison import TextComparison, compared_row
from mambascope.show.palette import ANCHORS
from mambascope.show.shades import INKS, LEVELS, shade_class, shade_rules
from mambascope.show.text_comparison import print_text_comparison
from mambascope.show.text_comparison_figure import save_text_comparison, text_comparison_figure
from mambascope.show.text_comparison_page import text_comparison_page
from show_results import HOSTILE, PLAIN, result

METHODS = ("mamba-lrp", "alti-logit", "latim")


def compared(tokens=PLAIN, methods=METHODS[:2], left_out=(), **facts):
    """A comparison of methods on one text."""
    (units,) = common_units([tokens])
    rows = []
    for seed, method in enumerate(methods):
        made = result(tokens, signed=method != "latim", single=True, method=method, seed=seed, **facts)
        made = dataclasses.replace(made, target=dataclasses.replace(made.target, asked="logit of ' Mary'", value=2.5))
        rows.append(compared_row([made], [units], [len(units) - 1]))
    return TextComparison(tuple(rows), (tuple(unit_names(tokens, units)),), left_out)


def changed(second=(*PLAIN[:3], " Anna", " Lee", *PLAIN[4:])):
    """A comparison of two texts: a name is replaced by two tokens."""
    at = len(PLAIN) - 1
    units = [[range(k, k + 1) for k in range(3)], [range(k, k + 1) for k in range(3)]]
    units[0] += [range(3, 4), *(range(k, k + 1) for k in range(4, at + 1))]
    units[1] += [range(3, 5), *(range(k + 1, k + 2) for k in range(4, at + 1))]
    both = [
        result(text, signed=True, single=True, method="mamba-lrp", seed=k) for k, text in enumerate((PLAIN, second))
    ]
    both = [
        dataclasses.replace(one, target=dataclasses.replace(one.target, asked="logit of ' Mary'", value=value))
        for one, value in zip(both, (2.5, -1.0), strict=True)
    ]
    names = [["".join(one.tokens[u.start : u.stop]) for u in own] for one, own in zip(both, units, strict=True)]
    return TextComparison((compared_row(both, units, [at, at]),), tuple(map(tuple, names)))


def patched(layers=3, shares=None):
    """A comparison of two texts with what patching found, one layer's share of the first token being negative."""
    comparison = changed()
    scores = torch.zeros(layers, len(PLAIN)) if shares is None else shares
    if shares is None:
        scores[0, 3], scores[-1, -1], scores[1, 0] = 0.42, 1.0, -0.13
    made = dataclasses.replace(
        result(PLAIN, layers=layers, signed=True, single=True, method="patching"),
        scores=scores[:, None],
        diagnostics={
            "clean": 2.5, "corrupted": -1.0, "put_in": "stream", "together": 1.0, "patching_error": 2e-7,
            "other_tokens": [*PLAIN[:3], " Anna", *PLAIN[4:]],
        },
    )  # fmt: skip
    target = dataclasses.replace(made.target, asked="logit of ' Mary'", value=2.5)
    return dataclasses.replace(comparison, patched=(dataclasses.replace(made, target=target),))


def printed(comparison, width=80, **options):
    file = io.StringIO()
    print_text_comparison(comparison, Console(file=file, width=width, **options))
    return file.getvalue()


def test_the_screen_has_a_text_per_row_and_says_where_rows_disagree():
    comparison = compared(methods=METHODS, left_out=("rollout on it: it does not read it",))
    out = printed(comparison)
    for number, method in enumerate(METHODS, start=1):
        assert f"{number}  {method} · made-up/mamba-tiny\n" in out
    assert len(re.findall(r"»\[?to\]?«", out)) == 3
    assert out.count("logit of ' Mary' = 2.5 · predicts ' Mary' 61.2 %") == 3
    top = comparison.contrasts()[0]
    assert re.search(rf"\n +{top.column}  {re.escape(comparison.named(top.column))} +{top.rows[0] + 1}: ", out)
    first = comparison.agreements()[0]
    assert f"rows {first.rows[0] + 1} and {first.rows[1] + 1}: {100 * first.elsewhere:.1f} % lies elsewhere" in out
    assert "Left out: rollout on it: it does not read it." in out


def test_rows_are_shaded_on_one_scale():
    """A row whose scores are alike has no token in the deepest colour, though each is the largest of its row."""
    comparison = compared()
    comparison.rows[0].scores[:] = torch.tensor([1.0, *[0.0] * (len(PLAIN) - 1)])
    comparison.rows[1].scores[:] = 1.0
    deepest = "48;2;5;96;210m"
    out = printed(comparison, force_terminal=True, color_system="truecolor", no_color=False)
    _, first, second = re.split(r"\d  (?:mamba-lrp|alti-logit) · ", out.partition("adds")[0].rpartition("\n")[0])
    assert deepest in first
    assert "48;2;" in second
    assert deepest not in second


def test_two_texts_are_aligned_and_what_changed_is_listed():
    comparison = changed()
    out = printed(comparison, width=100)
    lines = out.splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("When"))
    marked = slice(lines[first + 2].index("^"), len(lines[first + 2]))
    assert [re.sub(r"[\[\]]", "", line[marked]).strip() for line in lines[first : first + 2]] == ["John", "Anna Lee"]
    assert "logit of ' Mary' = 2.5 → −1 (−3.5)" in out
    assert "' John' → ' Anna Lee'" in out
    row = comparison.rows[0].scores
    assert f"{float(row[1].sum() - row[0].sum()):+.4g}".replace("-", "\u2212") in out


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("make", [compared, changed, patched, lambda: patched(40), lambda: compared(HOSTILE)])
def test_no_line_is_wider_than_the_screen(make, width):
    for options in ({}, {"force_terminal": True, "color_system": None}):
        out = printed(make(), width=width, **options)
        assert max(map(cell_len, out.splitlines())) <= width
        assert "\x1b[31m" not in out


def test_a_long_text_is_cut_to_what_matters():
    comparison = compared(tuple(f" word{k}" for k in range(3000)))
    out = printed(comparison)
    assert len(out.splitlines()) < 40
    left = int(re.search(r"(\d+) tokens left out", out)[1])
    assert left > 2500
    assert re.search(r"»\[?word2999\]?«", out)


@pytest.mark.parametrize("make", [compared, lambda: compared(methods=METHODS), patched, lambda: compared(HOSTILE)])
@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_every_format_is_written(make, suffix, start, tmp_path):
    path = save_text_comparison(make(), tmp_path / f"x{suffix}")
    assert path.read_bytes().startswith(start)


def test_the_figure_has_a_line_per_row_and_one_of_differences():
    comparison = compared()
    upper, lower, *_ = text_comparison_figure(comparison).get_axes()
    shares = torch.stack([row.shares[0] for row in comparison.rows]).numpy()
    assert upper.get_images()[0].get_array().tolist() == shares.tolist()
    assert lower.get_images()[0].get_array().tolist() == [(shares[1] - shares[0]).tolist()]
    assert [label.get_text().strip() for label in upper.get_xticklabels()] == [name.strip() for name in PLAIN]
    long = compared(tuple(f" word{k}" for k in range(100)))
    assert len(text_comparison_figure(long).get_axes()[0].get_xticklabels()) < 20


def test_the_figure_of_two_texts_shows_both_and_the_change():
    upper, lower, *_ = text_comparison_figure(changed()).get_axes()
    assert len(upper.get_images()[0].get_array()) == 2
    assert len(lower.get_images()[0].get_array()) == 1
    assert upper.get_xticklabels()[3].get_text().strip() == "John"
    assert lower.get_xticklabels()[3].get_text().strip() == "Anna Lee"


def test_what_patching_brings_back_is_a_table_of_positions_and_layers():
    out = printed(patched())
    assert "patching · made-up/mamba-tiny\nput in: the stream that leaves the layer" in out
    assert re.search(r"place  % brought back +0    2    4\n", out), "layers go by their numbers in the model"
    assert re.search(r" 0  'When' +0  \u221213    0\n", out)
    assert re.search(r" 3  ' John' → ' Anna' +42    0    0\n", out)
    assert re.search(r"13  ' to' +0    0  100\n", out)
    assert "' and' " not in out.partition("% brought back")[2], "nothing comes back there"
    page = text_comparison_page(patched())
    assert '<td class="name">&#x27; John&#x27; → &#x27; Anna&#x27;</td><td class="number plus8">42</td>' in page
    assert page.count('<tr><td class="number">') >= len(PLAIN)
    *_, last = [axes for axes in text_comparison_figure(patched()).get_axes() if axes.get_images()]
    assert last.get_images()[0].get_array().tolist() == patched().patched[0].scores[:, 0].tolist()
    assert last.get_title(loc="left") == "patching · made-up/mamba-tiny"


def test_where_layers_are_too_many_for_numbers_each_has_a_bar():
    line = next(line for line in printed(patched(40), width=80).splitlines() if "' to'" in line and "█" in line)
    assert len(line) == 7 + 24 + 40
    assert line[7 + 24 : -1].strip() == ""
    low = next(line for line in printed(patched(40)).splitlines() if "'When'" in line and "\u2212" in line)
    assert low[7 + 24 + 1] == "\u2212"


def test_one_row_has_nothing_to_differ_from():
    comparison = compared(methods=METHODS[:1])
    assert "furthest apart" not in printed(comparison)
    assert len(text_comparison_figure(comparison).get_axes()) == 2, "the map and its scale"
    assert "There is one row." in text_comparison_page(comparison)


def test_the_page_loads_nothing_and_tokens_stay_text():
    for page in (
        text_comparison_page(compared(HOSTILE), command=HOSTILE[1]),
        text_comparison_page(dataclasses.replace(changed(), names=(HOSTILE[: len(PLAIN)],) * 2), command=HOSTILE[0]),
    ):
        assert not re.search(r"https?://", page)
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;/script&gt;" in page
        assert "\x1b" not in page


def test_the_page_says_both_numbers_of_a_token():
    comparison = compared()
    page = text_comparison_page(comparison, "mambascope compare x")
    for one in comparison.contrasts():
        shares = [f"{100 * share:.1f} %" if abs(share) >= 0.001 else "&lt;0.1 %" for share in one.shares]
        said = f"furthest apart: row 1 {shares[0]}, row 2 {shares[1]}, difference".replace("-", "\u2212")
        assert said in page
    assert page.count("furthest apart: row") == 3 * len(PLAIN), "in both rows and in the row of differences"
    for row in comparison.rows:
        for score in row.scores[0].tolist():
            assert f"{score:.4g}".replace("-", "\u2212", 1) in page
    assert "mambascope compare x" in page


def test_the_page_of_two_texts_says_what_changed():
    comparison = changed()
    page = text_comparison_page(comparison)
    first, second = comparison.rows[0].scores[:, 3].tolist()
    said = f"&#x27; John&#x27; → &#x27; Anna Lee&#x27;: {first:.4g} → {second:.4g} (".replace("-", "\u2212")
    assert page.count(said) == 2
    assert page.count('class="pair differs"') == 1


@pytest.mark.browser
@pytest.mark.parametrize("make", [compared, patched])
def test_the_page_opens_without_a_complaint(make, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(text_comparison_page(make()), "utf-8")
    dom, messages = open_file(page)
    assert not messages
    assert len([one for tag, one in dom.elements if tag == "span" and "title" in one]) >= 2 * len(PLAIN)


def test_shades_follow_the_colours_and_letters_stand_out():
    assert shade_class(1.0, 1.0) == f"plus{LEVELS}"
    assert shade_class(-0.25, 1.0) == f"minus{LEVELS // 2}"
    assert shade_class(0.0, 1.0) == shade_class(0.0, 0.0) == ""
    rules = shade_rules()
    for ground in ("light", "dark"):
        for hue, name in (("positive", "plus"), ("negative", "minus")):
            assert f".{name}{LEVELS} {{ background: {ANCHORS[ground][hue][-1]};" in rules
    deepest = re.search(rf"\.plus{LEVELS} {{ background: #\w+; color: (#\w+)", rules)[1]
    assert deepest == INKS[1], "white on dark blue"


def test_what_cannot_be_shown_is_refused():
    empty = TextComparison((), (PLAIN,))
    broken = compared()
    broken.rows[0].results[0].scores[0, 0, 0] = torch.inf
    for show in (printed, text_comparison_figure, text_comparison_page):
        with pytest.raises(InputError, match="nothing to compare"):
            show(empty)
        with pytest.raises(InputError, match="not finite"):
            show(broken)
