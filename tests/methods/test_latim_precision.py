"""LaTIM's maps by products in bfloat16, and channels that take no part in a product."""

import functools

import pytest
import torch

from dense_reference import distance
from hybrids import hybrid_model
from mambascope import methods
from mambascope.errors import InputError
from mambascope.methods.latim import latim, latim_error, latim_row
from mambascope.operators import affine_map
from mambascope.operators.affine_map import projected
from mambascope.operators.blocks import Workspace
from mambascope.trace import capture
from models import padded_batch, stock_model, stock_transformer
from vision_models import pictures, vision_mamba

LENGTH = 21
#: Both factors of a product and what it gives are rounded to 8 bits, by 2^-9 at most each, and once more where
#: attention projects its values; the errors have no common sign, so that a norm of many features has much less.
HALF = 4 * 2.0**-9


@functools.cache
def traced(name, dtype=torch.float32):
    if name == "vision":
        model = vision_mamba(dtype)
        return capture(model, pixel_values=pictures(model, batch=2).to(dtype))
    ids, mask = padded_batch(LENGTH, 2, "left")
    if name in ("falcon_h1", "zamba2", "qwen3_next", "olmo_hybrid"):
        return capture(hybrid_model(name, dtype), input_ids=ids[:1])
    model = stock_transformer("llama", dtype) if name == "llama" else stock_model(name, dtype)
    return capture(model, input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize(
    "name", ["mamba", "mamba2", "llama", "vision", "falcon_h1", "zamba2", "qwen3_next", "olmo_hybrid"]
)
def test_maps_in_bfloat16_are_near_and_their_error_is_measured(name, norm):
    trace = traced(name)
    exact, near = latim(trace, norm=norm), latim(trace, norm=norm, precision="bfloat16")
    assert near.dtype == exact.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert not near[exact == 0].any(), "padding and later tokens have nothing"
    for layer in range(len(trace.layers)):
        assert 0 < distance(near[:, layer], exact[:, layer]) < HALF, f"layer {layer}"
    every = latim_error(trace, near, norm=norm, rows=trace.shape[1])
    assert every.shape == (len(trace.layers),)
    for layer, error in enumerate(every.tolist()):
        expected = float((near[:, layer] - exact[:, layer]).norm() / exact[:, layer].norm())
        assert abs(error - expected) < 1e-5, "rows and maps are both in float32"
        assert float(latim_error(trace, near[:, layer], layer, norm, rows=3)) < HALF
    assert float(latim_error(trace, exact, norm=norm).max()) < 1e-5


def test_an_error_is_seen():
    trace = traced("mamba")
    maps = latim(trace, 0)
    assert float(latim_error(trace, 1.5 * maps, 0)) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("band", [slice(3, 9), slice(0, 1), slice(-1, None)])
def test_the_error_of_some_rows(band):
    trace = traced("mamba")
    near, exact = latim(trace, precision="bfloat16", targets=band), latim(trace, targets=band)
    errors = latim_error(trace, near, rows=LENGTH, targets=band)
    for layer, error in enumerate(errors.tolist()):
        expected = float((near[:, layer] - exact[:, layer]).norm() / exact[:, layer].norm())
        assert abs(error - expected) < 1e-5, "rows and maps are both in float32"
    with pytest.raises(InputError, match="maps must be what latim returned"):
        latim_error(trace, near, targets=slice(0, 10))


def test_a_precision_that_makes_no_sense_is_refused():
    with pytest.raises(
        InputError, match=r"precision='bfloat16' is for models in float32 or less, .*float64; leave it out"
    ):
        latim(traced("mamba", torch.float64), precision="bfloat16")
    with pytest.raises(InputError, match=r"maps must be what latim returned, of shape \(2, 21, 21\)"):
        latim_error(traced("mamba"), torch.zeros(2, 3, 3), 0)


@pytest.mark.parametrize("norm", [1, 2])
def test_norms_are_those_of_vectors_for_any_size_of_tiles(norm, monkeypatch):
    """float64; the ℓ1 norm is a sum, the ℓ2 norm torch's own."""
    trace = traced("mamba", torch.float64)
    rows = torch.stack([latim_row(trace, 1, place, norm) for place in range(-LENGTH // 3, 0)], dim=1)
    for columns, elements in ((128, 1 << 22), (5, 1 << 10), (16, 1 << 12)):
        monkeypatch.setattr(affine_map, "TILE_COLUMNS", columns)
        monkeypatch.setattr(affine_map, "TILE_ELEMENTS", elements)
        assert distance(methods.latim(trace, 1, norm)[:, -LENGTH // 3 :], rows) < 1e-12, (columns, elements)


@pytest.mark.parametrize("dead", [0, 1, 5, 12])
def test_channels_that_are_zero_at_all_pairs_change_nothing(dead):
    """A channel that is nonzero at a single pair of a single text counts, if it is negative too."""
    generator = torch.Generator().manual_seed(dead)
    received = torch.randn(2, 12, 3, 4, dtype=torch.float64, generator=generator)
    received[:, :dead] = 0
    if dead > 2:
        received[1, 2, 1, 3] = -3.0
    W_o = torch.randn(7, 12, dtype=torch.float64, generator=generator)
    expected = torch.einsum("fd,bdtc->bftc", W_o, received)
    workspace = Workspace()
    for _ in range(2):
        assert (projected(received, W_o, workspace) - expected).abs().max() < 1e-13
    assert projected(received, W_o.bfloat16(), workspace).dtype == torch.bfloat16
