"""The conservation error against hand-worked cases and a loop."""

import math

import pytest
import torch

from mambascope.errors import InputError
from mambascope.evaluate.metrics.conservation import conservation_error


def test_hand_worked_cases():
    assert float(conservation_error(torch.tensor(4.0), torch.tensor([1.0, 2.0, 1.0]))) == 0
    assert float(conservation_error(torch.tensor(-4.0), torch.tensor([1.0, 2.0, 0.0]))) == pytest.approx(7 / 4)


def test_texts_are_summed_one_by_one_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    value, relevance = torch.randn(3, generator=generator), torch.randn(3, 50, generator=generator)
    found = conservation_error(value, relevance)
    for i in range(3):
        total = math.fsum(relevance[i].tolist())
        assert float(found[i]) == pytest.approx(abs(float(value[i]) - total) / abs(float(value[i])), rel=1e-12)


def test_nothing_to_conserve():
    assert float(conservation_error(torch.tensor(0.0), torch.tensor([1.0]))) == math.inf
    assert conservation_error(torch.tensor(0.0), torch.tensor([0.0])).isnan()


@pytest.mark.parametrize(
    ("value", "relevance"), [([1.0], [1.0]), (1.0, [torch.nan]), ([1.0, 2.0], [[1.0, 2.0]]), (torch.inf, [1.0])]
)
def test_what_cannot_be_summed_is_refused(value, relevance):
    with pytest.raises(InputError):
        conservation_error(torch.tensor(value), torch.tensor(relevance))
