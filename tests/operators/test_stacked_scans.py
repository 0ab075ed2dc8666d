"""Scans with channels of their own, as one: against the loops, and against each scan alone."""

import pytest
import torch

from dense_reference import distance
from mambascope.operators.blocks import Block, Workspace
from mambascope.operators.naive import selective_scan_matrix
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.stacked_scans import StackedScans

LENGTH, WIDTH, STATES, SCANS = 21, 3, 2, 2
#: float64 sums in another order.
BOUND = 1e-12


@pytest.fixture
def stacked():
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return StackedScans(
        tuple(
            SelectiveScan(
                dt=drawn(1, LENGTH, WIDTH).exp(),
                A=-drawn(WIDTH, STATES).exp(),
                B=drawn(1, LENGTH, STATES),
                C=drawn(1, LENGTH, STATES),
                skip=drawn(WIDTH),
            )
            for _ in range(SCANS)
        )
    )


@pytest.fixture
def alpha(stacked):
    parts = [selective_scan_matrix(part.dt[0], part.A, part.B[0], part.C[0]) for part in stacked.parts]
    return torch.cat(parts)


def test_products_and_tiles_are_those_of_the_matrices(stacked, alpha):
    v = torch.randn(1, LENGTH, SCANS * WIDTH, dtype=torch.float64)
    every = slice(0, LENGTH)
    assert stacked.maps == len(stacked.skip) == SCANS * WIDTH
    assert distance(stacked.apply(v)[0], torch.einsum("dij,jd->id", alpha, v[0])) < BOUND
    assert distance(stacked.apply_transposed(v)[0], torch.einsum("dij,id->jd", alpha, v[0])) < BOUND
    assert distance(stacked.pull(v[..., 0])[0], v[0, :, 0] @ alpha.mean(dim=0)) < BOUND
    assert distance(stacked.tile(every, every)[0], alpha) < BOUND
    assert distance(stacked.tile(every, every, [4, 1])[0], alpha[[4, 1]]) < BOUND
    assert torch.equal(stacked.channels(alpha[None])[0], alpha)


def test_mixtures_through_taps_and_gates_are_those_of_the_matrices(stacked, alpha):
    taps = torch.randn(1, 2, SCANS * WIDTH, LENGTH, dtype=torch.float64)
    gate = torch.randn(1, LENGTH, SCANS * WIDTH, dtype=torch.float64)
    shifted = torch.nn.functional.pad(alpha[..., 1:], (0, 1))
    expected = gate[0].t()[..., None] * (alpha * taps[0, 0, :, None] + shifted * taps[0, 1, :, None])
    mixed, mean, workspace = torch.zeros_like(alpha), torch.zeros_like(alpha[0]), Workspace()
    for block in stacked.blocks(taps=2):
        rows, columns = block.rows, block.columns
        part = stacked.mix(block, taps[..., columns], gate[:, rows], workspace)[0]
        mixed[:, rows, columns] = part
        mean[rows, columns] = stacked.mean(block, taps[..., columns], gate[:, rows], workspace)[0]
    lower = torch.ones(LENGTH, LENGTH).tril().bool()
    assert distance(mixed * lower, expected * lower) < BOUND
    assert distance(mean * lower, (expected * lower).mean(dim=0)) < BOUND


def test_without_taps_or_gate_it_is_the_matrix(stacked, alpha):
    whole = Block(slice(0, LENGTH), slice(0, LENGTH))
    assert distance(stacked.mix(whole, None, None, Workspace())[0], alpha) < BOUND
    assert distance(stacked.mean(whole, None, None, Workspace())[0], alpha.mean(dim=0)) < BOUND
