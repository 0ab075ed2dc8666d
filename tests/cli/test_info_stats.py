"""`mambascope info MODEL --stats TEXT`: the table, the values and the figure."""

import json

import pytest
import torch

import mambascope
from mambascope.theory.memory import held, memory
from small_checkpoint import make_checkpoint

TEXT = "When Mary and John went to the store"


def test_every_layer_has_a_line_within_80_columns(run):
    code, out, err = run("info", "tiny-hybrid", "--stats", TEXT)
    assert (code, err) == (0, "")
    table, legend = out.split("\n\n")
    lines = table.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line.split()[:3] for line in lines[1:]] == [
        ["0", "scan", "8"], ["1", "scan", "8"], ["2", "attention", "4"], ["3", "scan", "8"], ["4", "scan", "8"],
    ]  # fmt: skip
    for word in lines[0].split()[3:]:
        assert f"\n{word} " in legend, "every column is explained"


def test_the_values_are_those_of_the_library(run, tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    code, out, err = run("info", folder, "--stats", TEXT, "--json")
    assert (code, err) == (0, "")
    model, tokenizer = mambascope.load(folder)
    trace = mambascope.capture(model, **tokenizer(TEXT, return_tensors="pt"))
    for layer, found in enumerate(json.loads(out)):
        (expected,) = memory(trace, layer)
        assert found["layer"] == layer
        torch.testing.assert_close(torch.tensor(found["distance"]).double(), expected.distance, rtol=1e-5, atol=1e-7)
        shares = torch.tensor(found["state_held"]).double()
        torch.testing.assert_close(shares, held(trace, layer)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_figure_is_written(run, tmp_path, ending):
    folder = make_checkpoint(tmp_path / "model")
    code, _, err = run("info", folder, "--stats", TEXT, "--out", tmp_path / f"memory.{ending}")
    assert (code, err) == (0, "")
    assert (tmp_path / f"memory.{ending}").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stats", "a"), "'a' is 1 tokens; --stats needs 4 or more"),
        (("--stats", TEXT, "--out", "memory.html"), "--out memory.html must end in .png"),
        (("--out", "memory.png"), "--out is the figure of --stats; pass a text with --stats"),
        (("--stats", ""), "the text is empty"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("info", "tiny-mamba", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
