"""Rows traced back through ALTI's shares some targets at a time, against whole maps; and what is left out of them."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dense_reference import distance
from hybrids import hybrid_model
from mambascope import methods, readouts
from mambascope.methods import shares as of_layer
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.shares import pulled_through, shares
from mambascope.methods.traced_targets import holding
from mambascope.operators import affine_map
from mambascope.trace import capture
from models import padded_batch, stock_model, stock_transformer, without_downcasts
from vision_models import pictures, vision_mamba

SUPPORT = Path(__file__).parents[1] / "support"
LENGTH = 19
#: float64: sums over the model's width of differences of ℓ1 norms.
BOUND = 1e-10
READOUT = readouts.token(-2, 7)


@functools.cache
def traced(name):
    if name == "vision":
        model = vision_mamba(torch.float64)
        return capture(model, pixel_values=pictures(model, batch=2).double())
    ids, mask = padded_batch(LENGTH, 2, "left")
    if name in ("zamba", "zamba2", "falcon_h1"):
        with without_downcasts(name):
            return capture(hybrid_model(name, torch.float64), input_ids=ids[:1])
    model = stock_transformer("llama", torch.float64) if name == "llama" else stock_model(name, torch.float64)
    with without_downcasts(name):
        return capture(model, input_ids=ids, attention_mask=mask)


def weights(trace, kind):
    """Return rows of weights: of all targets, of those up to one, or of scattered ones."""
    batch, length = trace.shape
    rows = torch.randn(batch, 2, length, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    if kind == "up to one":
        rows[..., 5:] = 0
    if kind == "scattered":
        rows[..., torch.arange(length) % 7 < 5] = 0
    return rows


@pytest.mark.parametrize("strip", [1, 4, 256])
@pytest.mark.parametrize("kind", ["all", "up to one", "scattered"])
@pytest.mark.parametrize("name", ["mamba", "mamba2", "llama", "vision", "zamba", "zamba2", "falcon_h1"])
def test_rows_through_strips_are_rows_through_whole_maps(name, kind, strip, monkeypatch):
    """Any size of strips and tiles, causal and not, two texts with padding, with parts that shared attention gave."""
    trace = traced(name)
    rows = weights(trace, kind)
    whole = [torch.einsum("bni,bpij->bnpj", rows, shares(trace, layer)) for layer in range(len(trace.layers))]
    monkeypatch.setattr(of_layer, "STRIP", strip)
    monkeypatch.setattr(affine_map, "TILE_ELEMENTS", 1 << 10)
    monkeypatch.setattr(affine_map, "TILE_COLUMNS", 6)
    for layer, expected in enumerate(whole):
        assert distance(pulled_through(trace, layer, rows), expected) < BOUND, f"layer {layer}"


def test_targets_without_weight_cost_nothing(monkeypatch):
    trace, made = traced("mamba"), []
    tile = affine_map.AffineMap.contribution_tile

    def counted(self, block, *rest):
        made.append(block.shape[0] * block.shape[1])
        return tile(self, block, *rest)

    monkeypatch.setattr(affine_map.AffineMap, "contribution_tile", counted)
    rows = torch.zeros(2, 1, LENGTH, dtype=torch.float64)
    assert not pulled_through(trace, 0, rows).any()
    assert made == []
    rows[..., [3, 11]] = 1.0
    pulled_through(trace, 0, rows)
    assert 2 <= sum(made) <= 2 * LENGTH


@pytest.mark.parametrize("name", ["mamba", "mamba2", "zamba", "zamba2"])
def test_what_is_left_out_is_a_term_and_bounds_what_the_scores_are_off_by(name):
    trace = traced(name)
    with without_downcasts(name):
        exact = alti_logit(trace, READOUT)
        assert "untraced" not in exact.terms
        assert not exact.untraced.any()
        sizes = []
        for share in (0.99, 0.7, 0.3):
            found = alti_logit(trace, READOUT, traced_share=share)
            off = (found.scores.sum(dim=1) - exact.scores.sum(dim=1)).abs().sum(dim=-1)
            assert (off <= found.untraced * (1 + 1e-12)).all(), "rows of shares are not negative and sum to one"
            assert (found.conservation_error < 1e-12).all()
            assert (
                distance(found.scores.sum(dim=(1, 2)) + found.terms["untraced"], exact.scores.sum(dim=(1, 2))) < BOUND
            )
            sizes.append(float(found.untraced.sum()))
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_given_maps_and_several_readouts_give_what_one_by_one_gives():
    trace = traced("mamba")
    maps = [methods.alti(trace, layer) for layer in range(len(trace.layers) - 1)]
    for share in (1.0, 0.6):
        own, given = (alti_logit(trace, READOUT, traced_share=share, maps=one) for one in (None, maps))
        assert distance(given.scores, own.scores) < BOUND
        assert (given.untraced - own.untraced).abs().max() < BOUND
    alone = capture(trace.model, input_ids=trace.inputs["input_ids"][:1], check=False)
    asked = [readouts.token(place, 7) for place in (4, 9, -1)]
    for readout, found in zip(asked, methods.METHODS["alti-logit"].score_many(alone, asked), strict=True):
        assert distance(found.scores, alti_logit(alone, readout).scores[0]) < BOUND


def test_the_fewest_targets_that_hold_a_share_are_chosen():
    rows = torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 5.0]])
    for share, expected in (
        (0.0, [[0, 0, 0, 0], [0, 0, 0, 0]]),
        (0.4, [[1, 0, 0, 0], [0, 0, 0, 1]]),
        (0.41, [[1, 0, 1, 0], [0, 0, 0, 1]]),
        (0.9, [[1, 0, 1, 1], [0, 0, 0, 1]]),
    ):
        assert holding(share, rows).int().tolist() == expected, share


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_text():
    """Twice the tokens add less than a quarter of the (L, L) map, which alone would be three quarters more."""
    taken = {}
    for length in (1024, 2048):
        run = subprocess.run(
            [sys.executable, SUPPORT / "method_peaks.py", "alti-logit", str(length)],
            capture_output=True, text=True, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-800:]
        taken[length] = json.loads(run.stdout.splitlines()[-1])
    assert taken[2048] - taken[1024] < 2048**2 * 4 / 2**20 / 4, taken
