"""A picture in the terminal: its patches where they lie, in signs that any output can hold, and the numbers beside."""

import dataclasses
import io
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from mambascope.errors import InputError
from mambascope.grid import Grid
from mambascope.show import print_attribution
from mambascope.show.picture_text import pooled
from show_results import HOSTILE, picture_result

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


def patches(text, rows, width):
    """The lines of the patches, without what stands beside them."""
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if "top  source" in line)
    return [line[:width].ljust(width) for line in lines[start : start + rows]]


CASES = {
    "plain": picture_result(),
    "signed": picture_result(signed=True, single=True),
    "14 x 14": picture_result(Grid(14, 14, 98, 16, 16), layers=24),
    "27 x 27": picture_result(Grid(27, 27, 0, 16, 8), layers=2, single=True, signed=True),
    "1 x 90": picture_result(Grid(1, 90, None, 4, 4), single=True),
    "90 x 1": picture_result(Grid(90, 1, None, 4, 4), single=True),
    "one patch": picture_result(Grid(1, 1, None, 4, 4), layers=1),
    "a patch in focus": picture_result(Grid(14, 14, 0, 16, 16), focus=20),
    "hostile names": picture_result(names=HOSTILE[:3], picture=HOSTILE[0], preparation=HOSTILE[1]),
    "told a lot": picture_result(preparation="something was done to the picture; " * 8),
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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [40, 58])
def test_a_narrow_screen_has_the_sources_in_lines_of_their_own(case, width):
    lines = printed(CASES[case], width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if re.search(r" \d{1,2}  (patch|class) .*[\d.]+ +<?[\d.]+ %$", line)]
    assert len(rows) == len(CASES[case].top(10))


def test_what_class_token_and_patches_hold_is_said_as_colours_are_scaled_to_the_largest_patch():
    attribution = picture_result(layers=1, single=True)
    attribution.scores[:] = 0.0003
    attribution.scores[:, :, attribution.grid.class_position] = 0.9928
    assert "class token 99.3 % · patches together 0.7 % · largest patch <0.1 %" in printed(attribution)
    without = printed(picture_result(Grid(1, 90, None, 4, 4), single=True))
    assert "class token" not in without
    assert re.search(r"^largest patch [\d.]+ %$", without, re.M)


def test_classes_that_do_not_exclude_each_other_are_said_to_be_independent():
    attribution = picture_result()
    assert "→ predicts tabby cat 61.2 %, then rocket 20.1 %, astronaut 3.3 %" in printed(attribution)
    several = dataclasses.replace(attribution, target=dataclasses.replace(attribution.target, independent=True))
    assert "→ predicts, each class by itself: tabby cat 61.2 %, rocket 20.1 %, astronaut 3.3 %" in printed(
        several, width=100
    )


@pytest.mark.parametrize("case", CASES)
def test_an_ascii_pipe_gets_ascii(case):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_attribution(CASES[case], Console(file=stream, width=80))
    stream.flush()
    assert max(map(len, stream.buffer.getvalue().decode("ascii").splitlines())) <= 80


def test_every_patch_has_its_place_and_its_level():
    attribution = picture_result(Grid(2, 3, 6, 4, 4), layers=1, signed=True, single=True)
    attribution.scores[0, 0] = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.01, -1.0, 0.3])
    assert patches(printed(attribution), 2, 6) == ["██▓▓▒▒", "░░  =="]
    attribution.scores[0, 0] = torch.tensor([-1.0, -0.5, -0.2, -0.05, -0.01, 1.0, 0.3])
    assert patches(printed(attribution), 2, 6) == ["==-=--", " -  ██"]
    assert "-= takes away" in printed(attribution)


def test_the_patch_in_focus_is_marked_and_the_class_token_is_not():
    attribution = picture_result(Grid(2, 3, 6, 4, 4), focus=4)
    assert patches(printed(attribution), 2, 6)[1][2:4] == "[]"
    assert "explains patch 1,1" in printed(attribution)
    assert "[] what is explained" in printed(attribution)
    assert "[]" not in printed(picture_result(Grid(2, 3, 6, 4, 4)))
    assert "explains the class token" in printed(picture_result(Grid(2, 3, 6, 4, 4)))


def test_the_numbers_beside_are_those_of_top():
    attribution = picture_result()
    text = printed(attribution)
    for rank, source in enumerate(attribution.top(10), start=1):
        name = "class token" if source.token == "class" else f"patch {source.token}"
        assert re.search(rf"{rank}  {re.escape(name)} +{source.score:.4g} +{100 * source.share:.1f} %", text)
    assert "15 others" in text


def test_large_grids_are_drawn_together_by_their_largest_score():
    scores = torch.tensor([[1.0, -3.0, 0.5], [2.0, 0.0, 0.1], [0.0, 0.0, -0.2]])
    assert torch.equal(pooled(scores, 2), torch.tensor([[-3.0, 0.5], [0.0, -0.2]]))
    assert torch.equal(pooled(scores, 1), scores)
    assert "2 x 2 patches as one" in printed(CASES["27 x 27"])


def test_what_is_seen_and_what_was_done_is_told():
    text = printed(picture_result(preparation="resized from 9 x 9 to 8 x 8 pixels"))
    assert "cat.png → predicts tabby cat 61.2 %, then rocket 20.1 %, astronaut 3.3 %" in text
    assert "picture   resized from 9 x 9 to 8 x 8 pixels" in text
    pooled_result = picture_result(Grid(2, 2, None, 4, 4))
    object.__setattr__(pooled_result.target, "pooled", 4)
    assert "explains the mean of 4 tokens" in printed(pooled_result)


def test_numbers_that_are_none_are_refused():
    broken = picture_result()
    broken.scores[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        printed(broken)
