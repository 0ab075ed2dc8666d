"""Softmax attention as an operator: against dense products and the loops of `naive`; and `pull`, of every operator."""

import pytest
import torch

from mambascope.errors import InputError
from mambascope.operators import naive
from mambascope.operators.affine import AffineMixer
from mambascope.operators.attention_layer import attention_layer
from mambascope.operators.blocks import Workspace, split
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.operators.token_mixer import TokenMixer
from random_scans import make_scan

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

HEADS, WIDTH = 3, 2
LENGTHS = (1, 2, 17, 70)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_attention(length, causal, batch=2):
    """Return attention with probabilities from random scores, H = 3 heads of P = 2 channels."""
    scores = normal(batch, HEADS, length, length)
    if causal:
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
    return SoftmaxAttention(scores.softmax(dim=-1), torch.zeros(HEADS * WIDTH, dtype=torch.float64))


def make_layer(length, causal, width=5):
    """Return a whole attention layer as an affine map, with biases in both projections."""
    D = HEADS * WIDTH
    return attention_layer(
        x=normal(2, length, width, seed=1),
        p=make_attention(length, causal).p,
        W_V=normal(D, width, seed=2),
        b_V=normal(D, seed=3),
        W_O=normal(width, D, seed=4),
        b_O=normal(width, seed=5),
    )


@pytest.fixture(params=[True, False], ids=["causal", "full"])
def causal(request):
    return request.param


@pytest.fixture(params=LENGTHS, ids=lambda n: f"L{n}")
def length(request):
    return request.param


def test_products_are_those_of_the_heads(length, causal):
    attention = make_attention(length, causal)
    assert isinstance(attention, TokenMixer)
    assert attention.causal is (causal or length == 1)
    assert (attention.maps, attention.state_size) == (HEADS, length)
    v = normal(2, length, HEADS * WIDTH, seed=1)
    by_head = v.unflatten(-1, (HEADS, WIDTH))
    applied = torch.einsum("bhij,bjhp->bihp", attention.p, by_head).flatten(2)
    transposed = torch.einsum("bihp,bhij->bjhp", by_head, attention.p).flatten(2)
    torch.testing.assert_close(attention.apply(v), applied, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(attention.apply_transposed(v), transposed, rtol=1e-12, atol=1e-13)


def test_tiles_are_pieces_of_p_that_can_be_written_to(length, causal):
    attention = make_attention(length, causal)
    rows, columns = slice(length // 3, length), slice(length // 4, length // 2 + 1)
    assert torch.equal(attention.tile(rows, columns, [2, 0]), attention.p[:, [2, 0], rows, columns])
    tile = attention.tile(rows, columns)
    assert torch.equal(tile, attention.p[:, :, rows, columns])
    before = attention.p.clone()
    tile += 1
    assert torch.equal(attention.p, before)


@pytest.mark.parametrize("taps", [None, 1, 3])
@pytest.mark.parametrize("gated", [True, False])
def test_blocks_equal_the_dense_product(length, causal, gated, taps):
    """Every pair that is not zero is in one block, with a gate and with a convolution too."""
    attention, K, D = make_attention(length, causal), taps or 1, HEADS * WIDTH
    gate, weights = normal(2, length, D, seed=2), normal(2, K, D, length, seed=3)
    alpha = attention.p.repeat_interleave(WIDTH, dim=1)
    assert torch.equal(attention.channels(attention.p), alpha)
    expected = torch.zeros_like(alpha)
    for shift in range(min(K, length)):
        part = alpha[..., shift:] * (weights[:, shift, :, None, : length - shift] if taps else 1)
        expected[..., : length - shift] += part
    if gated:
        expected = expected * gate.transpose(1, 2)[..., None]
    mixed, mean = torch.zeros_like(expected), torch.zeros_like(expected[:, 0])
    seen = torch.zeros(length, length)
    for coarse in attention.blocks(K):
        for block in split(coarse, 9, 11):
            part = weights[..., block.columns] if taps else None
            rows = gate[:, block.rows] if gated else None
            mixed[:, :, block.rows, block.columns] = attention.mix(block, part, rows, Workspace())
            mean[:, block.rows, block.columns] = attention.mean(block, part, rows, Workspace())
            seen[block.rows, block.columns] += 1
    inside = torch.ones_like(seen).tril() if causal else torch.ones_like(seen)
    assert (seen[inside.bool()] == 1).all()
    if taps in (None, 1):
        assert torch.allclose(mixed, expected, rtol=1e-12, atol=1e-13)
        assert torch.allclose(mean, expected.mean(dim=1), rtol=1e-12, atol=1e-13)
    else:  # a causal mixer is asked for no pair of the future, so what a convolution would leave there is not made
        assert torch.allclose(mixed * inside, expected * inside, rtol=1e-12, atol=1e-13)
        assert torch.allclose(mean * inside, expected.mean(dim=1) * inside, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["mamba1", "mamba2", "attention"])
def test_pull_is_the_product_with_the_mean_map(kind, length, causal):
    scan = make_attention(length, causal) if kind == "attention" else make_scan(kind, length)
    v = normal(2, length, seed=6)
    mean = scan.channels(scan.tile(slice(0, length), slice(0, length))).mean(dim=1)
    torch.testing.assert_close(scan.pull(v), torch.einsum("bi,bij->bj", v, mean), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", ["secant", "silu", "identity"])
@pytest.mark.parametrize("length", [1, 2, 17], ids=lambda n: f"L{n}")
def test_a_layer_is_its_naive_form_under_every_rule(length, causal, rule):
    layer = make_layer(length, causal)
    tiled = torch.zeros(2, length, length, 5, dtype=torch.float64)
    for block, tile in layer.contribution_tiles(rule):
        tiled[:, block.rows, block.columns] = tile.permute(0, 2, 3, 1)
    for block in layer.blocks():
        general = AffineMixer.contribution_tile(layer, block, rule, Workspace()).permute(0, 2, 3, 1)
        torch.testing.assert_close(tiled[:, block.rows, block.columns], general, rtol=1e-12, atol=1e-12)
    values = layer.x @ layer.W_x.t() + layer.b_x
    output = layer.scan.apply(values) @ layer.W_o.t() + layer.b_o
    torch.testing.assert_close(layer.output(), output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tiled.sum(dim=2) + layer.bias(rule), output, rtol=1e-12, atol=1e-12)
    assert layer.residual(rule) < 1e-14
    for row in range(2):
        T = naive.attention_vectors(layer.scan.p[row], layer.x[row], layer.W_x, layer.W_o)
        torch.testing.assert_close(tiled[row], T, rtol=1e-12, atol=1e-12)
    for target in {0, length // 2, length - 1}:
        vectors, bias = layer.contributions(target, rule)
        torch.testing.assert_close(vectors, tiled[:, target], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(vectors.sum(dim=1) + bias, output[:, target], rtol=1e-12, atol=1e-12)


def test_implicit_attention_of_a_layer_is_p_itself(length, causal):
    """No gate, no convolution and no skip: what acts on W_V x is the probabilities."""
    layer = make_layer(length, causal)
    mean = layer.scan.p.mean(dim=1)
    torch.testing.assert_close(layer.implicit_mean(), mean, rtol=1e-12, atol=1e-14)
    target = length // 2
    torch.testing.assert_close(layer.implicit_row(target), mean[:, target, layer.seen(target)], rtol=1e-12, atol=1e-14)
    for block, tile in layer.implicit_tiles():
        dense = layer.scan.channels(layer.scan.p)[:, :, block.rows, block.columns]
        torch.testing.assert_close(tile, dense, rtol=1e-12, atol=1e-14)


def test_what_a_target_sees(causal):
    layer = make_layer(7, causal)
    assert layer.seen(3) == (slice(0, 4) if causal else slice(0, 7))
    with pytest.raises(InputError, match="target 7 is not a position of this text, which has positions 0 to 6"):
        layer.seen(7)
