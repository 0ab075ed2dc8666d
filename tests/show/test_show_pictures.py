"""Scores over pictures: where they fall, what they colour, and what the figure says of them."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from mambascope.errors import InputError
from mambascope.grid import Grid
from mambascope.show import figure, picture_figure, save_figure, save_picture_figure
from mambascope.show.overlay import BRIGHTNESS, ends, laid_over, overlay, pale, pixel_overlay, upsampled
from mambascope.show.palette import ANCHORS, colormap
from show_results import HOSTILE, picture_result, result

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


def at(scores, grid, size, y, x):
    """Return the bilinear value at the middle of one pixel, written out with the four patches around it."""
    found = []
    for axis, (pixel, count) in enumerate(((y, grid.rows), (x, grid.columns))):
        middles = [grid.patch / 2 + k * grid.stride for k in range(count)]
        place = (pixel + 0.5) * grid.size[axis] / size[axis]
        weights = np.zeros(count)
        if place <= middles[0]:
            weights[0] = 1
        elif place >= middles[-1]:
            weights[-1] = 1
        else:
            k = max(k for k in range(count) if middles[k] <= place)
            weights[k + 1] = (place - middles[k]) / grid.stride
            weights[k] = 1 - weights[k + 1]
        found.append(weights)
    return found[0] @ scores.numpy() @ found[1]


@pytest.mark.parametrize(
    "grid", [Grid(3, 5, 0, 4, 4), Grid(4, 2, None, 6, 3), Grid(1, 1, 1, 4, 4), Grid(2, 2, 2, 4, 7)], ids=str
)
@pytest.mark.parametrize("size", [(40, 30), (7, 11)])
def test_scores_are_bilinear_between_the_middles_of_patches(grid, size):
    scores = torch.randn(grid.rows, grid.columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spread = upsampled(scores, grid, *size)
    expected = [[at(scores, grid, size, y, x) for x in range(size[1])] for y in range(size[0])]
    assert np.allclose(spread, expected, atol=1e-12)


def test_no_score_leaves_the_pale_picture_and_on_white_the_colours_are_the_scales():
    image = torch.randint(0, 256, (6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ground = pale(image)
    assert np.allclose(ground @ BRIGHTNESS, 0.6 + 0.4 * (image.numpy() / 255 @ BRIGHTNESS))
    assert np.allclose(laid_over(ground, np.zeros((6, 6)), 1.0, signed=True), ground, atol=1 / 255)
    assert np.allclose(laid_over(ground, np.zeros((6, 6)), 0.0, signed=False), ground), "a map of nothing at all"
    on_white = laid_over(np.ones((1, 2, 3)), np.array([[2.0, -2.0]]), 2.0, signed=True)[0]
    assert np.allclose(on_white, [to_rgb(ANCHORS["light"][hue][-1]) for hue in ("positive", "negative")], atol=1e-6)
    quarter = laid_over(np.ones((1, 1, 3)), np.array([[0.5]]), 2.0, signed=False)[0, 0]
    assert np.allclose(quarter, colormap(False)(0.5)[:3]), "half the colour is a quarter of the largest score"


@pytest.mark.parametrize("brightness", [0, 128, 255])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_larger_score_is_darker_on_any_picture(brightness, sign):
    """What a reader without colours, or a black-and-white printer, has left."""
    ground = pale(torch.full((1, 200, 3), brightness, dtype=torch.uint8))
    shown = (laid_over(ground, np.linspace(0, 1, 200)[None] * sign, 1.0, signed=True) @ BRIGHTNESS)[0]
    assert (np.diff(shown) < 1e-9).all()
    assert shown[-1] < 0.4 * shown[0]


def test_the_figure_shows_picture_overlay_scale_and_layers():
    attribution = picture_result(layers=4)
    sheet = picture_figure(attribution)
    left, right, *others = sheet.get_axes()
    assert left.get_title(loc="left") == "made-up/vision-tiny\npredicts tabby cat 61.2 %, then rocket 20.1 %"
    assert right.get_title(loc="left") == "latim, mean of 4 layers\nexplains the class token"
    assert [axes.get_title() for axes in others if axes.get_title()] == ["0", "2", "4", "6"]
    (scale,) = right.child_axes
    assert scale.get_ylabel() == "latim score"
    assert scale.get_ylim() == (0, pytest.approx(float(attribution.picture().max())))
    assert left.get_images()[0].get_array().shape[0] >= 320, "a small picture is enlarged"
    assert not left.patches, "the class token is nowhere in the picture"


def test_a_heading_says_what_is_shown_and_a_caption_how_to_read_it():
    attribution = picture_result(layers=4, single=True)
    attribution.scores[:] = 0.001
    attribution.scores[:, :, attribution.grid.class_position] = 0.976
    sheet = picture_figure(attribution)
    assert sheet.get_suptitle() == "Which patches the class token drew from"
    caption = " ".join(sheet.get_supxlabel().split())
    assert "The deeper the colour, the larger the score, scaled to the largest patch" in caption
    assert "class token 97.6 %, patches together 2.4 %, largest patch 0.1 %" in caption
    assert "each layer by its number" in caption
    assert "orange: it takes away" in picture_figure(picture_result(signed=True)).get_supxlabel()
    without = picture_figure(picture_result(Grid(3, 5, None, 4, 4), layers=1)).get_supxlabel()
    assert "class token" not in without
    assert "largest patch" in without
    asked = dataclasses.replace(attribution.target, asked="logit of class 'cat' minus that of 'dog'")
    named = picture_figure(dataclasses.replace(attribution, target=asked))
    assert named.get_suptitle() == "Which patches 'cat' against 'dog' was drawn from"
    features = dataclasses.replace(attribution.target, asked="size of the features of token 1,2")
    named = picture_figure(dataclasses.replace(attribution, target=features))
    assert named.get_suptitle() == "Which patches the features of the class token were drawn from"


def test_classes_that_do_not_exclude_each_other_are_said_to_be_independent():
    attribution = picture_result()
    several = dataclasses.replace(attribution, target=dataclasses.replace(attribution.target, independent=True))
    title = picture_figure(several).get_axes()[0].get_title(loc="left")
    assert title == "made-up/vision-tiny\npredicts, each class by itself: tabby cat 61.2 %, rocket …"


def test_the_patch_that_is_explained_is_outlined_where_it_lies():
    grid = Grid(4, 6, 12, patch=8, stride=8)
    attribution = picture_result(grid)
    left, right, *_ = picture_figure(attribution, position=grid.position(3, 1)).get_axes()
    height, width = left.get_images()[0].get_array().shape[:2]
    for axes in (left, right):
        frame = axes.patches[0]
        assert frame.get_xy() == (width / 6 - 0.5, height * 3 / 4 - 0.5)
        assert (frame.get_width(), frame.get_height()) == (width / 6, height / 4)
    assert right.get_title(loc="left").endswith("explains patch 3,1")


def test_one_layer_alone_has_no_layers_beside_it():
    attribution = picture_result(layers=3)
    sheet = figure(attribution, layer=2)
    assert sheet.get_axes()[1].get_title(loc="left").startswith("latim, layer 2")
    assert not [axes for axes in sheet.get_axes() if axes.get_title()]
    with pytest.raises(InputError, match="layer 1 is not in this result"):
        figure(attribution, layer=1)
    with pytest.raises(InputError, match="layer=2"):
        figure(attribution, layer=2, layers="each")


def test_clearly_negative_patches_carry_a_minus():
    attribution = picture_result(Grid(1, 2, None, 4, 4), layers=1, signed=True, single=True)
    attribution.scores[0, 0] = torch.tensor([1.0, -0.5])
    (mark,) = picture_figure(attribution).get_axes()[1].texts
    height, width = picture_figure(attribution).get_axes()[1].get_images()[0].get_array().shape[:2]
    assert (mark.get_text(), mark.get_position()) == ("\u2212", (0.75 * width - 0.5, 0.5 * height - 0.5))


def test_scores_of_pixels_stand_beside_those_of_patches():
    grid = Grid(2, 2, None, 4, 4)
    pixels = torch.randn(11, 8, generator=torch.Generator().manual_seed(0))  # three rows make no patch
    attribution = dataclasses.replace(picture_result(grid, layers=1, signed=True), pixels=pixels)
    left, right, beside, *_ = picture_figure(attribution).get_axes()
    assert "of every pixel" in beside.get_title(loc="left")
    shown = np.asarray(beside.get_images()[0].get_array())
    size = shown.shape[0] // 8
    middles = shown[size // 2 :: size, size // 2 :: size]
    ground = pale(attribution.image)
    expected = laid_over(ground, pixels[:8].double().numpy(), float(pixels[:8].abs().max()), signed=True)
    assert np.allclose(middles, expected, atol=0.08), "to half a pixel's shift between middles"
    assert len(picture_figure(attribution, position=1).get_axes()[0].figure.get_axes()) == 2
    with pytest.raises(InputError, match="latim scores patches, not pixels"):
        pixel_overlay(picture_result())


CASES = {
    "unsigned": picture_result(),
    "signed": picture_result(signed=True, single=True),
    "no class token": picture_result(Grid(3, 2, None, 4, 4)),
    "overlapping patches": picture_result(Grid(5, 5, 12, 8, 4)),
    "one patch": picture_result(Grid(1, 1, None, 8, 8), layers=1),
    "60 layers": picture_result(Grid(2, 2, 0, 4, 4), layers=60),
    "hostile names": picture_result(names=HOSTILE[-9:]),
    "pixels": dataclasses.replace(picture_result(signed=True, single=True), pixels=torch.randn(32, 48)),
    "no picture kept": picture_result(image=torch.zeros(32, 48, 3, dtype=torch.uint8)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_every_kind_is_written_in_every_format(case, suffix, start, tmp_path):
    assert save_figure(CASES[case], tmp_path / f"figure{suffix}").read_bytes().startswith(start)


def test_a_result_without_its_picture_is_drawn_on_white():
    attribution = picture_result()
    object.__setattr__(attribution, "image", None)
    shown = picture_figure(attribution).get_axes()[0].get_images()[0].get_array()
    assert (shown == 255).all()


def test_text_has_no_figure_of_a_picture(tmp_path):
    with pytest.raises(InputError, match="of a text, not of a picture"):
        save_picture_figure(result(), tmp_path / "x.png")


def test_the_scale_begins_at_the_smallest_score_where_there_is_no_true_zero():
    far, near = torch.tensor([[0.9, 1.0]]), torch.tensor([[0.1, 1.0]])
    assert ends(far, signed=False) == (pytest.approx(0.9), 1.0)
    assert ends(near, signed=False) == (0.0, 1.0)
    assert ends(near, signed=False, stretched=True) == (pytest.approx(0.1), 1.0)
    assert ends(far, signed=True) == (0.0, 1.0)
    assert ends(torch.ones(1, 2), signed=False) == (0.0, 1.0), "all alike: all fully coloured"
    assert ends(torch.zeros(1, 2), signed=False) == (0.0, 0.0)
    white = np.ones((1, 3, 3))
    shown = laid_over(white, np.array([[0.5, 0.625, 1.0]]), 1.0, signed=False, smallest=0.5)[0]
    assert np.allclose(shown, [colormap(False)(share)[:3] for share in (0.0, 0.5, 1.0)])
    attribution = picture_result(Grid(1, 2, None, 4, 4), layers=1, single=True)
    attribution.scores[0, 0] = torch.tensor([0.9, 1.0])
    (scale,) = picture_figure(attribution).get_axes()[1].child_axes
    assert scale.get_ylim() == (pytest.approx(0.9), 1.0)


def test_a_stretched_overlay_counts_signed_scores_without_a_negative_as_unsigned():
    attribution = picture_result(Grid(1, 2, None, 4, 4), layers=1, single=True, signed=True)
    attribution.scores[0, 0] = torch.tensor([0.5, 1.0])
    assert not np.allclose(overlay(attribution), overlay(attribution, stretched=True))
    assert np.allclose(overlay(attribution, stretched=True)[0, 0], pale(attribution.image)[0, 0], atol=1 / 255)
    attribution.scores[0, 0] = torch.tensor([-0.5, 1.0])
    assert np.allclose(overlay(attribution), overlay(attribution, stretched=True))
