"""`mambascope classify`: the table of theorem 1, and the layers of a model."""

import json

import pytest
import torch

from mambascope.cli import classifying, loading
from mambascope.models.layers import LAYERS
from mambascope.theory.theorem import STOCK, THEOREM
from small_staged_models import small


def test_the_table_agrees_with_the_theorem(run):
    code, out, err = run("classify", "--all")
    assert (code, err) == (0, "")
    table, legend = out.split("\n\n")
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:]] == [*LAYERS, *STOCK]
    assert [line.split()[0] for line in lines[1:] if " agrees " in line] == list(THEOREM)
    assert "DIFFERS" not in out
    assert "Toeplitz" in legend


def test_the_layers_of_a_model(run):
    code, out, err = run("classify", "tiny-hybrid", "--layer", "-1", "--json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)
    assert (found["layer"], found["kind"], found["causal"], found["toeplitz"]) == (4, "data-controlled", True, False)
    assert found["evidence"]["far"] > 1e-2


def test_all_has_no_layer_to_name(run):
    code, out, err = run("classify", "--all", "--layer", "2")
    assert (code, out) == (2, "")
    assert "--layer names a layer of a model; --all has none" in err


@pytest.mark.parametrize("words", [(), ("tiny-mamba", "--all")])
def test_a_model_or_all(run, words):
    code, out, err = run("classify", *words)
    assert (code, out) == (2, "")
    assert "name a model, or pass --all for the reference layers" in err


def test_layers_that_read_too_few_patches_are_left_out_by_name(run, monkeypatch):
    model = small("mambavision", torch.float32, windows=(8, 8, 5, 2))
    monkeypatch.setattr(loading, "load", lambda *_: (model, None))
    monkeypatch.setattr(classifying, "probe", lambda *_: {"pixel_values": torch.randn(1, 2, 160, 160)})
    code, out, err = run("classify", "any")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [[str(k), "data-controlled"] for k in range(3)]
    assert out.splitlines()[-1].startswith("layer 4 is left out: 4 tokens leave none far")
    code, out, err = run("classify", "any", "--json")
    assert [one["kind"] for one in json.loads(out)] == ["data-controlled"] * 3 + [None] * 2
    code, out, err = run("classify", "any", "--layer", "4")
    assert (code, out) == (2, "")
    assert "4 tokens leave none far" in err
