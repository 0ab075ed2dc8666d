"""The order of numbers in memory changes nothing else."""

import pytest
import torch

from mambascope.operators.layout import tokens_in_line


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 64, 96), (2, 1, 5), (2, 5, 1), (2, 0, 4)])
def test_numbers_are_those_of_the_tensor_with_the_channels_of_each_token_side_by_side(shape):
    channels_first = torch.randn(shape[0], shape[2] + 3, shape[1])[:, : shape[2]]
    given = channels_first.transpose(1, 2)
    found = tokens_in_line(given)
    assert found.is_contiguous()
    assert torch.equal(found, given)


def test_a_tensor_that_lies_so_already_is_not_copied():
    given = torch.randn(2, 8, 4)
    assert tokens_in_line(given).data_ptr() == given.data_ptr()


def test_gradients_pass_through_it():
    leaf = torch.randn(2, 4, 8, requires_grad=True)
    for given in (leaf.transpose(1, 2), (2 * leaf).transpose(1, 2)):
        (gradient,) = torch.autograd.grad(tokens_in_line(given).sum(), leaf)
        assert gradient.shape == leaf.shape
