"""How far two computations of one thing may lie apart.

A sum adds its products in another order where memory is aligned otherwise, where there are other threads or another
batch, or where the processor has other instructions. So the same model run twice, saved and loaded, or run inside
another pass gives the same but for rounding, and equality to the bit is asked only where nothing is computed: of stored
tensors, masks, zeros above the diagonal and at padding. (A sum of a single term, or of small whole numbers, is exact.)
"""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
import torch

#: In steps of eps of the largest value. A sum of n products is off by some sqrt(n) eps of their size, and the layers,
#: norms and softmaxes after it make that larger: with 2 eps of noise on every sum of every test model, two runs lay
#: 330 steps apart at most, and without noise 20. What is wrong is off by thousands of times more.
STEPS = 500


def assert_equal_to_rounding(found, expected, what="the two", precision=None):
    """Hold one computation against another of the same thing, in the precision that both have or that is given."""
    assert found.shape == expected.shape, f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    assert found.dtype == expected.dtype, f"{what}: {found.dtype} and {expected.dtype}"
    eps = torch.finfo(precision or found.dtype).eps
    found, expected = found.detach().double(), expected.detach().double()
    apart, size = float((found - expected).abs().max()), float(expected.abs().max())
    assert apart <= STEPS * eps * size, f"{what} are {apart / (eps * size or 1):.0f} eps apart, allowed {STEPS}"


def assert_same_weights(model, other):
    """Hold the stored tensors of two models against each other, to the bit."""
    tensors, others = model.state_dict(), other.state_dict()
    assert tensors.keys() == others.keys()
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])]
    assert not different, f"other weights: {different}"


#: Of the way from where training began. Adam divides a gradient by its own size, so that where it is next to nothing
#: rounding decides which way a weight goes: with noise as above six steps ended 2 % of the way apart at most. A run
#: that goes on without its optimiser's state ends 13 % away at least.
ASTRAY = 0.05


def assert_trained_alike(found, expected, start):
    """Hold the tensors that one training ended with against another's; `start` is what both began with."""
    assert found.keys() == expected.keys() == start.keys()
    learnt = [name for name, tensor in start.items() if tensor.is_floating_point()]
    ended, right, began = (
        torch.cat([tensors[name].detach().double().flatten() for name in learnt])
        for tensors in (found, expected, start)
    )
    astray = float((ended - right).norm() / (right - began).norm())
    assert astray < ASTRAY, f"{astray:.1%} of the way apart, allowed {ASTRAY:.0%}"


def assert_same_numbers(found, expected, rel=1e-12):
    """Hold two results of one statistic against each other, field by field: their numbers are means in float64."""
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(expected):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), [expected[key] for key in found]
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=rel, nan_ok=True)
    elif isinstance(expected, Sequence) and not isinstance(expected, str):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_numbers(one, other, rel)
    else:
        assert found == expected
