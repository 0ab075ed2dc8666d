"""AUC, average precision, recall@K, rank correlation and the span metrics: by hand, by scikit-learn and by loops."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from mambascope.errors import InputError
from mambascope.evaluate.metrics.ranking import average_precision, recall_at_k, roc_auc
from mambascope.evaluate.metrics.span_mass import span_mass, span_rank

EXACT = 1e-12  # ratios of small whole numbers in float64
ROW = torch.tensor([0.9, 0.1, 0.8, 0.3, 0.5])
GOLD = torch.tensor([False, False, True, True, False])


def random_rows(tied, seed=0, shape=(40, 17)):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    if tied:
        scores = (2 * scores).round()
    gold = torch.rand(shape, generator=generator) < 0.2
    valid = torch.rand(shape, generator=generator) < 0.8
    return scores, gold, valid


def test_hand_worked_row():
    # Gold .8 beats two of the three others, gold .3 one: 3 pairs of 6.
    assert float(roc_auc(ROW, GOLD)) == pytest.approx(3 / 6)
    # Down to .8: 1 gold of 2; down to .3: 2 gold of 4.
    assert float(average_precision(ROW, GOLD)) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert float(recall_at_k(ROW, GOLD)) == pytest.approx(1 / 2)  # of .9 and .8
    assert [float(recall_at_k(ROW, GOLD, k=k)) for k in (1, 3, 4, 9)] == [0, 0.5, 1, 1]


def test_sources_that_are_no_candidates_do_not_count():
    valid = torch.tensor([False, True, True, True, True])
    scores = ROW.clone()
    scores[0] = torch.nan
    assert float(roc_auc(scores, GOLD, valid)) == pytest.approx(3 / 4)
    assert float(average_precision(scores, GOLD, valid)) == pytest.approx((1 + 2 / 3) / 2)
    assert float(recall_at_k(scores, GOLD, valid, k=1)) == pytest.approx(1 / 2)


@pytest.mark.parametrize("tied", [False, True])
def test_scikit_learn_agrees_row_by_row(tied):
    scores, gold, valid = random_rows(tied)
    auc, precision = roc_auc(scores, gold, valid), average_precision(scores, gold, valid)
    compared = 0
    for i in range(len(scores)):
        s, g = scores[i][valid[i]].numpy(), gold[i][valid[i]].numpy()
        if g.any() and not g.all():
            assert float(auc[i]) == pytest.approx(roc_auc_score(g, s), abs=EXACT)
            assert float(precision[i]) == pytest.approx(average_precision_score(g, s), abs=EXACT)
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_recall_is_the_mean_over_ways_to_break_ties(tied, k):
    scores, gold, valid = random_rows(tied, seed=1, shape=(8, 7))
    generator = np.random.default_rng(0)
    found = recall_at_k(scores, gold, valid, k)
    for i in range(len(scores)):
        places = [j for j in range(7) if valid[i, j]]
        golds = {j for j in places if gold[i, j]}
        if not golds:
            assert math.isnan(found[i])
            continue
        trials = []
        for _ in range(2000 if tied else 1):
            order = sorted(generator.permutation(places).tolist(), key=lambda j: -float(scores[i, j]))
            trials.append(len(golds & set(order[: k or len(golds)])) / len(golds))
        # the mean of 2,000 numbers from 0 to 1 errs by at most 0.5/sqrt(2000) = 0.011 in one standard deviation
        assert float(found[i]) == pytest.approx(np.mean(trials), abs=0.05 if tied else EXACT)


def test_scores_that_are_all_alike_get_what_chance_gives():
    alike = torch.zeros(5)
    assert float(roc_auc(alike, GOLD)) == 0.5
    assert float(average_precision(alike, GOLD)) == pytest.approx(2 / 5)
    assert float(recall_at_k(alike, GOLD)) == pytest.approx(2 / 5)


def test_rows_without_both_classes_are_undefined():
    none, every = torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)
    found = roc_auc(ROW.expand(3, 5), torch.stack([none, every, GOLD]))
    assert found.isnan().tolist() == [True, True, False]
    assert average_precision(ROW, none).isnan()
    assert float(average_precision(ROW, every)) == 1
    assert recall_at_k(ROW, none).isnan()


def test_any_leading_axes_and_broadcast_masks():
    scores, gold, _ = random_rows(False, shape=(2, 3, 9))
    causal = torch.ones(3, 9, dtype=torch.bool).tril(5)
    for metric in (roc_auc, average_precision, recall_at_k):
        found = metric(scores, gold, causal)
        assert found.shape == (2, 3)
        torch.testing.assert_close(found[1, 2], metric(scores[1, 2], gold[1, 2], causal[2]), equal_nan=True)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        roc_auc(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))
    with pytest.raises(InputError, match="do not fit"):
        average_precision(ROW, torch.tensor([True, False]))
    with pytest.raises(InputError, match="at least 1"):
        recall_at_k(ROW, GOLD, k=0)


def test_span_by_hand():
    row = torch.tensor([1.0, -4.0, 2.0, 3.0, 0.0])
    span = torch.tensor([False, True, True, False, False])
    assert float(span_mass(row, span)) == pytest.approx(6 / 10)
    assert float(span_rank(row, span)) == 1  # |-4|
    assert float(span_rank(row, span, signed=True)) == 2  # 2 behind 3
    valid = torch.tensor([True, False, True, True, True])
    assert float(span_mass(row, span, valid)) == pytest.approx(2 / 6)
    assert float(span_rank(row, span, valid)) == 2


def test_a_tie_with_the_span_counts_against_it():
    assert float(span_rank(torch.ones(6), torch.arange(6) < 2)) == 5
    assert span_mass(torch.zeros(6), torch.arange(6) < 2).isnan()


def test_spans_by_loops():
    scores, span, valid = random_rows(True, seed=2)
    span[:, 3] = valid[:, 3] = True
    mass, rank = span_mass(scores, span, valid), span_rank(scores, span, valid, signed=True)
    for i in range(len(scores)):
        inside = [float(scores[i, j]) for j in range(17) if valid[i, j] and span[i, j]]
        outside = [float(scores[i, j]) for j in range(17) if valid[i, j] and not span[i, j]]
        total = sum(map(abs, inside + outside))
        assert float(mass[i]) == pytest.approx(sum(map(abs, inside)) / total, abs=EXACT)
        assert float(rank[i]) == 1 + sum(value >= max(inside) for value in outside)


def test_a_row_without_a_span_is_refused():
    with pytest.raises(InputError, match="no valid source in its span"):
        span_mass(ROW, torch.zeros(5, dtype=torch.bool))
