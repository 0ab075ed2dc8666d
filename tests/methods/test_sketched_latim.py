"""LaTIM's maps from a sketch: every target's top sources are exact, the other values within their error bars."""

import functools
import importlib

import pytest
import torch

from hybrids import hybrid_model
from mambascope.methods import sketched_latim
from mambascope.methods.latim import latim
from mambascope.operators import affine_map
from mambascope.operators.blocks import Block
from mambascope.trace import capture
from models import padded_batch, stock_model, stock_transformer
from vision_models import pictures, vision_mamba

LENGTH, WIDTH, SKETCH, TOP = 60, 64, 24, 3
#: float64 sums in another order.
DOUBLE = 1e-12
#: The module: its name in the package is the function's.
own = importlib.import_module("mambascope.methods.sketched_latim")
#: Models and which of their layers are exact everywhere: softmax attention, and mixers side by side.
MODELS = {
    "mamba": (),
    "mamba2": (),
    "llama": (0, 1),
    "falcon_h1": (0, 1),
    "zamba2": (1, 3, 5),
    "qwen3_next": (),  # its attention has an output gate
    "vision": (),
}


@functools.cache
def traced(name, side="right"):
    if name == "vision":
        model = vision_mamba(torch.float64, hidden_size=WIDTH)
        return capture(model, pixel_values=pictures(model, batch=2))
    ids, mask = padded_batch(LENGTH, 2, side)
    sizes = {"mamba": {"hidden_size": WIDTH}, "mamba2": {"hidden_size": WIDTH, "num_heads": 8, "head_dim": 16}}
    if name in sizes:
        model = stock_model(name, torch.float64, **sizes[name])
    else:
        make = stock_transformer if name == "llama" else hybrid_model
        model = make(name, torch.float64, hidden_size=WIDTH)
    return capture(model, input_ids=ids, attention_mask=mask)


@functools.cache
def exact_maps(name, side="right"):
    return latim(traced(name, side))


def assert_top_exact(found, expected, top=TOP):
    """The top sources of every target are exact, are the true ones, and no other value is larger."""
    top = min(top, expected.shape[-1])
    largest, places = found.maps.topk(top)
    true = expected.topk(top).values
    assert ((largest - true).abs() <= DOUBLE * expected.max()).all()
    assert (found.exact.gather(-1, places) | (largest == 0)).all()
    assert (found.exact | (found.maps <= largest[..., -1:])).all()
    apart = (found.maps - expected).abs()[found.exact]
    assert (apart <= DOUBLE * expected.max()).all()


@pytest.mark.parametrize("rule", ["secant", "silu"])
@pytest.mark.parametrize("name", MODELS)
def test_top_sources_are_exact_and_the_others_within_their_error_bars(name, rule):
    trace = traced(name)
    expected = exact_maps(name) if rule == "secant" else latim(trace, rule=rule)
    found = sketched_latim(trace, sketch=SKETCH, exact=TOP, rule=rule)
    assert found.maps.shape == found.exact.shape == expected.shape
    assert_top_exact(found, expected)
    assert torch.equal(found.maps == 0, expected == 0), "padding and later tokens have nothing"
    estimated = ~found.exact
    ratios = expected[estimated] / found.maps[estimated]
    assert ((ratios >= found.low) & (ratios <= found.high)).all()
    for layer in range(len(trace.layers)):
        rest = estimated[:, layer]
        assert bool(rest.any()) == (layer not in MODELS[name]), f"layer {layer}"
        early = (expected[:, layer] > 0).sum(dim=-1) <= TOP
        assert not rest[early].any(), "targets of so few sources have no estimates"


@pytest.mark.parametrize("name", ["mamba", "llama"])
def test_errors_are_as_large_as_is_said(name):
    """Over all estimates of 20 draws; those of one draw share their directions, so that they err alike."""
    trace, expected, errors = traced(name), exact_maps(name)[:, 0], []
    for seed in range(20):
        found = sketched_latim(trace, 0, sketch=SKETCH, exact=TOP, seed=seed)
        rest = ~found.exact
        errors.append((found.maps[rest] / expected[rest] - 1).square())
    if name == "llama":
        assert (found.error, found.low, found.high) == (0, 1, 1)
        return
    assert float(torch.cat(errors).mean().sqrt()) == pytest.approx(found.error, rel=0.3)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("top", [1, 8, LENGTH, 2 * LENGTH])
def test_any_number_of_top_sources(top, side):
    found = sketched_latim(traced("mamba2", side), sketch=SKETCH, exact=top)
    assert_top_exact(found, exact_maps("mamba2", side), top)
    assert bool(found.exact.all()) == (top >= LENGTH)


def test_one_layer_and_a_band_are_parts_of_all():
    trace, whole = traced("mamba"), sketched_latim(traced("mamba"), sketch=SKETCH, exact=TOP)
    assert not whole.exact.all()
    for band in (slice(7, 9), slice(20, None), slice(-1, None)):
        part = sketched_latim(trace, 1, sketch=SKETCH, exact=TOP, targets=band)
        assert_top_exact(part, exact_maps("mamba")[:, 1, band])
        both = part.exact == whole.exact[:, 1, band]  # which others were multiplied out depends on the blocks
        assert ((part.maps - whole.maps[:, 1, band])[both].abs() <= DOUBLE * whole.maps.max()).all()


@pytest.mark.parametrize(("columns", "elements"), [(5, 1 << 12), (16, 1 << 14), (128, 1 << 22)])
@pytest.mark.parametrize("name", ["mamba", "qwen3_next", "vision"])
def test_any_size_of_tiles(name, columns, elements, monkeypatch):
    monkeypatch.setattr(affine_map, "TILE_COLUMNS", columns)
    monkeypatch.setattr(affine_map, "TILE_ELEMENTS", elements)
    assert_top_exact(sketched_latim(traced(name), sketch=SKETCH, exact=TOP), exact_maps(name))


def test_as_many_directions_as_features_are_the_map_itself():
    for sketch in (WIDTH, 10 * WIDTH):
        found = sketched_latim(traced("mamba"), sketch=sketch)
        assert found.exact.all()
        assert (found.maps - exact_maps("mamba")).abs().max() <= DOUBLE * exact_maps("mamba").max()


def test_without_the_factor_top_sources_are_missed(monkeypatch):
    """So the other tests see what the factor is for: estimates alone do not name the top sources."""
    monkeypatch.setattr(own, "length_factors", lambda *_: (1.0, 1.0))
    expected = exact_maps("mamba")
    found = sketched_latim(traced("mamba"), sketch=4, exact=TOP)
    with pytest.raises(AssertionError):
        assert_top_exact(found, expected)


def added(vectors, sketch, top, real=None):
    """Return the maps of one target whose sources give these vectors (L, F), W_o being the identity."""
    length, width = vectors.shape
    maps, known = vectors.new_zeros(1, 1, length), torch.zeros(1, 1, length, dtype=torch.bool)
    _, high = own.length_factors(sketch, width, own.MISS / top)
    S = own.random_projection(sketch, width, 0)
    found = own._Found(maps, known, maps.new_zeros(1, 1, top), high, torch.eye(width, dtype=vectors.dtype), real)
    half = length // 2
    for columns in (slice(half, length), slice(0, half)):
        received = vectors[columns].t()[None, :, None]
        estimates = (vectors[columns] @ S.t()).norm(dim=-1)[None, None]
        last = slice(length - 1, length)
        found.add(Block(last, columns), last, received, estimates)
    return maps[0, 0], known[0, 0]


def test_sources_that_tie_are_all_exact():
    vectors = torch.randn(40, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors /= vectors.norm(dim=1, keepdim=True)
    vectors[:10] *= 1e-6
    maps, known = added(vectors, SKETCH, TOP)
    assert known[10:].all()
    assert (maps[10:] - 1).abs().max() < DOUBLE
    assert not known[:10].any(), "what is far smaller is estimated"


def test_padding_takes_no_top_place():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, WIDTH, dtype=torch.float64, generator=generator)
    real = torch.arange(40)[None] >= 5
    vectors[:5] *= 1e6
    maps, known = added(vectors, SKETCH, TOP, real)
    true = vectors[5:].norm(dim=1).topk(TOP)
    assert known[5 + true.indices].all()
    assert (maps[5 + true.indices] - true.values).abs().max() < DOUBLE * WIDTH
    assert not maps[:5].any()


def test_sources_that_give_nothing_are_no_top_sources():
    vectors = torch.zeros(40, WIDTH, dtype=torch.float64)
    vectors[3], vectors[25] = 1e-9, 1.0
    maps, known = added(vectors, SKETCH, TOP)
    assert known.nonzero().flatten().tolist() == [3, 25]
    assert maps[known].tolist() == pytest.approx([1e-9 * WIDTH**0.5, WIDTH**0.5], rel=1e-12)
    assert not maps[~known].any()


@pytest.mark.parametrize("seed", range(5))
def test_a_row_of_nearly_equal_sources_has_its_true_top(seed):
    """Sources in ascending order, each 1 % above the one before: estimates alone put them in another order."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(60, WIDTH, dtype=torch.float64, generator=generator)
    vectors *= (1.01 ** torch.arange(60))[torch.randperm(60, generator=generator), None] / vectors.norm(
        dim=1, keepdim=True
    )
    maps, known = added(vectors, SKETCH, 8)
    true = vectors.norm(dim=1).topk(8)
    assert known[true.indices].all()
    assert (maps[true.indices] - true.values).abs().max() < 1e-9
    assert not (maps[~known] > true.values[-1]).any()
