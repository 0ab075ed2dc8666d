"""AER, word scores and word links against hand-worked sentences and loops written from the definitions."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from mambascope.errors import InputError
from mambascope.evaluate.metrics.alignment_error_rate import (
    AlignmentCounts,
    alignment_counts,
    alignment_error_rate,
    link_matrix,
)
from mambascope.evaluate.metrics.link_extraction import RULES, extract_links, grow_diag_final_and
from mambascope.evaluate.metrics.word_scores import word_scores


def test_rates_by_hand():
    links = link_matrix([(0, 0), (1, 1), (2, 1), (3, 3)], 4, 4)
    sure = link_matrix([(0, 0), (1, 1), (2, 2)], 4, 4)
    possible = link_matrix([(2, 1)], 4, 4)
    counts = alignment_counts(links, sure, possible)
    assert counts == AlignmentCounts(links=4, sure=3, links_sure=2, links_possible=3)
    assert counts.error_rate == pytest.approx(1 - (2 + 3) / (4 + 3))
    assert counts.precision == pytest.approx(3 / 4)
    assert counts.recall == pytest.approx(2 / 3)


def test_a_perfect_alignment_has_no_error():
    sure = link_matrix([(0, 1), (1, 0)], 2, 2)
    assert alignment_counts(sure, sure).error_rate == 0
    assert alignment_counts(~sure, sure).error_rate == 1


def test_rates_by_sets():
    generator = random.Random(0)
    total = AlignmentCounts()
    union = [set(), set(), set()]
    for sentence in range(20):
        pairs = list(itertools.product(range(5), range(6)))
        a, s, p = (set(generator.sample(pairs, generator.randint(0, 9))) for _ in range(3))
        counts = alignment_counts(*(link_matrix(found, 5, 6) for found in (a, s, p)))
        p |= s
        if a and s:
            assert counts.error_rate == pytest.approx(1 - (len(a & s) + len(a & p)) / (len(a) + len(s)))
            assert counts.precision == pytest.approx(len(a & p) / len(a))
            assert counts.recall == pytest.approx(len(a & s) / len(s))
        total += counts
        for whole, part in zip(union, (a, s, p), strict=True):
            whole |= {(sentence, *pair) for pair in part}
    a, s, p = union
    assert total.error_rate == pytest.approx(1 - (len(a & s) + len(a & p)) / (len(a) + len(s)))


def test_counts_add_up_and_rates_do_not_average():
    first, second = AlignmentCounts(1, 1, 1, 1), AlignmentCounts(9, 9, 0, 0)
    assert sum([first, second], AlignmentCounts()) == AlignmentCounts(10, 10, 1, 1)
    assert (first + second).error_rate == pytest.approx(0.9)


def test_nothing_found_and_nothing_asked():
    assert math.isnan(AlignmentCounts().error_rate)
    assert math.isnan(AlignmentCounts(sure=2).precision)
    assert AlignmentCounts(sure=2).error_rate == 1
    assert math.isnan(AlignmentCounts(links=2).recall)


def test_arrays_of_counts():
    found = alignment_error_rate(np.array([4, 0]), np.array([3, 0]), np.array([2, 0]), np.array([3, 0]))
    assert found[0] == pytest.approx(2 / 7)
    assert math.isnan(found[1])


def test_names_in_a_table():
    assert AlignmentCounts(4, 3, 2, 3).rows("union") == {
        "aer_links:union": 4,
        "aer_sure:union": 3,
        "aer_intersection_sure:union": 2,
        "aer_intersection_possible:union": 3,
    }
    assert set(AlignmentCounts().rows()) == {
        "aer_links",
        "aer_sure",
        "aer_intersection_sure",
        "aer_intersection_possible",
    }


@pytest.mark.parametrize("counts", [(1, 1, 2, 2), (3, 3, 2, 1), (3, 1, 2, 2), (1, 1, -1, 0), (2, 3, 1, 3)])
def test_counts_of_no_alignment_are_refused(counts):
    with pytest.raises(InputError, match="no links give these counts"):
        AlignmentCounts(*counts)


def test_links_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="one shape"):
        alignment_counts(link_matrix([], 2, 3), link_matrix([], 3, 2))
    for pair in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(InputError, match="outside a sentence"):
            link_matrix([pair], 2, 3)


PIECES = torch.tensor([[1.0, 2.0, 4.0, 9.0], [3.0, 0.0, 8.0, 9.0], [-1.0, -5.0, 6.0, 9.0]])


def test_pieces_by_hand():
    # Sources: pieces 0 and 1 are word 0, piece 2 word 1, piece 3 a special token. Targets: 0 and 1 are word 0.
    merged = word_scores(PIECES, [0, 0, 1], [0, 0, 1, None])
    assert merged.tolist() == [[3.0, 6.0], [-6.0, 6.0]]
    merged = word_scores(PIECES, [0, 0, 1], [0, 0, 1, None], over_sources="max", over_targets="max")
    assert merged.tolist() == [[3.0, 8.0], [-1.0, 6.0]]
    assert word_scores(PIECES, [0, 0, 1], [0, 0, 1, None], over_sources="mean", over_targets="sum").tolist() == [
        [3.0, 12.0],
        [-3.0, 6.0],
    ]


@pytest.mark.parametrize("over_sources", ["sum", "mean", "max"])
@pytest.mark.parametrize("over_targets", ["sum", "mean", "max"])
def test_pieces_by_loops(over_sources, over_targets):
    merge = {"sum": sum, "mean": lambda x: sum(x) / len(x), "max": max}
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    targets, sources = [None, 0, 2, 1, 1, 2, None], [0, 1, 1, 1, None, 2]
    found = word_scores(scores, targets, sources, over_sources=over_sources, over_targets=over_targets)
    assert found.shape == (3, 3)
    for i in range(3):
        for j in range(3):
            rows = [
                merge[over_sources]([float(scores[a, b]) for b in range(6) if sources[b] == j])
                for a in range(7)
                if targets[a] == i
            ]
            assert float(found[i, j]) == pytest.approx(merge[over_targets](rows), rel=1e-12)


@pytest.mark.parametrize(
    ("targets", "sources", "message"),
    [
        ([0, 1], [0, 0, 1, 2], "as many word numbers"),
        ([0, 0, 2], [0, 0, 1, 2], "word 1 has no piece"),
        ([0, 0, 1], [None] * 4, "no word"),
        ([-1, 0, 1], [0, 0, 1, 2], "negative"),
    ],
)
def test_words_that_are_not_numbered_are_refused(targets, sources, message):
    with pytest.raises(InputError, match=message):
        word_scores(PIECES, targets, sources)


def pairs(links):
    return {tuple(pair) for pair in links.nonzero().tolist()}


def test_links_by_hand():
    scores = torch.tensor([[5.0, 1.0, 0.0], [4.0, 3.0, 0.0], [0.0, 2.0, 1.0]])
    assert pairs(extract_links(scores)) == {(0, 0), (1, 0), (2, 1)}
    assert pairs(extract_links(scores, "source")) == {(0, 0), (1, 1), (2, 2)}
    assert pairs(extract_links(scores, "intersection")) == {(0, 0)}
    assert pairs(extract_links(scores, "union")) == {(0, 0), (1, 0), (2, 1), (1, 1), (2, 2)}
    # Grown from (0, 0): (1, 0) is a neighbour and target 1 is free, then (1, 1) has a free source, then (2, 1) has a
    # free target; then (2, 2) has a free source.
    assert pairs(extract_links(scores, "grow-diag-final-and")) == {(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)}


def test_the_first_of_equal_scores_wins():
    assert pairs(extract_links(torch.zeros(2, 3))) == {(0, 0), (1, 0)}
    assert pairs(extract_links(torch.zeros(2, 3), "source")) == {(0, 0), (0, 1), (0, 2)}


def test_final_and_takes_links_far_from_the_rest_when_both_words_are_free():
    by_target = link_matrix([(0, 0), (3, 3), (1, 3)], 4, 4)
    by_source = link_matrix([(0, 0), (2, 3)], 4, 4)
    # (1, 3), (2, 3) and (3, 3) are no neighbours of (0, 0); of the targets' links (1, 3) comes first.
    assert pairs(grow_diag_final_and(by_target, by_source)) == {(0, 0), (1, 3)}


def moses(e2f, f2e, targets, sources):
    """The pseudo-code of Koehn et al. 2005, over sets."""
    union, links = e2f | f2e, e2f & f2e
    around = [(-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    size = -1
    while size != len(links):
        size = len(links)
        for e, f in itertools.product(range(targets), range(sources)):
            if (e, f) in links:
                for x, y in around:
                    new = (e + x, f + y)
                    free = new[0] not in {a for a, _ in links} or new[1] not in {b for _, b in links}
                    if free and new in union:
                        links.add(new)
    for direction in (e2f, f2e):
        for new in sorted(direction):
            if new[0] not in {a for a, _ in links} and new[1] not in {b for _, b in links}:
                links.add(new)
    return links


def test_rules_by_sets():
    generator = torch.Generator().manual_seed(0)
    grown_beyond = 0
    for size in [(1, 1), (1, 4), (5, 2), *[(6, 7)] * 40]:
        scores = torch.randn(size, generator=generator)
        by_target = {(i, int(np.argmax(row))) for i, row in enumerate(scores.numpy())}
        by_source = {(int(np.argmax(column)), j) for j, column in enumerate(scores.numpy().T)}
        expected = {
            "target": by_target,
            "source": by_source,
            "intersection": by_target & by_source,
            "union": by_target | by_source,
            "grow-diag-final-and": moses(by_target, by_source, *size),
        }
        assert expected.keys() == RULES.keys()
        for rule, links in expected.items():
            assert pairs(extract_links(scores, rule)) == links, rule
        grown_beyond += expected["intersection"] < expected["grow-diag-final-and"] < expected["union"]
    assert grown_beyond > 10


@pytest.mark.parametrize(
    ("scores", "rule", "message"),
    [
        (torch.zeros(2, 2), "best", "unknown rule"),
        (torch.zeros(0, 2), "target", "both sides"),
        (torch.full((2, 2), torch.nan), "target", "finite"),
    ],
)
def test_what_gives_no_links_is_refused(scores, rule, message):
    with pytest.raises(InputError, match=message):
        extract_links(scores, rule)


def test_an_unknown_way_to_merge_is_refused():
    with pytest.raises(InputError, match="unknown way to merge source pieces 'median'"):
        word_scores(PIECES, [0, 0, 1], [0, 0, 1, 2], over_sources="median")
