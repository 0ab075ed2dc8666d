"""What two rows, or two texts, give each column: shares on one scale, and where they are furthest apart."""

import dataclasses
import json

import pytest
import torch

from mambascope.results.text_comparison import TextComparison, compared_row
from show_results import result

NAMES = ("When", " Mary", " and", " John")


def row(scores, signed=True, method="made", value=None, units=None):
    """A row of one text with these scores of its tokens."""
    made = result(NAMES[: len(scores)], layers=1, signed=signed, single=True, method=method)
    made.scores[0, 0] = torch.tensor(scores)
    made = dataclasses.replace(made, target=dataclasses.replace(made.target, value=value, asked="logit of 'x'"))
    units = units or [range(k, k + 1) for k in range(len(scores))]
    return compared_row([made], [units], [len(units) - 1])


def both(first, second):
    """A row of two texts."""
    results = [first.results[0], second.results[0]]
    units = [[range(k, k + 1) if s == s else range(0) for k, s in enumerate(one.scores[0])] for one in (first, second)]
    return compared_row(results, units, [3, 3])


def test_shares_are_of_the_absolute_scores_of_units():
    made = row([1.0, -3.0, 2.0, 2.0], units=[range(2), range(2, 3), range(3, 4), range(0)])
    torch.testing.assert_close(made.scores[0, :3], torch.tensor([-2.0, 2.0, 2.0], dtype=torch.float64))
    assert made.scores[0, 3].isnan()
    torch.testing.assert_close(made.shares[0, :3], torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64) / 3)


def test_a_row_of_zeros_has_no_shares():
    assert not row([0.0, 0.0, 0.0, 0.0]).shares.any()


def test_signed_rows_are_compared_with_their_signs_and_others_by_size():
    first, second, unsigned = row([2.0, -2.0, 0, 0]), row([2.0, 2.0, 0, 0]), row([2.0, 0, 0, 2.0], signed=False)
    signs = TextComparison((first, second), (NAMES,))
    top = signs.contrasts()[0]
    assert (top.column, top.rows, top.shares, top.difference) == (1, (0, 1), (-0.5, 0.5), 1.0)
    sizes = TextComparison((first, unsigned), (NAMES,)).contrasts()
    assert {one.column: one.difference for one in sizes} == {0: 0.0, 1: -0.5, 2: 0.0, 3: 0.5}
    assert {one.shares for one in sizes if one.column == 1} == {(0.5, 0.0)}


def test_each_column_has_the_two_rows_that_are_furthest_apart():
    rows = (row([1.0, 0, 0, 0]), row([0, 1.0, 0, 0]), row([0, -1.0, 0, 0]))
    found = {one.column: (one.rows, one.difference) for one in TextComparison(rows, (NAMES,)).contrasts()}
    assert found[0] == ((0, 1), -1.0)
    assert found[1] == ((1, 2), -2.0)
    (name, line), *_ = TextComparison(rows, (NAMES,)).differences()
    assert name == "largest difference of two rows"
    assert line.tolist() == [1.0, 2.0, 0.0, 0.0]


def test_a_column_that_a_row_lacks_is_not_compared_there():
    short = row([1.0, 1.0, 2.0, 0.0], units=[range(0), range(1), range(1, 2), range(2, 4)])
    found = TextComparison((row([4.0, 0, 0, 0]), short), (NAMES,)).contrasts()
    assert {one.column for one in found} == {1, 2, 3}


def test_agreement_is_what_lies_elsewhere_and_the_order():
    rows = (row([4.0, 3.0, 2.0, 1.0]), row([1.0, 2.0, 3.0, 4.0]), row([0.0, 0.0, 0.0, 0.0]))
    found = {one.rows: one for one in TextComparison(rows, (NAMES,)).agreements()}
    assert found[0, 1].elsewhere == pytest.approx(0.4)
    assert found[0, 1].rank_correlation == pytest.approx(-1.0)
    assert found[0, 2].rank_correlation is None
    assert [one.elsewhere for one in TextComparison(rows, (NAMES,)).agreements()] == pytest.approx([0.5, 0.5, 0.4])


def test_two_texts_are_on_the_scale_of_the_first():
    made = both(row([4.0, -4.0, 0, 0], value=3.0), row([2.0, 8.0, 0, 0], value=5.0))
    comparison = TextComparison((made,), (NAMES, ("When", " Anna", " and", " John")))
    torch.testing.assert_close(made.shares[1], torch.tensor([0.25, 1.0, 0, 0], dtype=torch.float64))
    assert comparison.changed == (1,)
    assert comparison.named(1) == "' Mary' → ' Anna'"
    assert comparison.largest == 1.0
    top = comparison.contrasts(0)[0]
    assert (top.column, top.rows, top.shares, top.difference) == (1, (0, 0), (-0.5, 1.0), 1.5)
    assert made.values == (3.0, 5.0)
    ((name, line),) = comparison.differences()
    assert name.startswith("change of made on ")
    assert line.tolist() == [-0.25, 1.5, 0, 0]


def test_everything_is_written_as_json():
    rows = (row([1.0, 0, 0, 2.0]), row([1.0, 1.0, 0, 2.0], units=[range(1), range(1, 2), range(2, 4), range(0)]))
    plain = json.loads(json.dumps(TextComparison(rows, (NAMES,), ("x on y",)).to_dict(), allow_nan=False))
    assert plain["columns"] == [[name] for name in NAMES]
    assert plain["rows"][1]["scores"] == [[1.0, 1.0, 2.0, None]]
    assert plain["rows"][0]["results"][0]["method"] == "made"
    assert [one["rows"] for one in plain["agreements"]] == [[0, 1]]
    assert plain["left_out"] == ["x on y"]
