"""Hidden attention in all its forms against the loops of `naive`; products; blocks; recurrences."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_reference import distance
from mambascope.operators import naive
from mambascope.operators.blocks import Block, Workspace, causal_blocks, split
from mambascope.operators.recurrence import channel_recurrence, head_recurrence
from mambascope.operators.selective_scan import SelectiveScan
from random_scans import make_scan

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


def naive_maps(scan):
    """Return the operator's dense matrices, (b, maps, L, L), from the loops of the specification."""
    form = naive.selective_scan_matrix if isinstance(scan, SelectiveScan) else naive.state_space_dual_matrix
    return torch.stack([form(scan.dt[b], scan.A, scan.B[b], scan.C[b]) for b in range(len(scan.dt))])


KINDS = ("mamba1", "mamba2")


@pytest.mark.parametrize("length", [1, 2, 17, 40], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_equal_the_naive_matrix_wherever_they_are_cut(kind, length):
    scan = make_scan(kind, length)
    dense = naive_maps(scan)
    assert torch.allclose(scan.tile(slice(0, length), slice(0, length)), dense, rtol=1e-12, atol=1e-14)
    rows, columns = slice(length // 3, length), slice(length // 4, length // 2 + 1)
    chosen = [2, 0]
    assert torch.allclose(scan.tile(rows, columns, chosen), dense[:, chosen, rows, columns], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("length", [1, 3, 40], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_matrix(kind, length):
    scan = make_scan(kind, length)
    dense = naive_maps(scan)
    matrix = scan.channels(dense)
    v = torch.randn(2, length, len(scan.skip), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(scan.apply(v), torch.einsum("bdij,bjd->bid", matrix, v), rtol=1e-11, atol=1e-12)
    assert torch.allclose(scan.apply_transposed(v), torch.einsum("bid,bdij->bjd", v, matrix), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_of_minus_infinity_forgets_everything_before(kind, dtype):
    """As in the model, whose decays exp(Δ A) are zero then; beside it, rates that are no more than strong."""
    length = 70
    scan = make_scan(kind, length)
    scan = replace(scan, A=scan.A.index_fill(0, torch.tensor([1]), -torch.inf).index_fill(0, torch.tensor([2]), -900))
    dense, bound = naive_maps(scan), {torch.float64: 1e-11, torch.float32: 2e-5}[dtype]
    low = replace(scan, **{name: getattr(scan, name).to(dtype) for name in ("dt", "A", "B", "C", "skip")})
    matrix, whole, mean = scan.channels(dense), torch.zeros_like(scan.channels(dense)), torch.zeros_like(dense[:, 0])
    v = torch.randn(2, length, len(scan.skip), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for block in low.blocks():
        whole[:, :, block.rows, block.columns] = low.mix(block, None, None, Workspace()).double()
        mean[:, block.rows, block.columns] = low.mean(block, None, None, Workspace()).double()
    for found, wanted in (
        (low.tile(slice(0, length), slice(0, length)), dense),
        (low.apply(v.to(dtype)), torch.einsum("bdij,bjd->bid", matrix, v)),
        (low.apply_transposed(v.to(dtype)), torch.einsum("bid,bdij->bjd", v, matrix)),
        (low.pull(v[..., 0].to(dtype)), torch.einsum("bi,bij->bj", v[..., 0], dense.mean(dim=1))),
        (whole, matrix),
        (mean, matrix.mean(dim=1)),
    ):
        assert distance(found.double(), wanted) < bound


@pytest.mark.parametrize("taps", [None, 1, 2, 4])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("length", [1, 5, 70], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_with_convolution_and_gate_equal_the_dense_product(kind, length, gated, taps):
    """`mix` and `mean`, far blocks and near ones, against alpha shifted and weighted tap by tap."""
    scan = make_scan(kind, length)
    D, K = len(scan.skip), taps or 1
    generator = torch.Generator().manual_seed(2)
    gate = torch.randn(2, length, D, dtype=torch.float64, generator=generator)
    weights = torch.randn(2, K, D, length, dtype=torch.float64, generator=generator)
    alpha = scan.channels(scan.tile(slice(0, length), slice(0, length)))
    expected = torch.zeros_like(alpha)
    for shift in range(min(K, length)):
        part = alpha[..., shift:] * (weights[:, shift, :, None, : length - shift] if taps else 1)
        expected[..., : length - shift] += part
    if gated:
        expected = expected * gate.transpose(1, 2)[..., None]
    seen = torch.zeros(length, length, dtype=torch.long)
    for coarse in scan.blocks(K):
        for block in split(coarse, 9, 11):
            part = weights[..., block.columns] if taps else None
            rows = gate[:, block.rows] if gated else None
            want = expected[:, :, block.rows, block.columns]
            got = scan.mix(block, part, rows, Workspace())
            assert torch.allclose(got, want, rtol=1e-10, atol=1e-12), f"mix of {block}"
            mean = scan.mean(block, part, rows, Workspace())
            assert torch.allclose(mean, want.mean(dim=1), rtol=1e-10, atol=1e-12), f"mean of {block}"
            seen[block.rows, block.columns] += 1
    assert (seen.tril() == torch.ones_like(seen).tril()).all()


@given(length=st.integers(1, 300), taps=st.integers(1, 9), base=st.integers(1, 64))
@settings(deadline=None)
def test_causal_blocks_hold_every_pair_once_and_far_blocks_keep_their_promise(length, taps, base):
    count = torch.zeros(length, length, dtype=torch.long)
    for block in causal_blocks(length, taps, base):
        count[block.rows, block.columns] += 1
        if block.reference is not None:
            assert block.columns.stop - 1 + taps - 1 <= block.reference <= block.rows.start
        else:
            assert block.shape[0] <= base
    assert (count.tril() == torch.ones_like(count).tril()).all()
    assert count.max() == 1


def test_long_sequences_keep_float32_accuracy():
    """S is summed in float64: in float32 its differences would be off by 1e-3 after this many tokens."""
    scan = make_scan("mamba1", 6000, batch=1, dtype=torch.float32)
    double = SelectiveScan(*(t.double() for t in (scan.dt, scan.A, scan.B, scan.C, scan.skip)))
    window = slice(5990, 6000)
    ours, exact = scan.tile(window, window), double.tile(window, window)
    assert float((ours - exact).norm() / exact.norm()) < 1e-6


def test_decay_does_not_overflow_over_thousands_of_tokens():
    scan = make_scan("mamba1", 4000, batch=1, dtype=torch.float32)
    for block in (Block(slice(2000, 2040), slice(0, 40), 2000), Block(slice(3990, 4000), slice(1990, 2000), 2000)):
        assert scan.mix(block, None, None, Workspace()).isfinite().all()


def loop(v, step, A, write, read):
    h, out = torch.zeros(v.shape[0], *A.shape, dtype=v.dtype), []
    for k in range(v.shape[1]):
        h = torch.exp(step[:, k, :, None] * A) * h + v[:, k, :, None] * write[:, k, None]
        out.append((h * read[:, k, None]).sum(dim=-1))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17, 33], ids=lambda n: f"L{n}")
def test_channel_recurrence_and_its_gradient(length):
    generator = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((2, length, 3), (2, length, 3), (3, 2), (2, length, 2), (2, length, 2))
    ]
    tensors[1], tensors[2] = tensors[1].abs(), -tensors[2].abs()
    assert torch.allclose(channel_recurrence(*tensors), loop(*tensors), rtol=1e-12, atol=1e-13)
    ours, reference = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    weight = torch.randn(2, length, 3, dtype=torch.float64, generator=generator)
    (channel_recurrence(*ours) * weight).sum().backward()
    (loop(*reference) * weight).sum().backward()
    for name, a, b in zip(("v", "step", "A", "write", "read"), ours, reference, strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-10, atol=1e-12), f"gradient of {name}"


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130], ids=lambda n: f"L{n}")
def test_head_recurrence_equals_the_loop_of_every_channel(length):
    generator = torch.Generator().manual_seed(4)
    v = torch.randn(2, length, 4, 3, dtype=torch.float64, generator=generator)
    step = torch.rand(2, length, 4, dtype=torch.float64, generator=generator)
    A = -torch.rand(4, dtype=torch.float64, generator=generator)
    write, read = (torch.randn(2, length, 2, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    out = head_recurrence(v, step, A, write, read)
    for head in range(4):
        group = head // 2
        one = loop(
            v[:, :, head],
            step[:, :, head, None].expand(-1, -1, 3),
            A[head].expand(3, 5),
            write[:, :, group],
            read[:, :, group],
        )
        assert torch.allclose(out[:, :, head], one, rtol=1e-11, atol=1e-12), f"head {head}"


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_hold_no_denormal_numbers(kind):
    """A processor multiplies them at a tenth of the speed: one of them in a tile costs more than its arithmetic."""
    scan = make_scan(kind, 120, batch=1, dtype=torch.float32)
    tiles = [scan.mix(block, None, None, Workspace()).clone() for block in scan.blocks()]
    values = torch.cat([tile.flatten().abs() for tile in tiles])
    assert (values == 0).any(), "decays this long must reach the cut for this test to mean anything"
    assert not ((values > 0) & (values < torch.finfo(torch.float32).tiny)).any()
