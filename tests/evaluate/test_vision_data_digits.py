"""Digits on textures: the same in every run, masks exact, and no split sees what another does."""

import time
from itertools import pairwise

import numpy as np
import pytest

from mambascope.errors import InputError
from mambascope.evaluate.data import digits_on_textures, free_photographs
from mambascope.evaluate.data.digits_on_textures import RUNS, SIDE, DigitsOnTextures
from mambascope.evaluate.data.free_photographs import PHOTOGRAPHS, STRIPS, strips

PARTS = tuple(STRIPS)


def handwriting(count=2000):
    """Digits that can be told apart by their number of inked pixels' column: enough to see who is who."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 5:24, 12:15] = 255
    labels = np.arange(count) % 10
    images[np.arange(count), 4 + labels, 5:20] = 200
    return images, labels


@pytest.fixture(scope="module")
def pictures():
    pytest.importorskip("skimage")
    return {part: DigitsOnTextures(*handwriting(), part) for part in PARTS}


def test_a_picture_is_a_function_of_part_seed_and_index(pictures):
    made = pictures["test"]
    first, again = made.picture(5), DigitsOnTextures(*handwriting(), "test").picture(5)
    apart = np.abs(first.pixels.astype(int) - again.pixels).max()
    assert apart <= 1, "of 256: floats are rounded to whole numbers, and may lie at a half"
    np.testing.assert_array_equal(first.masks, again.masks)
    assert first.digits == again.digits
    others = (
        made.picture(6),
        DigitsOnTextures(*handwriting(), "test", seed=1).picture(5),
        pictures["training"].picture(5),
    )
    assert all((other.pixels != first.pixels).any() for other in others)


def test_pictures_show_one_to_three_different_digits_of_the_sizes_asked_for(pictures):
    counts = np.zeros(4, int)
    for index in range(300):
        one = pictures["training"].picture(index)
        assert one.pixels.shape == (SIDE, SIDE, 3)
        assert one.pixels.dtype == np.uint8
        assert len(set(one.digits)) == len(one.digits) == len(one.masks)
        assert one.presence().nonzero()[0].tolist() == sorted(one.digits)
        counts[len(one.digits)] += 1
        assert one.masks.sum(axis=0).max() == 1, "no pixel is two digits'"
        assert all((one.shown()[mask] == digit).all() for digit, mask in zip(one.digits, one.masks, strict=True))
        assert ((one.shown() == 10) == ~one.masks.any(axis=0)).all()
        for mask in one.masks:
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
            assert 17 <= longer <= 36  # up to 3 less than asked for: the faint edge is not in the mask
    assert counts[0] == 0
    assert min(counts[1:]) > 60


def test_masks_are_where_ink_changed_the_background(pictures, monkeypatch):
    """Without pasting a picture is its background: what differs is ink, and the mask is where that is thick."""
    made = pictures["training"]
    pasted = []
    compared = 0
    for index in range(30):
        with_ink = made.picture(index)
        if len(with_ink.digits) > 1:
            continue  # what is drawn after the first paste depends on the draws within it
        with monkeypatch.context() as patch:
            patch.setattr(digits_on_textures, "_paste", lambda rng, window, ink: pasted.append(ink))
            background = made.picture(index).pixels
        inked, mask, ink = (with_ink.pixels != background).any(axis=-1), with_ink.masks[0], pasted[-1]
        assert inked[mask].mean() > 0.99, "pasting changes the mask's pixels"
        assert mask.sum() == (ink >= 0.5).sum()
        assert inked.sum() <= (ink > 0).sum()
        compared += 1
    assert compared > 5


def test_parts_share_no_digit_and_no_pixel(monkeypatch):
    labels = np.arange(1000) % 10
    images = np.zeros((1000, 28, 28), np.uint8)
    images[:, 10:12, 10:14] = 255
    images[np.arange(1000), 10, 10] = 1 + np.arange(1000) % 250  # who is who
    images[np.arange(1000), 10, 11] = 1 + np.arange(1000) // 250
    who = {
        part: {(g[0, 0], g[0, 1]) for glyphs in DigitsOnTextures(images, labels, part).glyphs for g in glyphs}
        for part in PARTS
    }
    assert [len(who[part]) for part in PARTS] == [800, 50, 150]
    assert (
        not (who["training"] & who["test"]) | (who["training"] & who["validation"]) | (who["validation"] & who["test"])
    )
    bounds = sorted(STRIPS.values())
    assert all(one[1] <= other[0] for one, other in pairwise(bounds))
    columns = (np.arange(400) // 2).astype(np.uint8)[None, :, None] + np.zeros((100, 1, 3), np.uint8)
    monkeypatch.setattr(free_photographs, "_read", lambda photograph: columns)
    seen = {part: {int(v) for strip in strips(part, 64) for v in np.unique(strip)} for part in PARTS}
    assert sum(len(one) for one in seen.values()) == len(set.union(*seen.values())) == 200


def test_every_photograph_is_free_and_gives_every_part_a_strip():
    pytest.importorskip("skimage")
    assert {one.licence for one in PHOTOGRAPHS} == {"CC0", "public domain", "CC BY 2.0"}
    for part in PARTS:
        found = strips(part, SIDE)
        assert len(found) >= len(PHOTOGRAPHS), "one of each photograph at least"
        assert all(min(strip.shape[:2]) >= SIDE for strip in found)


def test_what_cannot_be_made_is_refused(monkeypatch):
    with pytest.raises(InputError, match="unknown split 'dev' of the photographs; choose one of training"):
        strips("dev", 64)
    images, labels = handwriting()
    with pytest.raises(InputError, match="the test split has no handwritten 3"):
        DigitsOnTextures(images[labels != 3], labels[labels != 3], "test")
    monkeypatch.setattr(
        free_photographs, "PHOTOGRAPHS", [free_photographs.Photograph("skimage", "data/none.png", "", "")]
    )
    with pytest.raises(InputError, match=r"has no photograph data/none\.png"):
        strips("test", 64)


def test_making_pictures_is_fast(pictures):
    began = time.process_time()
    for index in range(200):
        pictures["training"].picture(index)
    assert time.process_time() - began < 2  # 0.4 ms each on a quiet core


def test_runs_of_digits_do_not_overlap():
    bounds = sorted(RUNS.values())
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 1000
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
