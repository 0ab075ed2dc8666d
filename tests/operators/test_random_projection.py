"""Lengths from a few random directions: unbiased, as far off as is said, and hardly ever beyond the factors."""

import math

import pytest
import torch

from mambascope.operators.random_projection import length_error, length_factors, random_projection

SIZES = [(1, 2), (8, 32), (31, 32), (32, 768), (64, 768), (128, 768)]


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_directions_are_orthonormal_but_for_a_factor(rows, width):
    S = random_projection(rows, width, seed=3)
    assert (S @ S.t() * rows / width - torch.eye(rows, dtype=torch.float64)).abs().max() < 1e-12
    assert not torch.equal(S, random_projection(rows, width, seed=4))


@pytest.mark.parametrize("miss", [1e-2, 1e-6 / 8])
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_what_lies_beyond_the_factors_is_less_than_the_chance(rows, width, miss):
    """The exact chances are the Beta distribution's; the bound is no more than a hundred times as large."""
    exact = pytest.importorskip("scipy.stats").beta(rows / 2, (width - rows) / 2)
    low, high = length_factors(rows, width, miss)
    assert low < 1 < high
    longer, shorter = exact.cdf(rows / width / high**2), exact.sf(rows / width / low**2)
    assert miss / 100 < longer < miss
    assert shorter < miss  # at rows near the width no estimate is so far too large


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_the_error_is_the_root_mean_square(rows, width):
    exact = pytest.importorskip("scipy.stats").beta(rows / 2, (width - rows) / 2)
    mean = exact.expect(lambda share: (math.sqrt(share * width / rows) - 1) ** 2)
    assert length_error(rows, width) == pytest.approx(math.sqrt(mean), rel=1e-6)


def test_squares_are_right_on_average():
    """5 standard errors of 400 draws."""
    rows, width, draws = 8, 32, 400
    v = torch.linspace(-1, 2, width, dtype=torch.float64)
    squares = torch.stack([(random_projection(rows, width, seed) @ v).square().sum() for seed in range(draws)])
    deviation = math.sqrt(2 * (width - rows) / (rows * (width + 2)) / draws)
    assert abs(float(squares.mean() / v.square().sum()) - 1) < 5 * deviation
    errors = squares.sqrt() / v.norm() - 1
    assert float(errors.square().mean().sqrt()) == pytest.approx(length_error(rows, width), rel=0.2)
