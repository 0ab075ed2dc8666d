"""A result is written as the file's ending says: what each kind holds, whole or not at all; others are refused."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from made_results import in_parts, make
from mambascope import Attribution
from mambascope.errors import CheckpointError, InputError, OutputError
from mambascope.show import FORMATS
from mambascope.show.saving import GRAPH
from show_results import picture_result


@pytest.mark.parametrize("ending", [*FORMATS, ".HTML", ".Npz", ".Graph.JSON"])
@pytest.mark.parametrize("of", ["text", "picture"])
def test_a_file_holds_what_its_ending_says(tmp_path, of, ending):
    result = in_parts(make() if of == "text" else picture_result())
    path = tmp_path / f"x{ending}"
    assert result.save(path) == result.save(str(path)) == path
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "no partial file is left"
    starts = {".html": b"<!doctype html>", ".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml", ".npz": b"PK"}
    starts |= {
        ".json": b'{"tokens"',
        GRAPH: b'{"metadata"',
        ".csv": b"method,layer,target,target_token,source,source_token,score,share\n",
    }
    assert path.read_bytes().startswith(starts.get(ending.lower(), b""))
    if ending == ".safetensors":
        assert torch.equal(Attribution.load(path).scores, result.scores)
        return
    with pytest.raises(CheckpointError, match=r"is not a \.safetensors file, the only kind that holds a whole result"):
        Attribution.load(path)


def test_a_page_is_that_of_to_html(tmp_path):
    result, other = make(), make(signed=False)
    assert result.save(tmp_path / "x.html").read_text(encoding="utf-8") == result.to_html()
    other = Attribution(**{**vars(other), "method": "hidden-attention"})
    assert result.save(tmp_path / "x.html", other).read_text(encoding="utf-8") == result.to_html(other)


def test_an_object_is_what_the_command_prints(tmp_path):
    result = make()
    written = result.save(tmp_path / "x.json").read_text(encoding="utf-8")
    assert written == json.dumps(result.to_dict(), ensure_ascii=False) + "\n"


def test_a_table_has_a_line_for_every_score(tmp_path):
    result = make()
    with result.save(tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == result.scores.numel()
    places = [(one["layer"], one["target"], one["source"]) for one in lines]
    assert places == [(str(a), str(b), str(c)) for a in (1, 4) for b in range(4) for c in range(4)]
    scores = torch.tensor([float(one["score"]) for one in lines], dtype=torch.float32)
    assert torch.equal(scores.reshape(result.scores.shape), result.scores), "to the bit"
    assert {(one["target_token"], one["target"]) for one in lines} == set(zip(result.tokens, "0123", strict=True))
    assert {(one["source_token"], one["source"]) for one in lines} == set(zip(result.tokens, "0123", strict=True))


def test_a_table_of_one_position_names_its_token(tmp_path):
    with make(targets=(2,)).save(tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        assert {(one["target"], one["target_token"]) for one in csv.DictReader(file)} == {("2", "<c>")}


def test_arrays_are_numpys(tmp_path):
    result = picture_result()
    with np.load(result.save(tmp_path / "x.npz"), allow_pickle=False) as held:
        assert np.array_equal(held["scores"], result.scores.numpy())
        assert tuple(held["tokens"]) == result.tokens
        for axis in ("layer", "target", "source"):
            assert tuple(held[axis].tolist()) == tuple(result.axes[axis])
        assert np.array_equal(held["image"], result.image.numpy())
        facts = json.loads(str(held["facts"]))
    assert (facts["method"], facts["target"]["position"]) == (result.method, result.target.position)
    assert facts["grid"]["rows"] == result.grid.rows


def save_all(folder):
    for ending in FORMATS:
        in_parts(make()).save(folder / f"text{ending}")
        in_parts(picture_result()).save(folder / f"picture{ending}")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_result_always_makes_the_same_bytes(tmp_path):
    """In this process and in another, whose sets and hashed names are in another order."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = save_all(tmp_path / "here")
    program = "import sys, pathlib, test_show_saving as saving; saving.save_all(pathlib.Path(sys.argv[1]))"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, tmp_path / "there"],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "7"},
        check=True,
    )
    there = {path.name: path.read_bytes() for path in sorted((tmp_path / "there").iterdir())}
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_a_complete_result_saved_often_is_one_file(tmp_path):
    result = dataclasses.replace(make(), diagnostics={"command": 'x --é \udcff \x1f"\\ \U0001f600'})
    assert len({result.save(tmp_path / "x.safetensors").read_bytes() for _ in range(20)}) == 1
    assert Attribution.load(tmp_path / "x.safetensors").diagnostics == result.diagnostics


@pytest.mark.parametrize("name", ["x.gif", "x.txt", "x.html.gz", "x", "x.", ".html", "x.safetensors.bak"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r" has (no|an unknown) ending; choose one of \.html, \.png, .*\.safetensors$"):
        make().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", FORMATS)
def test_a_place_that_cannot_be_written_is_refused(tmp_path, ending, monkeypatch):
    result = in_parts(make())
    with pytest.raises(InputError, match="does not exist; create it or choose another folder"):
        result.save(tmp_path / "no" / f"x{ending}")
    path = tmp_path / f"x{ending}"
    path.mkdir()
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        result.save(path)
    path.rmdir()
    path.write_text("what stood here before")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OutputError, match="could not be written"):
        result.save(path)
    assert path.read_text() == "what stood here before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
