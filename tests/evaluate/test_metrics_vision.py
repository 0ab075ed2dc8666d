"""Metrics of pictures against hand-worked maps, loops over pixels, and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from mambascope.errors import InputError
from mambascope.evaluate.metrics.image_perturbation import kept_patches
from mambascope.evaluate.metrics.masks import (
    SegmentationCounts,
    mask_auc,
    mean_iou,
    pointing_game,
    released_average_precision,
    segmentation_counts,
)
from mambascope.evaluate.metrics.perturbation_curve import perturbation_curves
from mambascope.evaluate.metrics.ranking import average_precision
from mambascope.evaluate.metrics.registry import find_metric, results_of
from mambascope.evaluate.patch_maps import pixel_map

EXACT = 1e-12  # ratios of small whole numbers in float64


def drawn(seed, shape=(9, 7), tied=False):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.3
    mask[0, 0], mask[-1, -1] = True, False
    return (2 * scores).round() if tied else scores, mask


def test_pixels_lie_between_patches_by_hand():
    # Centres of two patches over four pixels are at 0.5 and 2.5: pixels 1 and 2 are a quarter of the way from one.
    row = pixel_map(torch.tensor([[0.0, 8.0]]), (1, 4))
    assert row.tolist() == [[0, 2, 6, 8]]
    assert pixel_map(torch.tensor([[3.0, 5.0]]), (1, 2)).tolist() == [[3, 5]]


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (5, 3)])
def test_pixel_maps_by_loops(size):
    patches = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).double()

    def along(length, count, pixel):
        place = min(max((pixel + 0.5) * count / length - 0.5, 0), count - 1)
        low = int(place)
        return low, min(low + 1, count - 1), place - low

    found = pixel_map(patches, size)
    for k in range(2):
        for y in range(size[0]):
            for x in range(size[1]):
                top, bottom, down = along(size[0], 4, y)
                left, right, across = along(size[1], 3, x)
                upper = (1 - across) * patches[k, top, left] + across * patches[k, top, right]
                lower = (1 - across) * patches[k, bottom, left] + across * patches[k, bottom, right]
                assert float(found[k, y, x]) == pytest.approx(float((1 - down) * upper + down * lower), abs=1e-9)


def test_segmentation_by_hand():
    scores = torch.tensor([[4.0, 4.0, 0.0], [0.0, 1.0, 0.0]])  # the mean is 1.5
    mask = torch.tensor([[True, False, True], [False, False, False]])
    counts = segmentation_counts(scores, mask)
    assert counts == SegmentationCounts(6, 4, object_both=1, object_either=3, rest_both=3, rest_either=5)
    assert counts.pixel_accuracy == pytest.approx(4 / 6)
    assert counts.mean_iou == pytest.approx((1 / 3 + 3 / 5) / 2)


def test_a_map_that_is_the_mask_is_perfect_and_its_reverse_is_worst():
    _, mask = drawn(0)
    best, worst = (segmentation_counts(sign * mask.float(), mask) for sign in (1, -1))
    assert (best.pixel_accuracy, best.mean_iou) == (1, 1)
    assert (worst.pixel_accuracy, worst.mean_iou) == (0, 0)
    assert segmentation_counts(torch.ones(9, 7), mask).object_both == 0, "a map without contrast finds nothing"


@pytest.mark.parametrize("seed", range(5))
def test_segmentation_by_scikit_learn_and_loops(seed):
    scores, mask = drawn(seed)
    valid = torch.rand(9, 7, generator=torch.Generator().manual_seed(seed)) < 0.8
    valid[0, 0] = valid[-1, -1] = True
    mean = sum(map(float, scores.double().flatten())) / scores.numel()
    taken = np.array([[float(score) > mean for score in row] for row in scores])
    for where in (None, valid):
        kept = np.ones((9, 7), bool) if where is None else where.numpy()
        counts = segmentation_counts(scores, mask, where)
        t, m = taken[kept], mask.numpy()[kept]
        assert counts.pixels == len(t)
        assert counts.pixel_accuracy == pytest.approx((t == m).mean(), abs=EXACT)
        assert counts.mean_iou == pytest.approx(jaccard_score(m, t, average="macro"), abs=EXACT)


def test_rates_of_a_set_are_of_summed_counts():
    parts = [segmentation_counts(*drawn(seed, shape=(5, 4 + 3 * seed))) for seed in range(4)]
    total = sum(parts, SegmentationCounts())
    assert total.pixels == 5 * (4 + 7 + 10 + 13)
    assert total.pixel_accuracy == pytest.approx(sum(p.correct for p in parts) / total.pixels)
    assert total.mean_iou != pytest.approx(np.mean([p.mean_iou for p in parts]), abs=1e-6)
    arrays = [np.array([getattr(p, name) for p in parts]) for name in ("object_both", "object_either")]
    rest = [np.array([getattr(p, name) for p in parts]) for name in ("rest_both", "rest_either")]
    assert mean_iou(*arrays, *rest).tolist() == pytest.approx([p.mean_iou for p in parts])
    assert np.isnan(mean_iou(0, 0, 1, 1))


def test_a_table_with_the_counts_has_the_derived_metrics():
    names = SegmentationCounts().rows()
    assert {metric.name for metric in results_of(names)} == {"pixel_accuracy", "mean_iou"}
    for metric in ("pixel_accuracy", "mean_iou"):
        known = find_metric(metric)
        values = dict(zip(names, (6, 4, 1, 3, 3, 5), strict=True))
        expected = {"pixel_accuracy": 4 / 6, "mean_iou": (1 / 3 + 3 / 5) / 2}[metric]
        assert float(known.formula(*(values[count] for count in known.counts))) == pytest.approx(expected)
    assert find_metric("perturbation_positive_area:target").better == "lower"


@pytest.mark.parametrize("tied", [False, True])
def test_average_precision_of_a_map_and_as_released(tied):
    for seed in range(5):
        scores, mask = drawn(seed, tied=tied)
        plain = float(average_precision(scores.flatten(), mask.flatten()))
        assert plain == pytest.approx(average_precision_score(mask.flatten(), scores.flatten()), abs=EXACT)
        scaled = ((scores.double() - scores.double().min()) / (scores.double().max() - scores.double().min())).numpy()
        listed = np.stack([1 - scaled, scaled]).reshape(-1)
        gold = np.stack([~mask.numpy(), mask.numpy()]).reshape(-1)
        assert released_average_precision(scores, mask) == pytest.approx(
            average_precision_score(gold, listed), abs=1e-9
        )


def test_released_average_precision_of_no_contrast_is_a_half():
    _, mask = drawn(0)
    assert released_average_precision(torch.ones(9, 7), mask) == pytest.approx(0.5)


def test_pointing_game_by_hand():
    mask = torch.tensor([[True, False], [False, True]])
    assert pointing_game(torch.tensor([[3.0, 1.0], [2.0, 0.0]]), mask) == 1
    assert pointing_game(torch.tensor([[3.0, 4.0], [2.0, 0.0]]), mask) == 0
    assert pointing_game(torch.tensor([[3.0, 3.0], [3.0, 0.0]]), mask) == pytest.approx(1 / 3)
    assert pointing_game(torch.tensor([[-1.0, -2.0], [-2.0, -2.0]]), mask) == 1, "the maximum, not the largest size"


@pytest.mark.parametrize("seed", range(5))
def test_pointing_game_by_loops(seed):
    scores, mask = drawn(seed, tied=True)
    best = max(float(value) for value in scores.flatten())
    places = [(y, x) for y in range(9) for x in range(7) if float(scores[y, x]) == best]
    assert pointing_game(scores, mask) == pytest.approx(sum(bool(mask[p]) for p in places) / len(places))


def test_mask_auc_by_hand():
    scores = torch.tensor([[5.0, 4.0, 3.0], [2.0, 1.0, 0.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    other = torch.tensor([[False, True, False], [False, False, True]])
    assert mask_auc(scores, mask) == pytest.approx((4 + 3) / 8)
    assert mask_auc(scores, mask, other) == pytest.approx((2 + 1) / 4)
    assert mask_auc(torch.ones(2, 3), mask, other) == 0.5
    assert np.isnan(mask_auc(scores, mask, torch.zeros(2, 3, dtype=torch.bool)))


@pytest.mark.parametrize("tied", [False, True])
def test_mask_auc_by_scikit_learn(tied):
    for seed in range(5):
        scores, mask = drawn(seed, tied=tied)
        others = ~mask & (torch.rand(9, 7, generator=torch.Generator().manual_seed(seed)) < 0.5)
        for rest in (None, others):
            kept = (mask | (~mask if rest is None else rest)).numpy()
            assert mask_auc(scores, mask, rest) == pytest.approx(
                roc_auc_score(mask.numpy()[kept], scores.numpy()[kept]), abs=EXACT
            )


def test_patches_that_are_not_kept_are_erased():
    pixels = torch.arange(3 * 4 * 6).view(3, 4, 6).float() + 1
    kept = torch.tensor([[True, False, False, False, False, True], [False] * 6])
    found = kept_patches(pixels, kept, (2, 3))
    assert found.shape == (2, 3, 4, 6)
    for channel in range(3):
        for y in range(4):
            for x in range(6):
                there = kept[0, (y // 2) * 3 + x // 2]
                assert found[0, channel, y, x] == (pixels[channel, y, x] if there else 0)
    assert (found[1] == 0).all()
    assert (kept_patches(pixels, kept, (2, 3), fill=-1.0)[1] == -1).all()


def test_patches_of_a_linear_model_are_inserted_and_deleted():
    """With a readout that adds up pixels, a patch's worth is its sum; the map of worths is the best there is."""
    pixels = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    worth = pixels.view(3, 2, 2, 3, 2).sum(dim=(0, 2, 4)).flatten()

    def readout(kept):
        return kept_patches(pixels, kept, (2, 3)).sum(dim=(1, 2, 3))

    fractions = [k / 6 for k in range(7)]
    found = perturbation_curves(worth, readout, "insertion", fractions=fractions).most_first
    expected = torch.cat([torch.zeros(1).double(), worth.sort(descending=True).values.cumsum(0)])
    torch.testing.assert_close(found, expected)
    deleted = perturbation_curves(worth, readout, "flipping", fractions=fractions)
    torch.testing.assert_close(deleted.most_first, worth.sum() - expected)
    torch.testing.assert_close(deleted.least_first.flip(0), found)  # insertion is the other deletion read backwards


def test_what_does_not_fit_is_refused():
    scores, mask = drawn(0)
    nan = scores.clone()
    nan[3, 3] = torch.nan
    for metric in (segmentation_counts, released_average_precision, pointing_game):
        with pytest.raises(InputError, match="does not fit a mask"):
            metric(scores, mask[:-1])
        with pytest.raises(InputError, match="NaN or infinite"):
            metric(nan, mask)
    with pytest.raises(InputError, match="of one shape"):
        mask_auc(scores, mask[:-1])
    with pytest.raises(InputError, match="cannot be of the object and of the others"):
        mask_auc(scores, mask, mask)
    with pytest.raises(InputError, match="has no 9 x 7 patches"):
        pixel_map(scores, (8, 8))
    with pytest.raises(InputError, match="NaN or infinite"):
        pixel_map(nan, (90, 70))
    with pytest.raises(InputError, match="do not divide a picture of 5 x 6"):
        kept_patches(torch.zeros(3, 5, 6), torch.ones(1, 6, dtype=torch.bool), (2, 3))
