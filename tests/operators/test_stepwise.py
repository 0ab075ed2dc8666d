"""Operators run one token further: what sources have written and what a target reads of it are alpha's factors."""

import pytest
import torch

from dense_reference import distance
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.operators.token_mixer import Stepwise
from random_scans import make_delta, make_scan, make_short

#: float64 sums of a few terms in another order; the delta rule also solves triangular systems.
BOUND = 1e-12
#: Within one chunk of the delta rule and over several of them, and no token at all before the target.
LENGTHS = (1, 2, 3, 70, 150)


MAKE = {
    "mamba1": lambda length: make_scan("mamba1", length),
    "mamba2": lambda length: make_scan("mamba2", length),
    "delta": lambda length: make_delta(length, 1),
    "delta per channel": lambda length: make_delta(length, 3),
    "short convolution": make_short,
    "one tap": lambda length: make_short(length, 1),
}


def until(scan, stop):
    """Return the operator of the first tokens alone."""
    parts = {
        name: value[:, :stop] if isinstance(value, torch.Tensor) and value.ndim > 2 else value
        for name, value in vars(scan).items()
        if name in type(scan).__dataclass_fields__
    }
    return type(scan)(**parts)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", MAKE)
def test_a_row_is_what_the_target_reads_of_what_sources_have_written(kind, length):
    scan = MAKE[kind](length)
    assert isinstance(scan, Stepwise)
    last = length - 1
    row = scan.tile(slice(last, length), slice(0, length))[:, :, 0]
    found = scan.immediate()[:, last, :, None]
    if last:
        recalled, before = scan.recalled()[:, last], until(scan, last)
        written = before.written(slice(0, last))
        found = torch.cat([torch.einsum("bmn,bmcn->bmc", recalled, written), found], dim=-1)
        some = before.written(slice(last // 2, last))
        assert torch.allclose(some, written[:, :, last // 2 :], rtol=BOUND, atol=BOUND), "some are those of all"
    assert distance(found, row) < BOUND


def test_attention_keeps_no_state_of_fixed_size():
    p = torch.full((1, 2, 3, 3), 1 / 3, dtype=torch.float64)
    assert not isinstance(SoftmaxAttention(p, torch.zeros(4, dtype=torch.float64)), Stepwise)
