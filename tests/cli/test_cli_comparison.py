"""`mambascope compare` of texts."""

import io
import json
import sys

import pytest

from picture_checkpoints import saved, vit
from small_checkpoint import make_checkpoint

TEXT = "When Mary and John went to the store, John gave a drink to"
OTHER = "When Mary and Anna went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    return ",".join(str(make_checkpoint(folder / family, family)) for family in ("mamba", "mamba2"))


@pytest.mark.parametrize("suffix", ["html", "png", "pdf", "svg", "json"])
@pytest.mark.parametrize("other", [(), ("--other", OTHER)])
def test_texts_are_compared_in_every_format(run, both, tmp_path, suffix, other):
    path = tmp_path / f"x.{suffix}"
    code, out, err = run("compare", TEXT, "--models", both, *other, "--out", path)
    assert (code, err) == (0, "")
    starts = {"html": b"<!", "png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "json": b"{"}
    assert path.read_bytes().startswith(starts[suffix])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for number, (model, method) in enumerate(
        [(model, method) for model in ("mamba", "mamba2") for method in ("mamba-lrp", "alti-logit")], start=1
    ):
        assert f"{number}  {method} · {model}\n" in out
    assert ("changed most" in out) is bool(other)
    assert ("furthest apart" in out) is not other
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_a_comparison_says_what_explain_says(run, both):
    asked = ("--target", " Mary", "--position", "-2")
    code, out, err = run("compare", TEXT, "--models", both, "--methods", "mamba-lrp,knockout", *asked, "--json")
    assert (code, err) == (0, "")
    assert out.isascii(), "a terminal of any encoding prints it"
    found = json.loads(out)
    assert found["texts"] == [TEXT]
    assert [(row["model"], row["method"]) for row in found["rows"]] == [
        (model, method) for model in ("mamba", "mamba2") for method in ("mamba-lrp", "knockout")
    ]
    for row, name in zip(found["rows"][::2], both.split(","), strict=True):
        one = json.loads(run("explain", TEXT, "--model", name, "--method", "mamba-lrp", *asked, "--json")[1])
        assert row["scores"][0] == pytest.approx(one["scores"], rel=1e-4, abs=1e-6)
        assert row["values"] == [pytest.approx(one["target"]["value"], rel=1e-5)]


@pytest.mark.parametrize("part", ["stream", "mixer", "state"])
def test_parts_of_one_text_are_put_into_the_other(run, both, tmp_path, part):
    page, other = tmp_path / "x.html", TEXT.replace("When Mary", "When John")
    asked = ("compare", TEXT, "--models", both, "--methods", "mamba-lrp", "--other", other, "--patch-in", part)
    code, out, err = run(*asked, "--out", page)
    assert (code, err) == (0, "")
    assert out.count("patching · mamba") == 2
    assert out.count("% brought back") == 2
    assert page.read_text("utf-8").count("Patching · mamba") == 2
    found = json.loads(run(*asked, "--json")[1])["patched"]
    assert [one["diagnostics"]["put_in"] for one in found] == [part, part]
    assert all(len(one["layers"]) == 2 for one in found)


def test_a_text_may_come_from_standard_input(run, both, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    code, out, err = run("compare", "-", "--models", both, "--other", OTHER, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["texts"] == [TEXT, OTHER]


def test_comparisons_of_texts_that_cannot_be_made_are_refused(run, both, tmp_path):
    picture_model = tmp_path / "vit"
    saved(vit(), picture_model)
    use = ("--models", both)
    cases = {
        (TEXT, "--models", ","): "--models is empty",
        (TEXT, *use, "--methods", ""): "--methods is empty",
        (TEXT, *use, "--methods", "magic"): "unknown method 'magic'",
        (TEXT, *use, "--methods", "transformer-attribution"): "none of the methods transformer-attribution can explain",
        (TEXT, *use, "--methods", "latim", "--target", " Mary"): "whatever is predicted there",
        (TEXT, *use, "--target", "no such token"): "is 9 tokens",
        (TEXT, *use, "--position", "99"): "position 99 does not exist",
        (TEXT, *use, "--out", tmp_path / "x.csv"): "choose one of",
        (TEXT, *use, "--other", ""): "the text is empty",
        (TEXT, *use, "--patch-in", "state"): "--patch-in state puts parts of one text into another",
        (TEXT, *use, "--other", "When Mary", "--patch-in", "state"): "both texts must have as many tokens",
        (TEXT, *use, "--patch", "1,2"): "--patch is for pictures",
        (TEXT, *use, "--image-size", "32"): "--image-size 32 is for",
        (TEXT, *use, "--text", "--image"): "contradict each other",
        ("absent.png", *use): "looks like the path of a picture but does not exist",
        (TEXT, "--models", picture_model): "reads pictures, not the text",
    }
    for arguments, words in cases.items():
        code, out, err = run("compare", *arguments)
        assert code == 2, (arguments, err)
        assert words in err, (arguments, err)
        assert err.count("\n") == 1, err
        assert not out
