"""A convolution over a grid before scans in any orders, as one affine map: against loops over tokens and taps."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dense_reference import distance
from grid_reference import convolved, vectors
from mambascope.errors import InputError
from mambascope.operators import affine_map, naive
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.grid_convolution import GridConvolution, GridConvolutionMixer
from mambascope.operators.multi_scan import MultiScan
from mambascope.operators.permutation import Part, Permutation
from mambascope.operators.selective_scan import SelectiveScan

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64: sums of a few hundred terms of either sign.
BOUND = 1e-11
D, N, E = 6, 3, 5


def case(grid, kernel, orders, batch, centred, biases, seed=0, rule="secant"):
    """Return an operator with its contributions (b, L, L, E), its biases (b, L, E) and its matrix on u (b, D, L, L)."""
    draw = torch.Generator().manual_seed(seed)
    length = grid[0] * grid[1]

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    x, W_x, W_o, taps = normal(batch, length, E), normal(D, E), normal(E, D), normal(D, *kernel)
    b_x, conv_bias, b_o = (normal(D), normal(D), normal(E)) if biases else (None, None, None)
    gate, offset = normal(batch, length, D), normal(batch, length, D) if biases else None
    parts, alpha = [], 0
    for number in range(orders):
        tokens = torch.arange(length) if number == 0 else torch.randperm(length, generator=draw)
        dt, A, skip = normal(batch, length, D).exp() / 3, -normal(D, N).exp(), normal(D)
        scan = SelectiveScan(dt, A, *normal(2, batch, length, N), skip)
        parts.append(Part(scan, Permutation(tokens)))
        steps = tokens.argsort()
        dense = [naive.selective_scan_matrix(dt[row], A, scan.B[row], scan.C[row]) for row in range(batch)]
        alpha = alpha + torch.stack(dense)[:, :, steps][..., steps]
    scan = parts[0].mixer if orders == 1 else MultiScan(tuple(parts))
    convolution = GridConvolution(taps, *grid)
    operator = GridConvolutionMixer(
        x, scan, W_x, b_x, convolution, conv_bias, gate, W_o, b_o, centred=centred, offset=offset
    )
    T, beta, implicit = [], [], []
    zero = torch.zeros(D, dtype=torch.float64)
    for row in range(batch):
        u = x[row] @ W_x.t()
        constant = convolved((zero if b_x is None else b_x).expand(*grid, D).clone(), taps).flatten(0, 1)
        constant = constant + (zero if conv_bias is None else conv_bias)
        a = convolved(u.unflatten(0, grid), taps).flatten(0, 1) + constant
        T.append(vectors(alpha[row], scan.skip, u, taps, grid, a, gate[row], W_o, rule, centred))
        acted = {"secant": torch.sigmoid(a), "silu": torch.sigmoid(constant), "identity": torch.ones_like(a)}[rule]
        o = torch.einsum(
            "dik,kd->id", alpha[row] + torch.diag_embed(scan.skip[:, None].expand(D, length)), acted * constant
        )
        o = o - o.mean(dim=1, keepdim=True) if centred else o
        beta.append((gate[row] * o + (0 if offset is None else offset[row])) @ W_o.t() + (0 if b_o is None else b_o))
        units = []
        for d in range(D):
            one = torch.eye(D, dtype=torch.float64)[d : d + 1]
            of = vectors(alpha[row], scan.skip, torch.ones_like(u), taps, grid, a, gate[row], one, "secant", False)
            units.append(of[..., 0])
        implicit.append(torch.stack(units))
    return operator, torch.stack(T), torch.stack(beta), torch.stack(implicit)


def tiled(tiles, operator, channels):
    """Return all tiles as one array (b, L, L, channels)."""
    whole = torch.full((*operator.x.shape[:2], operator.length, channels), torch.nan, dtype=operator.x.dtype)
    for block, tile in tiles:
        whole[:, block.rows, block.columns] = tile.permute(0, 2, 3, 1)
    return whole


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    kernel=st.sampled_from([(1, 1), (1, 3), (3, 3), (1, 4), (2, 3), (5, 1)]),
    orders=st.integers(1, 4),
    batch=st.integers(1, 2),
    centred=st.booleans(),
    biases=st.booleans(),
    elements=st.sampled_from([1, 1 << 9, 1 << 24]),
    seed=st.integers(0, 99),
)
def test_any_grid_any_orders(grid, kernel, orders, batch, centred, biases, elements, seed):
    operator, T, beta, implicit = case(grid, kernel, orders, batch, centred, biases, seed)
    assert isinstance(operator, AffineMap)
    length, size = grid[0] * grid[1], T.abs().amax() + 1
    y = T.sum(dim=2) + beta
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affine_map, "TILE_ELEMENTS", elements)
        assert (tiled(operator.contribution_tiles(), operator, E) - T).abs().max() < BOUND * size
        assert distance(tiled(operator.implicit_tiles(), operator, D).permute(0, 3, 1, 2), implicit) < BOUND
        assert distance(operator.implicit_mean(), implicit.mean(dim=1)) < BOUND
    assert (operator.output() - y).abs().max() < BOUND * size
    assert (operator.bias() - beta).abs().max() < BOUND * size
    assert (operator.explained() - y).abs().max() < BOUND * size
    target = seed % length
    found, own_bias = operator.contributions(target)
    assert (found - T[:, target]).abs().max() < BOUND * size
    assert (own_bias - beta[:, target]).abs().max() < BOUND * size
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, length, E, dtype=torch.float64, generator=draw)
    pulled = torch.einsum("bie,bije->bj", q, T)
    assert (operator.pull(q) - pulled).abs().max() < BOUND * (1 + pulled.abs().max())
    v = torch.randn(batch, length, dtype=torch.float64, generator=draw)
    assert distance(operator.implicit_pull(v) + 1, torch.einsum("bi,bij->bj", v, implicit.mean(dim=1)) + 1) < BOUND
    assert distance(operator.implicit_row(target), implicit.mean(dim=1)[:, target]) < BOUND
    assert operator.seen(target) == slice(0, length), "the convolution looks ahead"


@pytest.mark.parametrize("rule", ["silu", "identity"])
@pytest.mark.parametrize("centred", [False, True], ids=["plain", "centred"])
def test_other_rules_leave_the_residual_that_they_report(rule, centred):
    operator, T, beta, _ = case((3, 4), (3, 3), 4, 2, centred, True, rule=rule)
    assert distance(tiled(operator.contribution_tiles(rule), operator, E), T) < BOUND
    assert distance(operator.contributions(5, rule)[0], T[:, 5]) < BOUND
    assert distance(operator.contributions(5, rule)[1], beta[:, 5]) < BOUND
    assert distance(operator.bias(rule), beta) < BOUND
    assert distance(operator.explained(rule), T.sum(dim=2) + beta) < BOUND
    q = torch.randn(2, 12, E, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert distance(operator.pull(q, rule), torch.einsum("bie,bije->bj", q, T)) < BOUND
    y = operator.output()
    residual = float((T.sum(dim=2) + beta - y).norm() / y.norm())
    assert residual > 0.05
    assert operator.residual(rule) == pytest.approx(residual, rel=1e-9)
    assert operator.residual("secant") < BOUND
    with pytest.raises(InputError, match="target 12 is not a position"):
        operator.contributions(12)


def test_a_source_reaches_the_token_before_it():
    """With one causal scan and a convolution that looks ahead, T has one diagonal above the main one, and no more."""
    operator, T, _, _ = case((1, 7), (1, 3), 1, 1, False, False)
    assert operator.scan.causal
    assert T[0].norm(dim=-1).diagonal(1).all()
    assert not T[0].norm(dim=-1).triu(2).any()
    found = tiled(operator.contribution_tiles(), operator, E)[0].norm(dim=-1)
    assert found.diagonal(1).all()
    assert not found.triu(2).any()
