"""The terminal's one screen: it fits, it escapes, it says the same in a pipe as in colour."""

import dataclasses
import io
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from mambascope.errors import InputError
from mambascope.show import print_attribution
from mambascope.show.excerpt import excerpt
from mambascope.show.screen import EIGHTHS, number, percent
from show_results import HOSTILE, PLAIN, result, with_removals

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


def printed(attribution, **console):
    stream = io.StringIO()
    print_attribution(attribution, Console(file=stream, **{"width": 80, **console}))
    return stream.getvalue()


def colour(attribution):
    return printed(attribution, force_terminal=True, color_system="truecolor", _environ={})


def without_codes(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


CUT = ("好", "", "", "😀", "", "", "")
CASES = {
    "plain": result(),
    "signed": result(signed=True),
    "hostile": result(HOSTILE, signed=True),
    "one token": result(("",)),
    "50 tokens": result(50, layers=24),
    "3000 tokens": result(3000, layers=2, single=True),
    "100 layers": result(layers=100),
    "single target": result(single=True),
    "left padding": result(("",) * 5 + PLAIN),
    "one layer": result(layers=1),
    "removed": with_removals(result(single=True, signed=True)),
    "cut characters": result(("a", *CUT, *CUT, " b"), layers=1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pipe_gets_plain_text_that_fits_one_screen_of_80_columns(case):
    text = printed(CASES[case])
    assert "\x1b" not in text
    assert max(map(cell_len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 40


@pytest.mark.parametrize("case", CASES)
def test_colour_fits_one_screen_too(case):
    lines = without_codes(colour(CASES[case])).splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert len(lines) <= 40


def test_headline_says_what_was_explained():
    head = printed(result(layers=3)).split("\n\n")[0]
    for part in (
        "hidden_attention",
        "made-up/mamba-tiny",
        "mamba",
        "3 layers",
        "13",
        "' to'",
        "' Mary' 61.2 %",
        "' John' 20.1 %",
    ):
        assert part in head


def test_layers_left_out_of_the_result_are_counted():
    attribution = result(layers=3)
    object.__setattr__(attribution.model, "layers", 24)
    assert "3 of 24 layers" in printed(attribution)


def test_brackets_mark_the_largest_scores_in_a_pipe_and_only_there():
    attribution = result()
    text = printed(attribution)
    for source in attribution.top(5):
        assert f"[{source.token.strip()}]" in text.replace("»", "").replace("«", "")
    assert "»" in text
    assert "»" not in colour(attribution)


def test_shaded_tokens_set_both_text_and_ground():
    codes = re.findall(r"\x1b\[([0-9;]*48;2;[0-9;]*)m", colour(result(signed=True)))
    assert codes
    assert all("38;2;" in code for code in codes)


def test_signs_have_different_hues():
    attribution = result(("a", "b"), layers=1, signed=True)
    attribution.scores[0, 1] = torch.tensor([1.0, -1.0])
    shaded = colour(attribution).splitlines()[3]
    grounds = re.findall(r"48;2;(\d+);(\d+);(\d+)", shaded)
    (red, _, blue), (other_red, _, other_blue) = (tuple(map(int, ground)) for ground in grounds)
    assert blue > red
    assert other_red > other_blue


def test_the_target_is_underlined():
    assert re.search(r"\x1b\[[0-9;]*\b4;[0-9;]*m to\x1b", colour(result()))


def test_no_color_is_heard(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    print_attribution(result(), Console(file=stream, force_terminal=True, width=80))
    assert "»" in stream.getvalue()


def test_hostile_tokens_are_shown_and_do_nothing():
    for text in (printed(result(HOSTILE)), colour(result(HOSTILE))):
        assert "[bold]" in text
        assert "\x1b[31m" not in text
        assert "\u202e" not in text
        assert "\u2028" not in text
    assert "'\\n'" in printed(result(("a", "\n"), layers=1))


def test_table_holds_the_scores_and_shares_that_add_up():
    attribution = result()
    rows = [line for line in printed(attribution).splitlines() if re.match(r"\s+\d+\s+\d+  ", line)]
    for source, line in zip(attribution.top(10), rows, strict=True):
        assert line.split()[1] == str(source.position)
        assert number(source.score) in line
        assert line.endswith(percent(source.share))
    shares = [float(share) for share in re.findall(r"([\d.]+) %$", printed(attribution).split("\n\n")[2], flags=re.M)]
    assert sum(shares) == pytest.approx(100, abs=1)  # eleven figures rounded to 0.1


@pytest.mark.parametrize("focus", [5, 13])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("tokens", [14, 15, 40])
def test_the_sources_that_are_not_listed_are_counted(tokens, bidirectional, focus):
    """A model that reads both ways draws from every token, a causal one from the target and those before it."""
    attribution = result(tokens, layers=1)
    if bidirectional:
        attribution.scores.copy_(attribution.scores + attribution.scores.transpose(1, 2))
    target = dataclasses.replace(attribution.target, position=focus)
    found = re.search(r"(\d+) other sources?  .* ([\d.]+) %", printed(dataclasses.replace(attribution, target=target)))
    left = (tokens if bidirectional else focus + 1) - 10
    if left <= 0:
        assert found is None
        return
    assert int(found[1]) == left
    row = attribution.scores[0, focus].sort(descending=True).values
    assert float(found[2]) == pytest.approx(100 * float(row[10:].sum() / row.sum()), abs=0.1)


def test_a_mean_over_positions_draws_from_every_token():
    attribution = result(30, layers=1, single=True)
    attribution.scores.fill_(1.0)
    target = dataclasses.replace(attribution.target, pooled=30)
    assert "20 other sources" in printed(dataclasses.replace(attribution, target=target))


def test_a_long_text_says_how_much_was_left_out():
    attribution = result(3000, layers=1, single=True)
    text = printed(attribution)
    left_out = int(re.search(r"(\d+) tokens left out", text)[1])
    assert left_out + len(re.findall(r"word\d+", text.split("\n\n")[1])) == 3000


def test_layers_line_names_the_heaviest_and_both_ends():
    attribution = result(layers=5)
    attribution.scores[3] *= 1000
    line = next(line for line in printed(attribution).splitlines() if line.startswith("layers"))
    assert re.match(r"layers +0 .{3}█. 8 ", line)
    assert "most in layer 6" in line


@pytest.mark.parametrize("width", [40, 80])
def test_the_kinds_of_a_hybrids_layers_are_one_line_of_bars(width):
    shares = {"scan": 0.25, "attention": 0.75}
    text = printed(result(share_by_kind=shares), width=width)
    (line,) = [line for line in text.splitlines() if line.startswith("kinds ")]
    words = re.sub(f"[{EIGHTHS[1:]}█,]", "", line).split()
    assert words == ["kinds", "attention", "75.0", "%", "scan", "25.0", "%"], "the largest first"
    largest, other, _ = (part.count("█") for part in line.split("%"))
    assert largest == pytest.approx(3 * other, abs=3)
    assert (largest > 0) == (width == 80)
    assert cell_len(line) <= width
    assert "kinds" not in printed(result(), width=width), "layers that are all alike"
    by_mass = printed(result(layer_kinds=["scan", "attention", "scan"]), width=width)
    assert "kinds     " in by_mass


def test_evidence_and_page_are_told():
    text = printed(result(written="out/page.html"))
    assert "4.1e-07" in text
    assert "1.2 s" in text
    assert "out/page.html" in text
    assert "no error was measured" in printed(result(reconstruction_error=None))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_old_encoding_gets_signs_it_can_hold(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_attribution(result(HOSTILE, signed=True), Console(file=stream, width=80))
    stream.flush()
    assert b"#" in stream.buffer.getvalue()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("coloured", [False, True])
def test_forty_columns_hold_the_screen_and_every_source_has_a_line_of_its_own(case, coloured):
    options = {"force_terminal": True, "color_system": "truecolor", "_environ": {}} if coloured else {}
    lines = without_codes(printed(CASES[case], width=40, **options)).splitlines()
    assert max(map(cell_len, lines)) <= 40
    rows = [line for line in lines if re.match(r" {1,2}\d{1,2} +\d+ '.*[\d.]+ +<?[\d.]+ %$", line)]
    assert len(rows) == len(CASES[case].top(10))


def test_a_character_of_several_tokens_is_shown_once_by_its_largest_score():
    attribution = result(("a", *CUT), layers=1, signed=True)
    attribution.scores[0, -1] = torch.tensor([0.1, 0.1, -3.0, 0.2, 0.1, 0.1, 0.1, 2.0])
    text, sources = printed(attribution).split("\n\n")[1:3]
    assert text.splitlines()[0] == "[a][好]»[😀]«"
    assert "a character of several tokens is shown once" in text
    assert [line.split()[1] for line in sources.splitlines()[1:3]] == ["2", "7"]
    assert "'‹2/3 of 好›'" in sources
    assert "'‹4/4 of 😀›'" in sources
    assert "position 7 '‹4/4 of 😀›'" in printed(attribution)
    shaded = colour(attribution).split("\n\n")[1].splitlines()[0]
    grounds = re.findall(r"48;2;(\d+);\d+;(\d+)m(.)", shaded)
    assert [(word, int(red) > int(blue)) for red, blue, word in grounds] == [("好", True), ("😀", False)]
    assert "several tokens" not in printed(result())


def test_classes_that_do_not_exclude_each_other_are_said_to_be_independent():
    attribution = result(layers=1)
    several = dataclasses.replace(attribution, target=dataclasses.replace(attribution.target, independent=True))
    assert "→ predicts, each class by itself: ' Mary' 61.2 %, ' John' 20.1 %" in printed(several, width=100)
    assert "→ predicts ' Mary' 61.2 %, then ' John' 20.1 %" in printed(attribution)


@pytest.mark.parametrize("width", [20, 40, 300])
def test_other_widths_print(width):
    assert max(map(cell_len, printed(result(), width=width).splitlines())) <= min(width, 100)


def test_zero_scores_are_not_hidden():
    attribution = result(layers=2)
    attribution.scores.zero_()
    assert "every score is zero" in printed(attribution)


def test_scores_that_are_not_numbers_are_refused():
    attribution = result()
    attribution.scores[1, 2, 0] = float("nan")
    with pytest.raises(InputError, match=r"layers \[2\]"):
        printed(attribution)


@pytest.mark.parametrize(("share", "says"), [(0.0, "0.0 %"), (0.0004, "<0.1 %"), (0.1234, "12.3 %"), (1.0, "100 %")])
def test_percent(share, says):
    assert percent(share) == says


@pytest.mark.parametrize("length", [1, 10, 500])
@pytest.mark.parametrize("budget", [5, 100, 10_000])
def test_excerpt_keeps_the_target_and_the_budget(length, budget):
    cells = [1 + j % 7 for j in range(length)]
    runs = excerpt(cells, length - 1, [0, length // 2], budget)
    kept = [j for run in runs for j in run]
    assert kept == sorted(set(kept))
    assert length - 1 in kept
    assert sum(cells[j] for j in kept) <= max(budget, cells[-1])
    if sum(cells) <= budget:
        assert kept == list(range(length))
    elif budget == 100:
        assert 0 in kept


def test_what_was_measured_stands_beside_the_scores_where_there_is_room():
    shown = with_removals(result(single=True, signed=True), count=3)
    lines = printed(shown).splitlines()
    head = next(line for line in lines if line.startswith("top position"))
    assert head.endswith("cut   zeroed")
    for rank, source in enumerate(shown.top(4), start=1):
        line = next(line for line in lines if line.startswith(f"{rank:>3} "))
        ending = f"{number(2 * source.score):>9}{number(-source.score):>9}" if rank < 4 else "%"
        assert line.endswith(ending)
    assert "3 sources removed one at a time" in " ".join(printed(shown).split())
    assert "zeroed" not in printed(shown, width=70)
    assert "zeroed" not in printed(result(single=True, signed=True))
