"""The page's numbers: what is packed, read back."""

import numpy as np
import pytest
import torch

from mambascope.show.pack import CODES, TOP, pack_layer, quantise, thumbnail, top_sources
from page_contents import unpacked
from show_results import result


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63])
@pytest.mark.parametrize("signed", [False, True])
def test_round_trip(length, signed):
    attribution = result(length, signed=signed)
    matrix, lengths = attribution.matrix(), list(range(1, length + 1))
    rows, order, exact = unpacked(pack_layer(matrix, range(length), lengths), lengths)
    for t, (codes, row) in enumerate(zip(rows, matrix.numpy(), strict=True)):
        top = attribution.top(TOP, position=t)
        assert order[t, : len(top)].tolist() == [source.position for source in top]
        # float32 both, each a mean over the layers of its own
        assert exact[t, : len(top)].tolist() == pytest.approx([source.score for source in top], rel=1e-6)
        assert not exact[t, len(top) :].any()
        largest = abs(exact[t, 0])
        rebuilt = np.sign(codes) * (codes.astype(float) / CODES) ** 2 * largest
        # half a code either way at the steep end: (1 - (1 - 1 / 254)²) of the largest
        assert np.abs(rebuilt - row[: t + 1]).max() <= 0.008 * largest


def test_ties_go_to_the_earlier_position_as_in_top():
    matrix = torch.tensor([[0.5, -1.0, 0.5, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5]])
    order, exact = top_sources(matrix, [10])
    assert order.tolist() == [[1, 3, 0, 2, 5, 6, 7, 8]]
    assert exact.tolist() == [[-1.0, 1.0] + [0.5] * 6]


def test_zeros_and_short_rows():
    order, exact = top_sources(torch.zeros(2, 3), [1, 3])
    assert order.shape == exact.shape == (2, TOP)
    assert order.tolist()[1][:3] == [0, 1, 2]
    assert not quantise(torch.zeros(2, 3)).any()
    assert not thumbnail(torch.zeros(2, 3)).any()


@pytest.mark.parametrize("shape", [(1, 5), (47, 47), (48, 100), (500, 500)])
def test_thumbnails_keep_the_strongest_of_each_patch(shape):
    matrix = torch.zeros(shape)
    matrix[shape[0] // 2, shape[1] // 2] = -3.0
    matrix[0, 0] = 0.75
    small = thumbnail(matrix)
    assert small.shape == tuple(min(side, 48) for side in shape)
    assert small.min() == -CODES
    assert small[0, 0] == round(CODES / 2)
