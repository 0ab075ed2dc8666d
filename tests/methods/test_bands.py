"""Rows of some targets, with memory for these alone: the same as those of the whole map."""

import functools

import pytest

from hybrids import hybrid_model
from mambascope import capture, methods
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods.registry import METHODS
from mambascope.methods.targets import band_of
from models import padded_batch, stock_model, stock_transformer
from vision_models import pictures, vision_mamba

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH = 90
#: Several text families, attention, mixers side by side, a delta rule, and scans in two directions.
MODELS = ("mamba", "mamba2", "gpt2", "falcon_h1", "qwen3_next", "vim")
#: float32 sums in another order.
SINGLE = 1e-5


@functools.cache
def traced(name):
    if name == "vim":
        model = vision_mamba()
        return capture(model, pixel_values=pictures(model, batch=2))
    if name in ("mamba", "mamba2"):
        model = stock_model(name)
    else:
        model = stock_transformer(name) if name == "gpt2" else hybrid_model(name)
    ids, mask = padded_batch(LENGTH, 2, "left")
    return capture(model, input_ids=ids, attention_mask=mask)


def bands(length):
    third = length // 3
    return [slice(0, 1), slice(third - 1, 2 * third), slice(third, None), slice(-1, None), slice(None)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [one.name for one in METHODS.values() if one.band is not None])
def test_a_band_is_rows_of_the_map(name, method):
    trace, entry = traced(name), METHODS[method]
    for layer in range(len(trace.layers)):
        try:
            whole = entry.map(trace, layer)
        except UnsupportedModelError:
            continue
        for band in bands(whole.shape[1]):
            rows = slice(*band.indices(whole.shape[1]))
            found = entry.band(trace, layer, rows)
            assert found.shape == whole[:, rows].shape
            assert (found - whole[:, rows]).abs().max() <= SINGLE * whole.abs().max(), (layer, band)
            assert not found[whole[:, rows] == 0].any(), "what a target cannot see is exactly zero"


@pytest.mark.parametrize("name", ["mamba", "mamba2", "gpt2"])
@pytest.mark.parametrize("function", [methods.hidden_attention, methods.implicit_attention])
@pytest.mark.parametrize("channels", [None, [2, 0], "mean"])
def test_so_it_is_for_single_channels(name, function, channels):
    trace = traced(name)
    whole = function(trace, 1, channels)
    for band in bands(LENGTH):
        found = function(trace, 1, channels, targets=band)
        assert found.shape == whole[..., band, :].shape
        assert (found - whole[..., band, :]).abs().max() <= SINGLE * whole.abs().max()


def test_all_layers_have_bands_together():
    trace = traced("mamba")
    whole = methods.latim(trace)
    assert (methods.latim(trace, targets=slice(5, 9)) - whole[:, :, 5:9]).abs().max() <= SINGLE * whole.abs().max()


@pytest.mark.parametrize(
    "targets", [3, [1, 2], (0, 4), "0:4", slice(0, 4, 2), slice(4, 4), slice(90, 95), slice("a"), slice(0.5)]
)
def test_targets_that_are_no_run_of_positions_are_refused(targets):
    with pytest.raises(InputError, match="targets"):
        band_of(targets, LENGTH)


@pytest.mark.parametrize("name", ["latim", "alti", "hidden_attention", "implicit_attention"])
def test_every_function_of_maps_refuses_them(name):
    with pytest.raises(InputError, match="not consecutive positions"):
        getattr(methods, name)(traced("mamba"), 0, targets=slice(0, 4, 2))
