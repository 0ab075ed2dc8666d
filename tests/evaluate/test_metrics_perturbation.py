"""Flipping and insertion curves against a linear readout worked by hand, loops and scikit-learn's area."""

import pytest
import torch
from sklearn.metrics import auc

from mambascope.errors import InputError
from mambascope.evaluate.metrics.perturbation_curve import (
    TENTHS,
    area,
    perturbation_curve,
    perturbation_curves,
)

HALVES = (0.0, 0.5, 1.0)


def linear(weights):
    return lambda kept: kept.double() @ weights.double()


def test_a_linear_readout_by_hand():
    weights = torch.tensor([3.0, -1.0])
    flipped = perturbation_curves(weights, linear(weights), "flipping", fractions=HALVES)
    assert flipped.most_first.tolist() == [2, -1, 0]
    assert flipped.least_first.tolist() == [2, 3, 0]
    assert flipped.area_most_first == pytest.approx(0.5 * (2 - 1) / 2 + 0.5 * (-1 + 0) / 2)
    assert flipped.area_least_first == pytest.approx(0.5 * 5 / 2 + 0.5 * 3 / 2)
    assert flipped.gap == pytest.approx(2 - 0)
    inserted = perturbation_curves(weights, linear(weights), "insertion", fractions=HALVES)
    assert inserted.most_first.tolist() == [0, 3, 2]
    assert inserted.least_first.tolist() == [0, -1, 2]
    assert inserted.gap == pytest.approx(2 - 0)
    assert inserted.rows() == {
        "insertion_area_most_first": pytest.approx(2),
        "insertion_area_least_first": pytest.approx(0),
        "insertion_gap": pytest.approx(2),
    }


@pytest.mark.parametrize("mode", ["flipping", "insertion"])
@pytest.mark.parametrize("size", [1, 3, 10, 37])
def test_curves_by_loops(mode, size):
    generator = torch.Generator().manual_seed(size)
    scores = (2 * torch.randn(size, generator=generator)).round()  # some are tied
    mixing = torch.randn(size, size, generator=generator).double()

    def readout(kept):
        return torch.tanh(kept.double() @ mixing).sum(dim=-1)

    curves = perturbation_curves(scores, readout, mode, batch=3)
    for found, sign in ((curves.most_first, -1), (curves.least_first, 1)):
        order = sorted(range(size), key=lambda j: (sign * float(scores[j]), j))
        expected = []
        for fraction in TENTHS:
            touched = set(order[: int(fraction * size + 0.5)])
            kept = [(j in touched) == (mode == "insertion") for j in range(size)]
            expected.append(float(readout(torch.tensor([kept]))[0]))
        assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert curves.area_most_first == pytest.approx(auc(TENTHS, curves.most_first.numpy()))
    other = auc(TENTHS, curves.least_first.numpy())
    gap = other - curves.area_most_first
    assert curves.gap == pytest.approx(gap if mode == "flipping" else -gap)


def test_scores_that_are_all_alike_have_no_gap():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(9, generator=generator)
    assert perturbation_curves(torch.ones(9), linear(weights), "flipping").gap == 0


def test_the_right_order_beats_others():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(12, generator=generator)
    for mode in ("flipping", "insertion"):
        best = perturbation_curves(weights, linear(weights), mode).gap
        others = [
            perturbation_curves(weights[torch.randperm(12, generator=generator)], linear(weights), mode).gap
            for _ in range(20)
        ]
        assert best > max(others)
        assert perturbation_curves(-weights, linear(weights), mode).gap == pytest.approx(-best)


def test_sources_that_are_no_candidates_are_always_kept():
    weights = torch.tensor([10.0, 1.0, 2.0, 100.0])
    scores = torch.tensor([torch.nan, 1.0, 2.0, 9.0])
    candidates = torch.tensor([False, True, True, False])
    curves = perturbation_curves(scores, linear(weights), "flipping", candidates=candidates, fractions=HALVES)
    assert curves.most_first.tolist() == [113, 111, 110]
    curves = perturbation_curves(scores, linear(weights), "insertion", candidates=candidates, fractions=HALVES)
    assert curves.least_first.tolist() == [110, 111, 113]


def test_a_set_runs_once_and_batches_are_kept_small():
    seen = []

    def readout(kept):
        seen.append(kept)
        return kept.sum(dim=-1).float()

    perturbation_curves(torch.tensor([2.0, 1.0, 3.0]), readout, "flipping", batch=2)
    assert max(len(part) for part in seen) == 2
    rows = [tuple(row) for part in seen for row in part.tolist()]
    assert len(rows) == len(set(rows)) == 6  # all, none, and two on the way along each order


def test_a_part_of_the_fractions():
    order = torch.tensor([2, 0, 1])
    found = perturbation_curve(order, 3, linear(torch.tensor([1.0, 2.0, 4.0])), "flipping", fractions=[0.3, 0.7])
    assert found.tolist() == [3, 2]
    assert area(torch.tensor([0.3, 0.7]), found) == pytest.approx(0.4 * 2.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"order": [0, 0]}, "each once"),
        ({"order": [0, 3]}, "each once"),
        ({"order": []}, "each once"),
        ({"mode": "deleting"}, "unknown mode"),
        ({"fractions": [0.5]}, "two or more"),
        ({"fractions": [0.5, 0.2]}, "rising"),
        ({"fractions": [0.5, 1.2]}, "within 0 to 1"),
        ({"readout": lambda kept: torch.full((len(kept),), torch.nan)}, "not finite"),
        ({"readout": lambda kept: torch.zeros(len(kept) + 1)}, "one finite number for each"),
    ],
)
def test_what_gives_no_curve_is_refused(changed, message):
    given = {
        "order": [0, 1],
        "length": 3,
        "readout": lambda kept: kept.sum(dim=-1).float(),
        "mode": "flipping",
        "fractions": HALVES,
        **changed,
    }
    given["order"] = torch.tensor(given["order"], dtype=torch.long)
    with pytest.raises(InputError, match=message):
        perturbation_curve(**given)


def test_scores_that_give_no_order_are_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        perturbation_curves(torch.tensor([1.0, torch.nan]), linear(torch.ones(2)), "flipping")
    with pytest.raises(InputError, match="as many candidate marks"):
        perturbation_curves(torch.ones(2), linear(torch.ones(2)), "flipping", candidates=torch.tensor([True]))
