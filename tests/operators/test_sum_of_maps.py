"""Maps of any kind added up: a scan and an attention side by side, each scaled, against loops in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dense_reference import Layer, biases, contributions, distance, hidden_attention, implicit_attention
from mambascope.errors import InputError
from mambascope.operators import affine_map
from mambascope.operators.affine import AffineMixer
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.attention_layer import attention_layer
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.grid_convolution import GridConvolution, GridConvolutionMixer
from mambascope.operators.multi_scan import MultiScan
from mambascope.operators.permutation import Part, Permutation
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.operators.sum_of_maps import SumOfMaps

#: float64: sums of a few hundred terms of either sign.
BOUND = 1e-11
D, N, E, K = 6, 3, 5, 3
HEADS, WIDTH = 2, 4  # other channels than the scan's
SCALES = 0.6, 1.7


def drawing(seed):
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=draw)


def scan_branch(x, normal):
    """Return a scan's map, and its dense layer for every text."""
    batch, length, _ = x.shape
    W_x, b_x, taps, conv_bias, W_o, b_o = normal(D, E), normal(D), normal(D, K), normal(D), normal(E, D), normal(E)
    dt, A, skip = normal(batch, length, D).exp() / 3, -normal(D, N).exp(), normal(D)
    B, C, gate = normal(batch, length, N), normal(batch, length, N), normal(batch, length, D)
    scan = SelectiveScan(dt, A, B, C, skip)
    dense = []
    for text in range(batch):
        u, per_channel = x[text] @ W_x.t(), (part[text][:, None].expand(-1, D, -1) for part in (B, C))
        a = torch.zeros_like(u) + conv_bias
        for k in range(length):
            for shift in range(min(K, k + 1)):
                a[k] += taps[:, shift] * (u + b_x)[k - shift]
        B_d, C_d = per_channel
        alpha = hidden_attention(dt[text], A, B_d, C_d)
        known = (x[text], x[text], u, b_x, taps, conv_bias, a, dt[text], A, B_d, C_d, skip, alpha)
        dense.append(Layer(*known, gate[text], W_o, b_o, y=u))
    return AffineMixer(x, scan, W_x, b_x, CausalConvolution(taps), conv_bias, gate, W_o, b_o), dense


def attention_weights(normal):
    return normal(HEADS * WIDTH, E), normal(HEADS * WIDTH), normal(E, HEADS * WIDTH), normal(E)


def attention_branch(x, causal, normal):
    """Return an attention's map, and its T (b, L, L, E), beta (b, L, E) and mean matrix (b, L, L), pair by pair."""
    batch, length = x.shape[:2]
    W_V, b_V, W_O, b_O = attention_weights(normal)
    scores = normal(batch, HEADS, length, length)
    p = (scores + torch.full((length, length), -torch.inf).triu(1) if causal else scores).softmax(dim=-1)
    T, beta = torch.zeros(batch, length, length, E, dtype=torch.float64), b_O.expand(batch, length, E).clone()
    for text in range(batch):
        for i in range(length):
            for j in range(length):
                for h in range(HEADS):
                    head = slice(h * WIDTH, (h + 1) * WIDTH)
                    T[text, i, j] += p[text, h, i, j] * (W_O[:, head] @ (W_V[head] @ x[text, j]))
                    beta[text, i] += p[text, h, i, j] * (W_O[:, head] @ b_V[head])
    return attention_layer(x, p, W_V, b_V, W_O, b_O), T, beta, p.mean(dim=1)


def side_by_side(length, causal, batch=2, seed=0, rule="secant"):
    """Return a block of a scan and an attention, and its T, beta (secant) and mean implicit attention."""
    normal = drawing(seed)
    x = normal(batch, length, E)
    scan, dense = scan_branch(x, normal)
    attention, T, beta, mean = attention_branch(0.8 * x, causal, normal)
    operator = SumOfMaps.side_by_side(x, list(zip(SCALES, (scan, attention), strict=True)))
    T = SCALES[0] * torch.stack([contributions(one, rule) for one in dense]) + SCALES[1] * T
    beta = SCALES[0] * torch.stack([biases(one) for one in dense]) + SCALES[1] * beta
    implicit = torch.stack([implicit_attention(one).mean(dim=0) for one in dense])
    return operator, T, beta, SCALES[0] * implicit + SCALES[1] * mean


def tiled(operator, rule="secant"):
    """Return all contributions from tiles; zero where no block holds a pair, which none may hold twice."""
    T = torch.zeros(*operator.x.shape[:2], operator.length, E, dtype=operator.x.dtype)
    held = torch.zeros(operator.length, operator.length)
    for block, tile in operator.contribution_tiles(rule):
        T[:, block.rows, block.columns] = tile.permute(0, 2, 3, 1)
        held[block.rows, block.columns] += 1
    assert held.max() == 1
    return T


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    length=st.integers(1, 24),
    causal=st.booleans(),
    batch=st.integers(1, 2),
    elements=st.sampled_from([1, 1 << 9, 1 << 24]),
    seed=st.integers(0, 99),
)
def test_a_scan_and_an_attention_side_by_side(length, causal, batch, elements, seed):
    operator, T, beta, implicit = side_by_side(length, causal, batch, seed)
    assert isinstance(operator, AffineMap)
    y, target = T.sum(dim=2) + beta, seed % length
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affine_map, "TILE_ELEMENTS", elements)
        assert distance(tiled(operator), T) < BOUND
    assert distance(operator.output(), y) < BOUND
    assert distance(operator.explained(), y) < BOUND
    assert distance(operator.bias(), beta) < BOUND
    vectors, own_bias = operator.contributions(target)
    assert distance(vectors, T[:, target]) < BOUND
    assert distance(own_bias, beta[:, target]) < BOUND
    normal = drawing(seed + 1)
    q, v = normal(batch, length, E), normal(batch, length)
    pulled = torch.einsum("bie,bije->bj", q, T)
    assert (operator.pull(q) - pulled).abs().max() < BOUND * (1 + pulled.abs().max()), "sums of products that cancel"
    assert distance(operator.implicit_mean(), implicit) < BOUND
    assert distance(operator.implicit_pull(v) + 1, torch.einsum("bi,bij->bj", v, implicit) + 1) < BOUND
    seen = slice(0, target + 1 if causal or length == 1 else length)
    assert operator.seen(target) == seen
    assert distance(operator.implicit_row(target), implicit[:, target, seen]) < BOUND


@pytest.mark.parametrize("length", [70, 150], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_texts_of_many_blocks(length, causal):
    """Far blocks of the scan, several strips of sources, and no pair of a future that no target sees."""
    operator, T, _, implicit = side_by_side(length, causal, batch=1)
    assert distance(tiled(operator), T) < BOUND
    assert distance(operator.implicit_mean(), implicit) < BOUND
    assert operator.causal is causal
    pairs = sum(block.shape[0] * block.shape[1] for block in operator.blocks())
    assert pairs <= (0.65 if causal else 1) * length**2, "a causal sum makes little more than its triangle"


def test_a_causal_sum_without_common_blocks():
    """One part asks for whole rows: they end with their last target."""
    normal = drawing(0)
    x = normal(2, 200, E)
    one, _ = scan_branch(x, normal)
    multi = replace(one, scan=MultiScan((Part(one.scan, Permutation.identity(200), 0.5),)))
    attention = attention_layer(x, normal(2, HEADS, 200, 200).tril(), *attention_weights(normal))
    operator = SumOfMaps.side_by_side(x, [(1.0, attention), (2.0, multi)])
    assert operator.causal
    T = torch.stack([operator.contributions(target)[0] for target in range(200)], dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affine_map, "TILE_ELEMENTS", 1)
        assert distance(tiled(operator), T) < BOUND
        assert all(block.columns == slice(0, block.rows.stop) for block in operator.blocks())
        assert len(list(operator.blocks())) > 10


@pytest.mark.parametrize("rule", ["silu", "identity"])
def test_other_rules_change_the_part_that_has_an_activation(rule):
    operator, T, _, _ = side_by_side(13, True, rule=rule)
    _, exact, _, _ = side_by_side(13, True)
    assert distance(T, exact) > 0.05
    assert distance(tiled(operator, rule), T) < BOUND
    assert distance(operator.contributions(5, rule)[0], T[:, 5]) < BOUND
    assert distance(operator.explained(rule), T.sum(dim=2) + operator.bias(rule)) < BOUND
    q = drawing(1)(2, 13, E)
    assert distance(operator.pull(q, rule), torch.einsum("bie,bije->bj", q, T)) < BOUND
    assert operator.residual(rule) > 0.05
    assert operator.residual("secant") < BOUND


def mixed_kinds(length=12, batch=2, seed=0):
    """Return maps of every kind over tokens in a grid of 3 x 4, sums among them."""
    normal = drawing(seed)
    x = normal(batch, length, E)
    scan = scan_branch(x, normal)[0]
    attention, other = (attention_branch(x, False, normal)[0] for _ in range(2))
    grid = GridConvolution(normal(D, 3, 3), 3, 4)
    gate, W_o = normal(batch, length, D), normal(E, D)
    neighbours = GridConvolutionMixer(
        x, scan.scan, normal(D, E), normal(D), grid, normal(D), gate, W_o, None, centred=True
    )
    backwards = Permutation(torch.arange(length).flip(0))
    both_ways = SumOfMaps(x, (Part(scan, Permutation.identity(length)), Part(scan, backwards, 0.5)), normal(E))
    nested = SumOfMaps.side_by_side(x, [(2.0, attention), (-1.0, other), (0.5, both_ways)])
    return x, [scan, attention, neighbours, both_ways, nested]


@pytest.mark.parametrize("elements", [1, 1 << 10, 1 << 24])
def test_any_kinds_in_any_orders(elements, monkeypatch):
    """Parts of every kind, sums of sums too, in random orders: what a target is given is the sum of what parts give."""
    x, maps = mixed_kinds()
    draw = torch.Generator().manual_seed(3)
    parts = [
        Part(one, Permutation(torch.randperm(12, generator=draw)), 0.5 + number) for number, one in enumerate(maps)
    ]
    operator, beta = SumOfMaps(x, tuple(parts), drawing(2)(E)), drawing(2)(E)
    T, implicit = 0, 0
    for part in parts:
        steps = part.permutation.tokens.argsort()
        of_part = torch.stack([part.mixer.contributions(step)[0] for step in range(12)], dim=1)
        T = T + part.scale * of_part[:, steps][:, :, steps]
        implicit = implicit + part.scale * part.mixer.implicit_mean()[:, steps][:, :, steps]
        beta = beta + part.scale * part.mixer.bias()[:, steps]
    assert not operator.causal
    monkeypatch.setattr(affine_map, "TILE_ELEMENTS", elements)
    assert distance(tiled(operator), T) < BOUND
    assert distance(operator.output(), T.sum(dim=2) + beta) < BOUND
    assert distance(operator.bias(), beta) < BOUND
    for target in range(12):
        assert distance(operator.contributions(target)[0], T[:, target]) < BOUND
        assert distance(operator.implicit_row(target), implicit[:, target]) < BOUND
    q = drawing(4)(2, 12, E)
    assert distance(operator.pull(q), torch.einsum("bie,bije->bj", q, T)) < BOUND


def test_parts_without_common_channels_have_no_matrix_per_channel():
    operator, *_ = side_by_side(7, True)
    assert operator.W_o is None
    assert operator.inner_width == D + HEADS * WIDTH
    assert operator.taps == K
    for ask in (lambda: operator.scan, lambda: list(operator.implicit_tiles())):
        with pytest.raises(InputError, match=r"the 2 mixers of this layer share no channels.*choose one"):
            ask()
    with pytest.raises(InputError, match="target 7 is not a position"):
        operator.contributions(7)


def test_channels_are_shared_only_with_one_output_projection_and_as_many_maps():
    """A scan with a matrix per channel and an attention with one per head are no one scan, whatever W_o they have."""
    normal = drawing(0)
    x, ones = normal(1, 9, E), torch.ones(D, 1, dtype=torch.float64)
    scan, _ = scan_branch(x, normal)
    twin, _ = scan_branch(x, normal)
    attention = AffineMixer(
        x, SoftmaxAttention(normal(1, HEADS, 9, 9).softmax(-1), 0 * ones[:, 0]), normal(D, E), None,
        CausalConvolution(ones), None, ones[:, 0].expand(1, 9, D), scan.W_o, None, silu=False,
    )  # fmt: skip
    assert SumOfMaps.side_by_side(x, [(1.0, scan), (1.0, twin)]).W_o is None
    assert SumOfMaps.side_by_side(x, [(1.0, scan), (1.0, attention)]).W_o is None
    assert SumOfMaps.side_by_side(x, [(1.0, scan), (2.0, scan)]).W_o is scan.W_o
