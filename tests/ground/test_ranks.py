"""Ranks and their correlation, held to cases worked by hand."""

import pytest
import torch

from mambascope.errors import InputError
from mambascope.ranks import rank_correlation, ranks


def test_ranks_share_ties():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 7.0, 3.0])).tolist() == [3.0, 1.0, 3.0, 5.0, 3.0]


def test_hand_worked_orders():
    rising = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    # d² = 1, 1, 1, 1, 0: 1 - 6·4/(5·24) = 0.8
    assert rank_correlation(rising, torch.tensor([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(0.8)


def test_the_formula_by_squared_differences_agrees_where_nothing_is_tied():
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 50):
        a, b = torch.rand(n, generator=generator), torch.rand(n, generator=generator)
        d = (a.argsort().argsort() - b.argsort().argsort()).double()
        assert rank_correlation(a, b) == pytest.approx(1 - 6 * float(d @ d) / (n * (n * n - 1)))


def test_no_order_has_no_correlation():
    assert rank_correlation(torch.ones(4), torch.rand(4)) != rank_correlation(torch.ones(4), torch.rand(4))


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, float("nan")], [1.0, 2.0])]
)
def test_what_has_no_rank_correlation_is_refused(first, second):
    with pytest.raises(InputError, match="rank correlation needs"):
        rank_correlation(torch.tensor(first), torch.tensor(second))
