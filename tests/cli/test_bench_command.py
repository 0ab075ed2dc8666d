"""`mambascope bench` as it is typed."""

import contextlib
import json

import pytest

from mambascope.bench import measuring, settings
from mambascope.bench.cases import CASES


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(settings.SIZES, "tiny", (2, 32))
    monkeypatch.setitem(settings.VOCABULARY, "tiny", 50)
    monkeypatch.setitem(measuring.PRODUCT, "cpu", 64)
    monkeypatch.setattr("mambascope.bench.run.CHECKED", (8, 2, 16))
    monkeypatch.setattr("mambascope.bench.run.fresh_processes", lambda: contextlib.nullcontext(lambda *_: 7.0))


def test_it_prints_ratios_and_writes_a_page(run, tmp_path):
    code, out, err = run("bench", "latim", "--length", 9, "--repeats", 1, "--out", tmp_path / "speed.md")
    assert (code, err) == (0, "")
    assert "Mamba-2, tiny (2 layers, 32 wide)" in out
    assert out.count("x floor: a matrix product as large") == out.count("x a plain loop over pairs") == 2
    written = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert f"Made by `mambascope bench latim --length 9 --repeats 1 --out {tmp_path}/speed.md`" in written
    assert "| latim: LaTIM of one layer, all pairs | 9 | floor: a matrix product as large |" in written


def test_json_is_one_object(run, tmp_path):
    code, out, _ = run("bench", "rollout", "--length", "4,9", "--repeats", 1, "--json", "--out", tmp_path / "a.json")
    found = json.loads(out)
    assert code == 0
    assert found == json.loads((tmp_path / "a.json").read_text())
    assert found["machine"]["device"] == "cpu"
    assert len(found["rows"]) == 8  # two families, two lengths, two things beside rollout
    assert all(row["mib"] == 7 and row["error"] < 1e-5 for row in found["rows"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["latims"], "unknown NAME 'latims'; choose one of capture, hidden-attention"),
        (["--size", "2b"], "unknown --size '2b'; choose one of tiny, 130m, 370m, 1.4b"),
        (["--length", "1"], "--length must be a whole number of at least 2 tokens, found '1'"),
        (["--length", "8,x"], "--length must be a whole number of at least 2 tokens, found 'x'"),
        (["--repeats", "0"], "--repeats must be 1 or more, found 0"),
        (["--device", "nowhere"], "--device nowhere cannot be used here"),
        (["--device", "meta"], "--device meta"),
        (["--out", "a.html"], "--out"),
    ],
)
def test_what_makes_no_sense_is_refused(run, words, says):
    code, out, err = run("bench", *words)
    assert (code, out) == (2, "")
    assert says in err


def test_the_help_names_every_case(run):
    out = " ".join(run("bench", "--help")[1].replace("│", "").split())
    assert all(name in out for name in CASES)
