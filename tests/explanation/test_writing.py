"""Maps of every position that are written as they are computed: what `explain` gives, in memory for a band alone."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mambascope import Attribution, explain, write_maps
from mambascope.errors import InputError
from mambascope.explanation import writing
from mambascope.methods.registry import METHODS
from models import stock_model, stock_transformer
from small_hybrids import small_hybrid

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

SUPPORT = Path(__file__).parents[1] / "support"
IDS = torch.randint(1, 50, (1, 150), generator=torch.Generator().manual_seed(0))
#: float32 sums in another order.
SINGLE = 1e-5


def model_of(name):
    if name.startswith("tiny"):
        return small_hybrid(name)
    return stock_transformer(name) if name == "gpt2" else stock_model(name)


def methods_of(name):
    kinds = {"mamba": {"scan"}, "mamba2": {"scan"}, "gpt2": {"attention"}}.get(name, {"scan", "attention"})
    return [one.name for one in METHODS.values() if one.map is not None and not one.asks and one.reads(kinds)]


CASES = [(name, method) for name in ("mamba", "mamba2", "gpt2", "tiny-hybrid") for method in methods_of(name)]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_the_file_holds_what_explain_returns(name, method, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "BAND", 70 * IDS.shape[1])  # bands of 70 rows
    model, steps = model_of(name), []
    found = write_maps(
        tmp_path / "maps.safetensors", model, None, {"input_ids": IDS}, method=method, layer=[0, 1],
        facts={"text": "a text"}, progress=lambda *step: steps.append(step),
    )  # fmt: skip
    whole = explain(model, None, {"input_ids": IDS}, method=method, layer=[0, 1], positions="all", progress=False)
    assert (found.scores - whole.scores).abs().max() <= SINGLE * whole.scores.abs().max()
    assert not found.scores[whole.scores == 0].any(), "what a target cannot see is exactly zero"
    for part in ("tokens", "axes", "method", "target", "targets", "model", "signed", "over_layers"):
        assert getattr(found, part) == getattr(whole, part), part
    assert found.diagnostics["text"] == "a text"
    ours, theirs = (one.diagnostics.keys() - {"text"} for one in (found, whole))
    assert ours == theirs
    assert steps[-1][0] == steps[-1][1] == (6 if METHODS[method].band else 2)
    assert torch.equal(Attribution.load(tmp_path / "maps.safetensors").row(3), found.row(3))


def test_an_interrupted_file_is_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "BAND", 64 * IDS.shape[1])
    model, path, rows_of = stock_model("mamba2"), tmp_path / "maps.safetensors", writing.rows_of
    computed = []

    def interrupted(trace, method, layer, rows, precision):
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append((layer, rows))
        return rows_of(trace, method, layer, rows, precision)

    monkeypatch.setattr(writing, "rows_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_maps(path, model, None, {"input_ids": IDS}, progress=False)
    assert [one.name for one in tmp_path.iterdir()] == ["maps.partial.safetensors"]
    with pytest.raises(InputError, match="what an interruption left of something else"):
        write_maps(path, model, None, {"input_ids": IDS[:, :149]}, progress=False)
    computed.clear()
    found = write_maps(path, model, None, {"input_ids": IDS}, progress=False)
    assert computed == [(1, slice(0, 64)), (1, slice(64, 128)), (1, slice(128, 150))], (
        "the last complete one is checked"
    )
    whole = explain(model, None, {"input_ids": IDS}, method="latim", positions="all", progress=False)
    assert (found.scores - whole.scores).abs().max() <= SINGLE * whole.scores.abs().max()


def test_memory_is_that_of_a_band(tmp_path):
    """Of 6,000 tokens the maps of two layers take 275 MiB; a band takes 64, and as much again while it is looked at."""
    command = [sys.executable, str(SUPPORT / "method_peaks.py"), "write-maps", "6000"]
    told = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    grown = json.loads(subprocess.run(command, env=told, capture_output=True, text=True, check=True).stdout)
    assert grown < 220


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "maps.html"}, r"must end in \.safetensors"),
        ({"path": "nowhere/maps.safetensors"}, "does not exist"),
        ({"method": "mamba-lrp"}, "mamba-lrp has no maps of layers"),
        ({"method": "rollout"}, "rollout has no maps of layers"),
        ({"method": "nothing"}, "unknown method"),
        ({"layer": 7}, "layer 7"),
        ({"source": ""}, "tokenizer"),
        ({"source": {"input_ids": IDS[:, :0]}}, "tokens > 0"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_file(given, words, tmp_path):
    asked = {"path": "maps.safetensors", "source": {"input_ids": IDS}} | given
    path, source = tmp_path / asked.pop("path"), asked.pop("source")
    with pytest.raises(InputError, match=words):
        write_maps(path, stock_model("mamba2"), None, source, progress=False, **asked)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    damaged = dataclasses.replace(METHODS["latim"], map=lambda *_: torch.full((1, 150, 150), torch.nan), band=None)
    monkeypatch.setattr(writing, "find_method", lambda _: damaged)
    with pytest.raises(InputError, match="the latim scores hold NaN"):
        write_maps(tmp_path / "maps.safetensors", stock_model("mamba2"), None, {"input_ids": IDS}, progress=False)
    assert not list(tmp_path.iterdir()), "nothing is left to go on with"
