"""A scan of a text piece by piece, from state to state, is the scan of the whole text; so is its transpose."""

from __future__ import annotations

import pytest
import torch

from mambascope.operators import recurrence
from mambascope.operators.frozen import carried_scan
from mambascope.operators.token_mixer import Carried
from random_scans import make_delta, make_scan, make_short

KINDS = {
    "mamba1": lambda length: make_scan("mamba1", length),
    "mamba2": lambda length: make_scan("mamba2", length),
    "delta": make_delta,
    "delta per channel": lambda length: make_delta(length, 3),
    "short convolution": make_short,
    "one tap": lambda length: make_short(length, 1),
}


def pieces(length):
    return [slice(0, 1), slice(1, 4), slice(4, length - 2), slice(length - 2, length)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [8, 512], ids=lambda n: f"part{n}")
def test_pieces_add_up_to_the_whole(kind, part, monkeypatch):
    monkeypatch.setattr(recurrence, "PART", part)
    length = 29
    scan = KINDS[kind](length)
    assert isinstance(scan, Carried)
    v = torch.randn(2, length, len(scan.skip), dtype=torch.float64)
    matrix = scan.channels(scan.tile(slice(0, length), slice(0, length)))
    alpha_v, v_alpha = torch.einsum("bdij,bjd->bid", matrix, v), torch.einsum("bdij,bid->bjd", matrix, v)
    assert torch.allclose(scan.apply(v), alpha_v, rtol=1e-11, atol=1e-12)
    assert torch.allclose(scan.apply_transposed(v), v_alpha, rtol=1e-11, atol=1e-12)
    state, found = None, []
    for piece in pieces(length):
        o, state = cut(scan, piece).forwards(v[:, piece], state)
        found.append(o)
    assert torch.allclose(torch.cat(found, dim=1), alpha_v, rtol=1e-11, atol=1e-12)
    state, found = None, []
    for piece in reversed(pieces(length)):
        o, state = cut(scan, piece).backwards(v[:, piece], state)
        found.append(o)
    assert torch.allclose(torch.cat(found[::-1], dim=1), v_alpha, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_transpose_is_the_gradient_of_a_piece(kind):
    length = 13
    scan = KINDS[kind](length)
    _, state = scan.forwards(torch.zeros(2, length, len(scan.skip), dtype=torch.float64))
    v = torch.randn(2, length, len(scan.skip), dtype=torch.float64)
    weights = torch.randn_like(v), torch.randn_like(state)
    gradients = []
    for run in (scan.forwards, lambda v, before: carried_scan(scan, v, before)):
        given = v.clone().requires_grad_(), torch.ones_like(state).requires_grad_()
        total = sum((weight * out).sum() for weight, out in zip(weights, run(*given), strict=True))
        gradients.append(torch.autograd.grad(total, given))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_of_a_state_is_what_a_piece_of_zeros_leaves(kind):
    """Of several states at once, as of each by itself."""
    whole = make_scan(kind, 13)
    one = type(whole)(**{name: getattr(whole, name)[:1] for name in ("dt", "B", "C")}, A=whole.A, skip=whole.skip)
    nothing = torch.zeros(1, 13, len(one.skip), dtype=torch.float64)
    states = torch.randn(3, *one.forwards(nothing)[1].shape[1:], dtype=torch.float64)
    expected = torch.cat([one.forwards(nothing, state[None])[1] for state in states])
    assert torch.allclose(one.left(states), expected, rtol=1e-11, atol=1e-14)
    assert expected.abs().max() > 1e-6, "something is left"


def cut(scan, piece):
    """Return the scan of some tokens alone."""
    names = type(scan).__dataclass_fields__
    parts = {name: value for name, value in vars(scan).items() if name in names}
    return type(scan)(**{name: value[:, piece] if value.ndim > 2 else value for name, value in parts.items()})
