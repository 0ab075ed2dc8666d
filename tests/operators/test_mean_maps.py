"""The mean over channels of Mamba-1's matrices by large products, and near matrices, against single matrices."""

from dataclasses import replace

import pytest
import torch

from dense_reference import distance
from mambascope.operators import mean_by_halves, mean_of_rectangle, naive, near_matrices, selective_scan
from mambascope.operators.blocks import Block, Workspace
from mambascope.operators.mean_by_halves import Run
from random_scans import make_scan

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: A term of size one has exponents near zero, and is rounded once in each of some ten factors and once in the product's
#: sum; terms with large exponents, whose rounding is larger, are small by as much. The old form had the same errors.
FLOAT32 = 16 * torch.finfo(torch.float32).eps


def usual(scan):
    return scan


def strong(scan):
    """Decays that are negligible after one token in some channels, after a few in others."""
    return replace(scan, dt=scan.dt * torch.tensor([0.01, 1.0, 10.0, 100.0, 1000.0], dtype=scan.dt.dtype))


def without_decay(scan):
    """A channel that never forgets, beside tokens over which no time passes, such as padding."""
    dt = scan.dt.clone()
    dt[0, : scan.dt.shape[1] // 3] = 0
    dt[-1, scan.dt.shape[1] // 2 :] = 0
    return replace(scan, dt=dt, A=scan.A.index_fill(0, torch.tensor([3]), 0))


def forgetful(scan):
    """A channel whose rate is minus infinity, also over no time at all."""
    scan = without_decay(scan)
    return replace(scan, A=scan.A.index_fill(0, torch.tensor([1]), -torch.inf).index_fill(0, torch.tensor([2]), -900))


SCANS = (usual, strong, without_decay, forgetful)


@pytest.fixture
def small_pieces(monkeypatch):
    """Blocks, groups of channels and pieces of factors so small that every text has many of them."""
    monkeypatch.setattr(selective_scan, "MEAN_SIZE", 48)
    monkeypatch.setattr(selective_scan, "FAR_SIZE", 20)
    monkeypatch.setattr(mean_by_halves, "GROUP_ELEMENTS", 2 * 64 * 3)
    monkeypatch.setattr(mean_by_halves, "BATCHED", 4)
    monkeypatch.setattr(mean_of_rectangle, "FACTOR_ELEMENTS", 200)


def lowered(scan, dtype):
    return replace(scan, **{name: getattr(scan, name).to(dtype) for name in ("dt", "A", "B", "C", "skip")})


def expected(scan, taps, gate):
    """Return the mean over channels from the whole matrices, shifted and weighted tap by tap."""
    length = scan.dt.shape[1]
    alpha = scan.tile(slice(0, length), slice(0, length))
    mixed = torch.zeros_like(alpha)
    for shift in range(min(1 if taps is None else taps.shape[1], length)):
        weights = 1 if taps is None else taps[:, shift, :, None, : length - shift]
        mixed[..., : length - shift] += alpha[..., shift:] * weights
    return (mixed if gate is None else mixed * gate.transpose(1, 2)[..., None]).mean(dim=1)


def found(scan, taps, gate, blocks):
    """Return the mean over channels block by block."""
    length, workspace = scan.dt.shape[1], Workspace()
    out = scan.dt.new_zeros(len(scan.dt), length, length)
    for block in blocks:
        own = None if taps is None else taps[..., block.columns]
        out[:, block.rows, block.columns] = scan.mean(
            block, own, None if gate is None else gate[:, block.rows], workspace
        )
    return out


def factors(scan, taps, seed=5):
    """Return random taps and gates."""
    generator = torch.Generator().manual_seed(seed)
    batch, length, channels = scan.dt.shape
    weights = torch.randn(batch, taps or 1, channels, length, dtype=torch.float64, generator=generator)
    gate = torch.randn(batch, length, channels, dtype=torch.float64, generator=generator)
    return (weights if taps else None), gate


@pytest.mark.parametrize("length", [1, 7, 40], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("change", SCANS)
def test_the_mean_is_that_of_the_loops(change, length):
    scan = change(make_scan("mamba1", length))
    want = torch.stack([naive.selective_scan_matrix(scan.dt[b], scan.rates, scan.B[b], scan.C[b]) for b in range(2)])
    assert distance(found(scan, None, None, scan.mean_blocks()), want.mean(dim=1)) < 1e-13


@pytest.mark.parametrize("taps", [None, 1, 2, 4, 9])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("length", [1, 7, 63, 500], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("change", SCANS)
def test_the_mean_is_that_of_the_matrices(change, length, gated, taps):
    scan = change(make_scan("mamba1", length))
    weights, gate = factors(scan, taps)
    gate = gate if gated else None
    want = expected(scan, weights, gate)
    mean = found(scan, weights, gate, scan.mean_blocks(taps or 1))
    assert distance(mean, want) < 1e-12
    assert not mean.triu(1).any()
    low = found(
        lowered(scan, torch.float32),
        None if weights is None else weights.float(),
        None if gate is None else gate.float(),
        scan.mean_blocks(taps or 1),
    )
    assert distance(low.double(), want) < FLOAT32


@pytest.mark.parametrize("taps", [None, 1, 4, 9])
@pytest.mark.parametrize("length", [33, 48, 97, 200], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("change", SCANS)
def test_the_mean_is_the_same_in_small_pieces(change, length, taps, small_pieces):
    scan = change(make_scan("mamba1", length))
    weights, gate = factors(scan, taps)
    blocks = list(scan.mean_blocks(taps or 1))
    assert length <= 48 or any(block.reference is not None for block in blocks)
    assert distance(found(scan, weights, gate, blocks), expected(scan, weights, gate)) < 1e-12


@pytest.mark.parametrize("taps", [None, 3])
def test_the_mean_of_any_targets_of_a_block(taps):
    """Of some rows of a block, scattered ones, and sources that begin after some targets or end before others."""
    scan = make_scan("mamba1", 50)
    weights, gate = factors(scan, taps)
    want = expected(scan, weights, gate)
    for rows, columns, reference in (
        (slice(10, 30), slice(10, 30), None),
        (slice(20, 25), slice(7, 25), None),
        (slice(5, 30), slice(12, 40), None),
        (slice(20, 40), slice(10, 18), None),
        (slice(3, 6), slice(10, 18), None),
        (torch.tensor([31, 12, 40, 3]), slice(10, 45), None),
        (torch.tensor([31, 47, 30]), slice(4, 28), 30),
    ):
        own = None if weights is None else weights[..., columns]
        mean = scan.mean(Block(rows, columns, reference), own, gate[:, rows], Workspace())
        torch.testing.assert_close(mean, want[:, rows, columns], rtol=1e-11, atol=1e-13)


def test_only_states_that_are_left_are_multiplied(monkeypatch):
    """Far from the diagonal, factors that are zero for all tokens of a block are not made; the others lose nothing."""
    scan = strong(make_scan("mamba1", 300))
    far, kept = Block(slice(200, 300), slice(0, 100), 200), []
    remaining = mean_of_rectangle._left

    def noted(*arguments):
        kept.append(remaining(*arguments))
        return kept[-1]

    monkeypatch.setattr(mean_of_rectangle, "_left", noted)
    mean = scan.mean(far, None, None, Workspace())
    want = scan.mix(far, None, None, Workspace()).mean(dim=1)
    assert torch.allclose(mean, want, rtol=1e-12, atol=0)
    assert mean.abs().max() > 0
    assert all(0 < len(channels) < scan.A.numel() for channels, _ in kept)


def test_what_is_not_a_number_shows():
    scan = make_scan("mamba1", 40, batch=1)
    scan.dt[0, 5, 2] = torch.nan
    workspace = Workspace()
    for block in (Block(slice(0, 40), slice(0, 40)), Block(slice(30, 40), slice(0, 20), 25)):
        assert scan.mean(block, None, None, workspace)[0, -1, 0].isnan()


def test_little_is_left_of_all_states_but_it_is_kept():
    scan = make_scan("mamba1", 300)
    scan = replace(scan, dt=torch.full_like(scan.dt, 2.0), A=-torch.ones_like(scan.A))
    far = Block(slice(200, 300), slice(0, 100), 200)
    mean = scan.mean(far, None, None, Workspace())
    assert 0 < mean[:, 0, -1].abs().max() < 1e-80
    assert torch.allclose(mean, scan.mix(far, None, None, Workspace()).mean(dim=1), rtol=1e-12, atol=0)


def test_factors_hold_no_denormal_numbers(monkeypatch):
    """A processor multiplies them at a tenth of the speed.

    Before the last token, and after the first, every block that it is merged with leaves e^-30.
    """
    powers = 2 ** torch.arange(8)
    scan = lowered(make_scan("mamba1", 256, batch=1), torch.float32)
    dt = torch.full_like(scan.dt, 1e-3)
    dt[:, powers] = dt[:, 255 - powers] = 30
    scan, tiny, smallest = replace(scan, dt=dt, A=-torch.ones_like(scan.A)), torch.finfo(torch.float32).tiny, []
    merge = mean_by_halves._Group.merge

    def checked(group, level):
        merge(group, level)
        for values in (group.read, group.written, *group.decays.values()):
            sizes = values.abs()[values != 0]
            assert not (sizes < tiny).any(), f"blocks of {level} tokens"
            smallest.extend(sizes.sort().values[:1].tolist())

    monkeypatch.setattr(mean_by_halves._Group, "merge", checked)
    mean = found(scan, None, None, scan.mean_blocks())
    assert min(smallest) < 1e-12, "decays this long must come near the cut for this test to mean anything"
    assert not ((mean != 0) & (mean.abs() < tiny)).any()


def test_what_is_negligible_is_so_beside_the_numbers_of_the_same_scan():
    """Were it counted against one, nothing would be left of vectors as small as these."""
    scan = make_scan("mamba1", 200, batch=1, dtype=torch.float32)
    small = replace(scan, B=scan.B * 2.0**60, C=scan.C * 2.0**-60)
    means = [found(one, None, None, one.mean_blocks()) for one in (small, scan)]
    assert (means[0] - means[1]).abs().max() <= 1e-6 * means[1].abs().max()  # powers of two change no digits


@pytest.mark.parametrize("first", [-1, 0, 3])
@pytest.mark.parametrize("change", SCANS)
def test_near_matrices_are_those_of_the_loops(change, first):
    scan = change(make_scan("mamba1", 9))
    want = torch.stack([naive.selective_scan_matrix(scan.dt[b], scan.rates, scan.B[b], scan.C[b]) for b in range(2)])
    got = near_matrices.near_matrices(scan.dt, scan.rates, scan.B, scan.C, first, Workspace())
    assert distance(got[:, :, max(0, -first) :], want[:, :, max(0, first) :]) < 1e-13
    assert not got[:, :, : max(0, -first)].any()


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
@pytest.mark.parametrize("taps", [1, 4, 9])
@pytest.mark.parametrize("length", [1, 63, 300], ids=lambda n: f"L{n}")
def test_blocks_for_means_hold_every_pair_once_and_keep_their_promise(kind, length, taps, monkeypatch):
    monkeypatch.setattr(selective_scan, "MEAN_SIZE", 64)
    monkeypatch.setattr(selective_scan, "FAR_SIZE", 32)
    count = torch.zeros(length, length, dtype=torch.long)
    for block in make_scan(kind, length, batch=1).mean_blocks(taps):
        count[block.rows, block.columns] += 1
        if block.reference is not None:
            assert block.columns.stop - 1 + taps - 1 <= block.reference <= block.rows.start
    assert (count.tril() == torch.ones_like(count).tril()).all()
    assert count.max() == 1


def test_a_run_is_padded_by_tokens_that_do_nothing():
    scan = make_scan("mamba1", 37, batch=1)
    run = Run.of(scan.dt[0], scan.rates, scan.B[0], scan.C[0], None, None)
    assert (len(run.dt), run.length, run.reach) == (64, 37, 0)
    assert not any(part[37:].any() for part in (run.dt, run.B, run.C, run.written))
