"""Figures: they save in every format, say what they show, and leave matplotlib as it was."""

import dataclasses
import itertools
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from matplotlib.text import Text

from mambascope.errors import InputError
from mambascope.show import figure, save_figure
from mambascope.show.long_text_figure import spread
from mambascope.show.scale import SignedRoot
from mambascope.show.screen import percent
from mambascope.show.typeface import drawable
from rounding import assert_equal_to_rounding
from show_results import HOSTILE, PLAIN, picture_result, result


def asked(attribution):
    target = dataclasses.replace(attribution.target, asked="logit of ' Mary'", value=1.5)
    return dataclasses.replace(attribution, target=target)


CASES = {
    "map": result(),
    "signed map": result(signed=True),
    "hostile": result(HOSTILE, signed=True),
    "long": result(100, layers=2),
    "60 layers": result(5, layers=60),
    "one token": result(("",)),
    "single target": result(single=True),
    "single, hostile": result(HOSTILE, signed=True, single=True),
    "single, long": result(90, layers=12, single=True),
    "single, one layer": result(layers=1, single=True),
}


def all_axes(sheet):
    return sheet.get_axes()


@pytest.mark.parametrize("case", CASES)
def test_figures_save(case, tmp_path):
    path = save_figure(CASES[case], tmp_path / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")])
def test_every_format_is_written_without_a_time_stamp(suffix, start, tmp_path):
    written = save_figure(result(HOSTILE), tmp_path / f"figure{suffix}").read_bytes()
    assert written.startswith(start)
    assert b"CreationDate" not in written
    assert b"<dc:date" not in written


def test_letters_stay_letters_in_vector_files(tmp_path):
    svg = save_figure(result(), tmp_path / "figure.svg").read_text("utf-8")
    assert "Mary" in svg
    assert b"/Type3" not in save_figure(result(), tmp_path / "figure.pdf").read_bytes()


def test_nothing_global_changes(tmp_path):
    before = dict(matplotlib.rcParams)
    made = figure(result())
    save_figure(result(), tmp_path / "figure.pdf")
    assert isinstance(made, Figure)
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.figs


def test_map_has_labelled_axes_tokens_and_one_small_map_per_layer():
    main, *others = all_axes(figure(result(layers=6)))
    assert main.get_xlabel() == "source token"
    assert main.get_ylabel() == "target token"
    assert [label.get_text() for label in main.get_xticklabels()] == list(PLAIN)
    assert [axes.get_title() for axes in others if axes.get_title()] == ["0", "2", "4", "6", "8", "10"]
    assert any("hidden_attention score" in axes.get_ylabel() for axes in others)


def test_map_holds_the_scores():
    attribution = result()
    for layer, title in ((None, "mean of 3 layers"), (2, "layer 2")):
        main = all_axes(figure(attribution, layer))[0]
        shown = torch.as_tensor(np.asarray(main.get_images()[0].get_array()))
        assert_equal_to_rounding(shown, attribution.matrix(layer))
        assert title in main.get_title(loc="left")


@pytest.mark.parametrize(
    ("attribution", "heading", "caption"),
    [
        (result(), "Which tokens each token of the text drew from", "The darker, the more was drawn"),
        (result(signed=True), "Which tokens each token", "Blue: the source adds, orange with a minus: it takes away"),
        (
            result(layers=1),
            "Which tokens each token",
            "Rows: the token that receives (target). Columns: the token that",
        ),
        (result(single=True), "What position 13, ‘ to’, drew from", "A bar for each token of the text"),
        (
            asked(result(single=True, signed=True)),
            "What the logit of ' Mary' was drawn from",
            "(hatched: it takes away)",
        ),
        (result(90, single=True), "What position 89, ‘ word89’, drew from", "The 12 largest are named, with position"),
    ],
    ids=["map", "signed", "one layer", "bars", "asked", "long"],
)
def test_a_heading_says_what_is_shown_and_a_caption_how_to_read_it(attribution, heading, caption):
    sheet = figure(attribution)
    assert sheet.get_suptitle().startswith(heading)
    assert caption in " ".join(sheet.get_supxlabel().split())


def test_a_caption_speaks_of_layers_where_they_are_drawn():
    for drawn in (result(), result(single=True), result(90, single=True)):
        assert "layer" in figure(drawn).get_supxlabel()
    for alone in (result(layers=1), result(layers=1, single=True), result(90, layers=1, single=True)):
        assert "layer" not in figure(alone).get_supxlabel()


def test_a_figure_names_the_method_by_what_it_shows():
    title = figure(result(method="latim")).get_axes()[0].get_title(loc="left")
    assert "latim: ℓ2 norm of each source's exact contribution to the layer's output" in " ".join(title.split())


def test_parts_of_characters_have_names():
    names = [drawable(name) for name in ("a", "好", "‹2/3 of 好›", "‹3/3 of 好›")]
    axes = figure(result(("a", "好", "", ""), layers=1, single=True)).get_axes()[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    axes = figure(result(("a", "好", "", ""), layers=1)).get_axes()[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == names


@pytest.mark.parametrize("layers", [1, 3])
def test_a_long_text_shows_its_top_sources_in_their_places(layers):
    attribution = result(464, layers=layers, signed=True, single=True)
    sheet = figure(attribution)
    lines, *others = sheet.get_axes()
    (drawn,) = lines.collections
    ends = np.array(drawn.get_segments())
    assert_equal_to_rounding(torch.tensor(ends[:, 1, 1]).float(), attribution.row())
    assert (ends[:, 1, 0] == range(464)).all()
    named = {note.get_text(): note.xy for note in lines.texts}
    for source in attribution.top(12):
        place, height = named.pop(f"‘{source.token}’ {source.position}: {percent(source.share)}")
        assert place == source.position
        assert height == pytest.approx(max(source.score, 0), rel=1e-6)
    assert not named
    assert len(others) == (0 if layers == 1 else 3), "the layers' strip, its scale, and how much each carried"
    sheet.draw_without_rendering()
    boxes = [note.get_window_extent() for note in sorted(lines.texts, key=lambda note: note.xyann[0])]
    assert all(left.x0 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_names_of_a_long_text_lie_over_nothing():
    sheet = figure(result(464, layers=1, single=True))
    sheet.draw_without_rendering()
    (lines,) = sheet.get_axes()
    names = sorted((note for note in lines.texts), key=lambda note: note.xyann[0])
    boxes = [Text.get_window_extent(note) for note in names]  # without the line that leads to the source
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= sheet.bbox.x1
    assert max(box.y1 for box in boxes) < lines._left_title.get_window_extent().y0


@pytest.mark.parametrize("places", [[0, 1, 2], [97, 98, 99], [5, 50, 51, 95], [50], []])
def test_names_are_spread_in_order(places):
    moved = spread([float(place) for place in places], 4.0, 99.0)
    assert all(right - left >= 4 for left, right in itertools.pairwise(moved))
    assert all(0 <= place <= 99 for place in moved)
    assert len(moved) == len(places)
    if places == [50]:
        assert moved == [50]


def test_a_notebook_is_given_a_picture_without_pyplot():
    """A cell that ends with matplotlib's own figure says `<Figure size …>` until pyplot is imported."""
    assert figure(result(layers=1))._repr_png_().startswith(b"\x89PNG")
    assert figure(picture_result())._repr_png_().startswith(b"\x89PNG")
    assert not Gcf.figs
    code = "import mambascope.show, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_small_maps_are_drawn_when_they_can_be():
    count = {layers: len(all_axes(figure(result(4, layers=layers)))) for layers in (1, 2, 48, 49)}
    assert count == {1: 2, 2: count[2], 48: count[48], 49: 2}
    assert count[2] >= 4
    assert count[48] >= 50
    assert len(all_axes(figure(result(), layers="mean"))) == 2
    assert len(all_axes(figure(result(), layer=2))) == 2
    with pytest.raises(InputError, match="layers='mean'"):
        figure(result(layers=1), layers="each")
    with pytest.raises(InputError, match="layer=2"):
        figure(result(), layer=2, layers="each")


def test_long_texts_get_positions_instead_of_tokens():
    main = all_axes(figure(result(100)))[0]
    names = [label.get_text() for label in main.get_xticklabels()]
    assert all(name.isdigit() for name in names)
    assert len(names) <= 13


def test_single_target_has_a_bar_per_source_and_per_layer():
    attribution = result(signed=True, single=True)
    sources, layers = all_axes(figure(attribution))
    assert [bar.get_width() for bar in sources.patches] == pytest.approx(attribution.row().tolist())
    assert [bool(bar.get_hatch()) for bar in sources.patches] == [score < 0 for score in attribution.row().tolist()]
    assert [bar.get_width() for bar in layers.patches] == pytest.approx(attribution.layer_mass().tolist())


def test_negative_cells_carry_a_minus_for_readers_in_grey():
    attribution = result(("a", "b"), layers=1, signed=True)
    attribution.scores[0] = attribution.scores.new_tensor([[1.0, 0.0], [-0.5, 0.001]])
    (mark,) = all_axes(figure(attribution))[0].texts
    assert (mark.get_text(), mark.get_position()) == ("\u2212", (0, 1))


def test_signed_root_and_its_inverse():
    norm, scores = SignedRoot(4.0), np.array([-4.0, -1.0, 0.0, 1.0, 4.0])
    assert np.allclose(norm(scores), [0, 0.25, 0.5, 0.75, 1])
    assert np.allclose(norm.inverse(norm(scores)), scores)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.pdf"):
        save_figure(result(), tmp_path / "figure.gif")
    with pytest.raises(InputError, match="does not exist"):
        save_figure(result(), tmp_path / "nowhere" / "figure.pdf")
    with pytest.raises(InputError, match="layer 1"):
        figure(result(), 1)
    infinite = result()
    infinite.scores[0, 0, 0] = float("inf")
    with pytest.raises(InputError, match=r"layers \[0\]"):
        figure(infinite)


def test_letters_without_a_font_are_spelled_out():
    assert drawable("a") == "a"
    assert drawable("\U00013000") == "‹U+13000›"  # an Egyptian hieroglyph
