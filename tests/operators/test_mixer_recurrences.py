"""Long convolutions, decays per channel, generalised delta rule, trapezoidal scan: against their recurrences."""

import math
import time

import pytest
import torch

from dense_reference import distance
from mambascope.operators import naive_recurrences
from mambascope.operators.blocks import Workspace, split
from mambascope.operators.channel_decay import ChannelDecay
from mambascope.operators.decayed_attention import DecayedAttention
from mambascope.operators.gated_delta import GatedDeltaRule
from mambascope.operators.generalised_delta import GeneralisedDeltaRule
from mambascope.operators.long_convolution import LongConvolution
from mambascope.operators.token_mixer import TokenMixer
from mambascope.operators.trapezoidal_scan import TrapezoidalScan

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64 sums of some thousand terms of size one, in another order.
BOUND = 1e-11
LENGTHS = (1, 2, 63, 64, 65, 200)
HEADS, N, WIDE = 3, 5, 6  # two channels for each matrix


class Draws:
    """Normal numbers from one seed, and logarithms of decays, some of them extreme; a decay of 0 has the log -∞."""

    def __init__(self, seed, texts):
        self.generator, self.texts = torch.Generator().manual_seed(seed), texts

    def normal(self, *shape):
        return torch.randn(self.texts, *shape, dtype=torch.float64, generator=self.generator)

    def fall(self, *shape, extreme):
        fall = torch.nn.functional.logsigmoid(2 * self.normal(*shape) + 1)
        chosen = self.normal(*shape) > 0.5
        return fall if extreme is None else fall.masked_fill(chosen, math.log(extreme) if extreme else -math.inf)


def skip():
    return torch.zeros(WIDE, dtype=torch.float64)


def long_convolution(length, draws, extreme):
    decay = (extreme or 0.9) ** torch.arange(length, dtype=torch.float64)
    kernel = decay * draws.normal(HEADS, length)[0]
    write, read = draws.normal(length, HEADS), draws.normal(length, HEADS)
    scan = LongConvolution(kernel, write, read, skip())
    return scan, [naive_recurrences.long_convolution_matrix(kernel, *text) for text in zip(write, read, strict=True)]


def fixed_convolution(length, draws, extreme):
    kernel = draws.normal(HEADS, length)[0]
    scan = LongConvolution.fixed(kernel, draws.texts, skip())
    ones = torch.ones(length, HEADS)
    return scan, [naive_recurrences.long_convolution_matrix(kernel, ones, ones)] * draws.texts


def channel_decay(length, draws, extreme):
    fall = draws.fall(length, HEADS, N, extreme=extreme)
    parts = fall, draws.normal(length, HEADS, N), draws.normal(length, HEADS, N)
    texts = zip(*parts, strict=True)
    return ChannelDecay(*parts, skip()), [naive_recurrences.channel_decay_matrix(*text) for text in texts]


def channel_decay_read_before(length, draws, extreme):
    fall = draws.fall(length, HEADS, N, extreme=extreme)
    parts = fall, draws.normal(length, HEADS, N), draws.normal(length, HEADS, N)
    own = draws.normal(length, HEADS)
    texts = zip(*parts, own, strict=True)
    return ChannelDecay(*parts, skip(), own), [naive_recurrences.channel_decay_matrix(*text) for text in texts]


def generalised_delta(length, draws, extreme, n=N):
    key = torch.nn.functional.normalize(draws.normal(length, HEADS, N), dim=-1)
    erase = draws.normal(length, HEADS, N).sigmoid() * key
    parts = draws.normal(length, HEADS, N), -key, erase, draws.normal(length, HEADS, N)
    parts = *parts, draws.fall(length, HEADS, n, extreme=extreme)
    texts = zip(*parts, strict=True)
    return GeneralisedDeltaRule(*parts, skip()), [naive_recurrences.generalised_delta_matrix(*text) for text in texts]


def generalised_delta_by_head(length, draws, extreme):
    return generalised_delta(length, draws, extreme, n=1)


def trapezoidal(length, draws, extreme):
    fall = draws.fall(length, HEADS, extreme=extreme)
    parts = fall, draws.normal(length, HEADS), draws.normal(length, HEADS)
    parts = *parts, draws.normal(length, HEADS, N), draws.normal(length, HEADS, N)
    texts = zip(*parts, strict=True)
    return TrapezoidalScan(*parts, skip()), [naive_recurrences.trapezoidal_matrix(*text) for text in texts]


KINDS = [
    long_convolution,
    fixed_convolution,
    channel_decay,
    channel_decay_read_before,
    generalised_delta,
    generalised_delta_by_head,
    trapezoidal,
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def make(request):
    """A mixer of some texts, and its matrices from the loops, (b, M, L, L)."""

    def made(length, texts=2, extreme=None, seed=0):
        scan, alpha = request.param(length, Draws(seed, texts), extreme)
        return scan, torch.stack(alpha)

    return made


def random(*shape, seed=5):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check(scan, alpha, bound=BOUND):
    """Products, the whole tile, its rows and the upper triangle."""
    (texts, _, length, _), per_channel, dtype = alpha.shape, scan.channels(alpha), scan.skip.dtype
    v = random(texts, length, len(scan.skip))
    given, places = v.to(dtype), slice(0, length)
    for name, found, wanted in (
        ("apply", scan.apply(given), torch.einsum("bdij,bjd->bid", per_channel, v)),
        ("apply_transposed", scan.apply_transposed(given), torch.einsum("bid,bdij->bjd", v, per_channel)),
        ("pull", scan.pull(given[..., 0]), torch.einsum("bi,bij->bj", v[..., 0], alpha.mean(dim=1))),
        ("tile", scan.tile(places, places), alpha),
        ("last row", scan.tile(slice(length - 1, length), places), alpha[:, :, -1:]),
    ):
        assert found.dtype == dtype
        assert distance(found.double(), wanted) < bound, name
    assert not scan.tile(places, places).triu(1).any()


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
def test_products_and_tiles_are_those_of_the_recurrence(make, length):
    scan, alpha = make(length)
    assert isinstance(scan, TokenMixer)
    assert (scan.maps, scan.length, scan.causal) == (HEADS, length, True)
    check(scan, alpha)


@pytest.mark.parametrize("extreme", [1e-6, 0.999999, 1.0, 1e-200, 0.0])
def test_extreme_decays_neither_overflow_nor_lose_anything(make, extreme):
    check(*make(130, extreme=extreme))


@pytest.mark.parametrize("extreme", [None, 1e-60, 0.0])
def test_float32_loses_its_own_rounding_only(make, extreme):
    """Also where strong decays would make sums of their logarithms large: 64 of e^-138 have a spacing of 5e-4."""
    scan, alpha = make(130, extreme=extreme)
    cached = ("chunks", "at_once", "afterwards", "_kept")
    given = {name: part if part is None else part.float() for name, part in vars(scan).items() if name not in cached}
    check(type(scan)(**given), alpha, bound=2e-5)


def test_any_rectangle_any_maps_and_scattered_positions(make):
    scan, alpha = make(200, texts=1)
    for rows, columns in (
        (slice(130, 199), slice(3, 60)),
        (slice(60, 70), slice(62, 131)),
        (slice(199, 200), slice(0, 200)),
        (slice(0, 5), slice(100, 120)),
        (slice(99, 101), slice(100, 120)),
        (slice(4, 4), slice(0, 9)),
        (torch.tensor([150, 3, 64, 150]), slice(0, 151)),
        (torch.tensor([63, 199]), torch.tensor([190, 0, 64, 63])),
        (slice(60, 140), torch.tensor([128, 5])),
        (slice(190, 200), slice(199, 200)),
    ):
        want = alpha[:, :, rows][..., columns]
        assert torch.allclose(scan.tile(rows, columns), want, rtol=1e-10, atol=1e-12), (rows, columns)
        assert torch.allclose(scan.tile(rows, columns, [2, 0]), want[:, [2, 0]], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("taps", [None, 1, 4])
@pytest.mark.parametrize("length", [1, 65, 200], ids=lambda n: f"L{n}")
def test_blocks_hold_every_pair_once_and_mix_as_the_dense_matrix(make, length, taps):
    scan, alpha = make(length, texts=1)
    K, per_channel = taps or 1, scan.channels(alpha)
    gate, weights = random(1, length, WIDE, seed=6), random(1, K, WIDE, length, seed=7)
    expected = torch.zeros_like(per_channel)
    for shift in range(min(K, length)):
        part = per_channel[..., shift:] * (weights[:, shift, :, None, : length - shift] if taps else 1)
        expected[..., : length - shift] += part
    expected = expected * gate.transpose(1, 2)[..., None]
    seen, workspace = torch.zeros(length, length, dtype=torch.long), Workspace()
    for coarse in scan.blocks(K):
        for block in split(coarse, 9, 31):
            part = weights[..., block.columns] if taps else None
            want = expected[:, :, block.rows, block.columns]
            got = scan.mix(block, part, gate[:, block.rows], workspace)
            assert torch.allclose(got, want, rtol=1e-9, atol=1e-11), f"mix of {block}"
            mean = scan.mean(block, part, gate[:, block.rows], workspace)
            assert torch.allclose(mean, want.mean(dim=1), rtol=1e-9, atol=1e-11), f"mean of {block}"
            seen[block.rows, block.columns] += 1
    assert (seen.tril() == torch.ones_like(seen).tril()).all()


@pytest.mark.parametrize("length", [3, 70], ids=lambda n: f"L{n}")
def test_gradients_are_those_of_the_dense_matrix(make, length):
    """By directional differences in every argument: products are used inside models that learn."""
    scan, _ = make(length, texts=1)
    given = {
        name: part for name, part in vars(scan).items() if name in type(scan).__dataclass_fields__ and part is not None
    }
    leaves = {name: part.clone().requires_grad_() for name, part in given.items() if name != "skip"}
    v, flow = random(1, length, WIDE), random(1, length, WIDE, seed=6)
    every = slice(0, length)

    def by_product(parts):
        return (type(scan)(**parts, skip=scan.skip).apply(v) * flow).sum()

    def by_tile(parts):
        fresh = type(scan)(**parts, skip=scan.skip)
        return torch.einsum("bid,bdij,bjd->", flow, fresh.channels(fresh.tile(every, every)), v)

    ours = torch.autograd.grad(by_product(leaves), list(leaves.values()), allow_unused=True)
    theirs = torch.autograd.grad(by_tile(leaves), list(leaves.values()), allow_unused=True)
    step, fixed = 1e-6, {name: part for name, part in given.items() if name != "skip"}
    for name, our, their in zip(leaves, ours, theirs, strict=True):
        assert distance(our, their) < BOUND, name
        toward = random(*leaves[name].shape, seed=8)
        ends = [by_product({**fixed, name: given[name] + sign * step * toward}) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        # Central differences of a step of 1e-6: the error of rounding is about 1e-10 of the value.
        assert abs(slope - (our * toward).sum()) < 1e-6 * max(1, abs(slope), abs(ends[0])), name


def test_one_decay_for_all_channels_is_decayed_attention():
    draws = Draws(3, 2)
    fall, write, read = draws.fall(130, HEADS, extreme=None), draws.normal(130, HEADS, N), draws.normal(130, HEADS, N)
    by_head, v = DecayedAttention(fall, write, read, skip()), draws.normal(130, WIDE)
    by_channel = ChannelDecay(fall[..., None].expand(-1, -1, -1, N), write, read, skip())
    assert distance(by_channel.apply(v), by_head.apply(v)) < BOUND


def test_the_delta_rule_is_a_case_of_the_generalised_one():
    draws = Draws(4, 2)
    key = torch.nn.functional.normalize(draws.normal(130, HEADS, N), dim=-1)
    q, beta, fall = (
        draws.normal(130, HEADS, N),
        draws.normal(130, HEADS).sigmoid(),
        draws.fall(130, HEADS, N, extreme=None),
    )
    rule, v = GatedDeltaRule(q, key, beta, fall, skip()), draws.normal(130, WIDE)
    written = beta[..., None] * key
    general = GeneralisedDeltaRule(q, -fall.exp() * key, written, written, fall, skip())
    assert distance(general.apply(v), rule.apply(v)) < BOUND


def test_the_trapezoidal_rule_without_its_second_term_is_eulers():
    draws = Draws(5, 2)
    fall, now = draws.fall(90, HEADS, extreme=None), draws.normal(90, HEADS)
    B, C, v = draws.normal(90, HEADS, N), draws.normal(90, HEADS, N), draws.normal(90, WIDE)
    scan = TrapezoidalScan(fall, now, torch.zeros_like(now), B, C, skip())
    euler = DecayedAttention(fall, B * now[..., None], C, skip())
    assert distance(scan.apply(v), euler.apply(v)) < BOUND


def test_what_the_first_token_would_write_for_a_token_before_it_is_not_used():
    scan, alpha = trapezoidal(20, Draws(0, 1), None)
    changed = scan.before.clone()
    changed[:, 0] = 1e9
    other = TrapezoidalScan(scan.fall, scan.now, changed, scan.B, scan.C, scan.skip)
    check(other, torch.stack(alpha))


def test_products_grow_linearly_with_the_text(make):
    """Eight times the text: a quadratic product would take 64 times as long."""
    seconds = []
    for length in (512, 4096):
        scan, best = _long(make, length), float("inf")
        for _ in range(3):
            fresh = type(scan)(**{name: vars(scan)[name] for name in type(scan).__dataclass_fields__})
            started = time.perf_counter()
            fresh.apply_transposed(torch.ones(1, length, WIDE, dtype=torch.float64))
            best = min(best, time.perf_counter() - started)
        seconds.append(best)
    assert seconds[1] < 24 * seconds[0]


def _long(make, length):
    """The mixer of a short text, repeated."""
    scan, _ = make(64, texts=1)
    times = length // 64
    parts = {name: vars(scan)[name] for name in type(scan).__dataclass_fields__}
    for name, part in parts.items():
        if part is not None and name not in ("skip", "kernel"):
            parts[name] = part.repeat(1, times, *[1] * (part.ndim - 2))
    if "kernel" in parts:
        parts["kernel"] = parts["kernel"].repeat(1, times)
    return type(scan)(**parts)
