"""What is left of a state: exp of exponents, exactly zero where it is negligible."""

import pytest
import torch

from mambascope.operators.decays import NEGLIGIBLE, decay_from, decay_in_place


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factors", [1, 2])
@pytest.mark.parametrize("form", [decay_from, lambda exponent, factors: decay_in_place(exponent.clone(), factors)])
def test_a_decay_is_exp_above_the_cut_and_exactly_zero_below(dtype, factors, form):
    cut = 2 * NEGLIGIBLE[dtype] / factors
    kept = torch.linspace(0, cut * 0.999, 50, dtype=dtype)
    gone = torch.tensor([cut * 1.001, cut - 0.5, cut - 2, 3 * cut, -1e30, -torch.inf], dtype=dtype)
    found = form(kept, factors)
    assert ((found / kept.exp() - 1).abs() < 4 * torch.finfo(dtype).eps).all(), "exp, of two widths of instructions"
    assert (form(gone, factors) == 0).all()


def test_the_gradient_is_that_of_exp_and_zero_below_the_cut():
    exponent = torch.tensor([-1.0, -63.0, -65.0, -torch.inf], requires_grad=True)
    (gradient,) = torch.autograd.grad(decay_from(exponent).sum(), exponent)
    expected = torch.tensor([-1.0, -63.0]).exp()
    assert ((gradient[:2] / expected - 1).abs() < 1e-5).all()
    assert (gradient[2:] == 0).all()
