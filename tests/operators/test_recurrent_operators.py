"""Operators of short convolutions, gated recurrences and decaying attention, against loops over pairs in float64."""

import functools

import pytest
import torch

from dense_reference import distance
from mambascope.operators.affine import AffineMixer
from mambascope.operators.blocks import Workspace
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.decayed_attention import DecayedAttention
from mambascope.operators.gated_output import GatedOutput
from mambascope.operators.gated_recurrence import GatedRecurrence, WeightedAverage
from mambascope.operators.short_convolution import ShortConvolution
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.operators.sum_of_maps import SumOfMaps
from mambascope.operators.token_mixer import TokenMixer

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64 sums of a few hundred terms in another order.
BOUND = 1e-11
LENGTHS = (1, 2, 17, 150)
MAPS, WIDE = 3, 6  # two channels for each matrix


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def short_convolution(length):
    w, write, read = normal(MAPS, 4), normal(2, length, MAPS, seed=1), normal(2, length, MAPS, seed=2)
    alpha = torch.zeros(2, MAPS, length, length, dtype=torch.float64)
    for i in range(length):
        for j in range(max(0, i - 3), i + 1):
            alpha[:, :, i, j] = read[:, i] * w[:, i - j] * write[:, j]
    return ShortConvolution(w, write, read, skip=torch.zeros(MAPS, dtype=torch.float64)), alpha


def decays(length, forgets):
    """Decays of which one in three is exactly zero, if asked."""
    a = normal(2, length, MAPS).sigmoid()
    return a.masked_fill(normal(2, length, MAPS, seed=9) > 0.4, 0) if forgets else a


def gated_recurrence(length, forgets=False):
    a, write = decays(length, forgets), normal(2, length, MAPS, seed=1)
    alpha = torch.zeros(2, MAPS, length, length, dtype=torch.float64)
    for j in range(length):
        kept = write[:, j]
        for i in range(j, length):
            kept = kept * a[:, i] if i > j else kept
            alpha[:, :, i, j] = kept
    return GatedRecurrence(a.log(), write, skip=torch.zeros(WIDE, dtype=torch.float64)), alpha


def weighted_average(length, forgets=False):
    """RWKV-4's weights, whose first channel keeps nothing of a token but until the next, if asked."""
    key, decay, bonus = 3 * normal(2, length, MAPS), normal(MAPS, seed=1).exp(), normal(MAPS, seed=2)
    if forgets:
        decay[0] = torch.inf
    alpha = torch.zeros(2, MAPS, length, length, dtype=torch.float64)
    for i in range(length):
        for j in range(i):
            alpha[:, :, i, j] = key[:, j].exp() * (-decay).exp() ** (i - 1 - j)
        alpha[:, :, i, i] = (key[:, i] + bonus).exp()
    alpha /= alpha.sum(dim=-1, keepdim=True)
    return WeightedAverage.of_keys(key, decay, bonus, skip=torch.zeros(WIDE, dtype=torch.float64)), alpha


def decayed_attention(length, forgets=False):
    a, write, read = (
        decays(length, forgets),
        normal(2, length, MAPS, 5, seed=1),
        normal(2, length, MAPS, 5, seed=2),
    )
    alpha = torch.einsum("bihn,bjhn->bhij", read, write).tril()
    for j in range(length):
        kept = torch.ones(2, MAPS, dtype=torch.float64)
        for i in range(j + 1, length):
            kept = kept * a[:, i]
            alpha[:, :, i, j] *= kept
    return DecayedAttention(a.log(), write, read, skip=torch.zeros(WIDE, dtype=torch.float64)), alpha


def forgetting(make):
    """The same mixer where decays of exactly zero forget all that came before."""
    wrapped = functools.partial(make, forgets=True)
    wrapped.__name__ = f"forgetting {make.__name__}"
    return wrapped


DECAYING = [gated_recurrence, weighted_average, decayed_attention]


@pytest.fixture(params=[short_convolution, *DECAYING, *map(forgetting, DECAYING)], ids=lambda f: f.__name__)
def make(request):
    return request.param


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
def test_products_and_tiles_are_those_of_the_loop(make, length):
    scan, alpha = make(length)
    assert isinstance(scan, TokenMixer)
    assert (scan.maps, scan.length, scan.causal) == (MAPS, length, True)
    v, per_channel = normal(2, length, len(scan.skip), seed=5), scan.channels(alpha)
    assert distance(scan.apply(v), torch.einsum("bdij,bjd->bid", per_channel, v)) < BOUND
    assert distance(scan.apply_transposed(v), torch.einsum("bid,bdij->bjd", v, per_channel)) < BOUND
    assert distance(scan.pull(v[..., 0]), torch.einsum("bi,bij->bj", v[..., 0], alpha.mean(dim=1))) < BOUND
    whole, mean = torch.zeros_like(per_channel), torch.zeros_like(alpha[:, 0])
    for block in scan.blocks():
        whole[:, :, block.rows, block.columns] = scan.mix(block, None, None, Workspace())
        mean[:, block.rows, block.columns] = scan.mean(block, None, None, Workspace())
    assert distance(whole, per_channel) < BOUND
    assert distance(mean, alpha.mean(dim=1)) < BOUND
    rows = torch.tensor([length - 1, 0, length // 2])
    assert distance(scan.tile(rows, slice(0, length), [2, 0]), alpha[:, [2, 0]][:, :, rows]) < BOUND
    assert not scan.tile(slice(0, length), slice(0, length)).triu(1).any()


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
def test_single_precision_is_close(make, length):
    scan, alpha = make(length)
    low = type(scan)(**{name: value.float() for name, value in vars(scan).items() if name != "fallen"})
    v = normal(2, length, len(scan.skip), seed=5)
    for product, exact in (
        (low.apply(v.float()), scan.apply(v)),
        (low.tile(slice(0, length), slice(0, length)), alpha),
    ):
        assert product.dtype == torch.float32
        assert distance(product.double(), exact) < 1e-5


def test_no_key_of_an_average_overflows():
    """Weights from e^-900 to e^900, whose quotients are numbers all the same."""
    key = torch.tensor([0.0, 900.0, 0.0, -900.0, 880.0], dtype=torch.float64)[None, :, None]
    decay, bonus = torch.tensor([0.5]).double(), torch.tensor([0.1]).double()
    scan = WeightedAverage.of_keys(key, decay, bonus, skip=torch.zeros(1, dtype=torch.float64))
    alpha = scan.tile(slice(0, 5), slice(0, 5))[0, 0]
    assert distance(alpha.sum(dim=1), torch.ones(5, dtype=torch.float64)) < BOUND
    shares = torch.softmax(torch.tensor([900.0 - 2 * 0.5, 880.1]).double(), dim=0)
    assert distance(alpha[4, [1, 4]], shares) < BOUND
    assert (scan.fall <= 0).all()


def test_a_band_costs_time_and_memory_linear_in_the_text():
    """Only what is near the diagonal is in its blocks, also with a convolution beside it."""
    for taps in (1, 3):
        for length in (64, 5000):
            scan = short_convolution(4)[0]
            scan = ShortConvolution(
                scan.taps, *(torch.ones(1, length, MAPS).double().expand(1, -1, -1),) * 2, scan.skip
            )
            blocks = list(scan.blocks(taps))
            pairs = {(i, j) for i in (0, 63, length - 1) for j in range(max(0, i - 3 - taps + 1), i + 1)}
            held = [
                sum(
                    i in range(b.rows.start, b.rows.stop) and j in range(b.columns.start, b.columns.stop)
                    for b in blocks
                )
                for i, j in pairs
            ]
            assert set(held) == {1}
            assert sum(b.shape[0] * b.shape[1] for b in blocks) <= length * (64 + 3 + taps - 1)


def mixer(scan, length, kind=AffineMixer, centred=0, **options):
    """Return a mixer of two texts with everything switched on: biases, a convolution, a gate, an offset."""
    D = len(scan.skip)
    return kind(
        x=normal(2, length, 5, seed=11),
        scan=scan,
        W_x=normal(D, 5, seed=12),
        b_x=normal(D, seed=13),
        convolution=CausalConvolution(normal(D, 3, seed=14)),
        conv_bias=normal(D, seed=15),
        gate=normal(2, length, D, seed=16),
        W_o=normal(4, D, seed=17),
        b_o=normal(4, seed=18),
        centred=centred,
        offset=normal(2, length, D, seed=19),
        **options,
    )


def naive_vectors(one, alpha, centred, after):
    """T of a mixer, pair by pair, and its bias; the mean is subtracted group by group."""
    length = one.x.shape[1]
    u, w, b_x = one.x @ one.W_x.t(), one.conv, one.b_x
    constant = torch.stack(
        [sum(w[:, d] * b_x for d in range(3) if k - d >= 0) + one.conv_bias for k in range(length)]
    ).expand(2, -1, -1)
    a = (
        torch.stack([sum(w[:, d] * u[:, k - d] for d in range(3) if k - d >= 0) for k in range(length)], dim=1)
        + constant
    )

    def written(o, i):
        groups = o.unflatten(-1, (centred or 1, -1))
        o = (groups - groups.mean(dim=-1, keepdim=True)).flatten(-2) if centred else o
        return (o * one.gate[:, i]) @ one.W_o.t()

    T = torch.zeros(2, length, length, 4, dtype=torch.float64)
    for i in range(length):
        for j in range(length):
            reached = sum(
                alpha[:, :, i, j + d] * w[:, d] * torch.sigmoid(a[:, j + d]) for d in range(3) if j + d < length
            )
            T[:, i, j] = after[:, i] * written(reached * u[:, j], i)
    scanned = torch.einsum("bdij,bjd->bid", alpha, torch.sigmoid(a) * constant)
    beta = torch.stack([written(scanned[:, i], i) for i in range(length)], dim=1)
    return T, after * (beta + one.offset @ one.W_o.t() + one.b_o)


@pytest.mark.parametrize("centred", [0, 1, 3])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated output"])
def test_a_norm_of_groups_and_a_gate_after_the_projection_are_in_every_view(centred, gated):
    length = 9
    scan, alpha = gated_recurrence(length)
    after = normal(2, length, 4, seed=20) if gated else torch.ones(2, length, 4, dtype=torch.float64)
    options = {"after": after} if gated else {}
    one = mixer(scan, length, GatedOutput if gated else AffineMixer, centred, **options)
    T, beta = naive_vectors(one, scan.channels(alpha), centred, after)
    assert distance(one.output(), T.sum(dim=2) + beta) < BOUND
    assert distance(one.explained(), one.output()) < BOUND
    assert distance(one.bias(), beta) < BOUND
    for target in (0, 5, 8):
        vectors, bias = one.contributions(target)
        assert distance(vectors, T[:, target]) < BOUND
        assert distance(bias, beta[:, target]) < BOUND
    q = normal(2, length, 4, seed=21)
    assert distance(one.pull(q), torch.einsum("bif,bijf->bj", q, T)) < BOUND
    found = torch.zeros_like(T)
    for block, tile in one.contribution_tiles():
        found[:, block.rows, block.columns] = tile.permute(0, 2, 3, 1)
    assert distance(found, T) < BOUND


@pytest.mark.parametrize("other", ["full", "wider"])
def test_a_band_beside_another_matrix_keeps_the_other_matrix(other):
    """The sum's blocks are not the band's, which lack pairs of the other."""
    length = 150
    wide, p = short_convolution(length)[0], normal(2, MAPS, length, length).exp().tril()
    full = SoftmaxAttention(p / p.sum(dim=-1, keepdim=True), torch.zeros(MAPS, dtype=torch.float64))
    band = ShortConvolution(wide.taps[:, :2], wide.write, wide.read, wide.skip)
    parts = [mixer(scan, length) for scan in (band, full if other == "full" else wide)]
    both = SumOfMaps.side_by_side(parts[0].x, [(1.0, part) for part in parts])
    total = torch.zeros(2, length, length, dtype=torch.float64)
    for block, tile in both.contribution_tiles():
        total[:, block.rows, block.columns] += tile.sum(dim=1)
    rows = torch.stack([both.contributions(target)[0].sum(dim=-1) for target in range(length)], dim=1)
    assert distance(total, rows) < BOUND
