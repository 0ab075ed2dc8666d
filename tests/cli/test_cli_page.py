"""The page that the command writes shows, in a browser without a network, the numbers that `--json` prints."""

import json
import sys

import pytest

from browser import open_file
from mambascope.cli import main
from mambascope.explanation import gallery
from page_contents import data_of
from small_checkpoint import make_checkpoint

TEXT = "When Mary & John went to the <store>"


@pytest.mark.browser
def test_page_and_json_agree(tmp_path, monkeypatch, capsys):
    checkpoint, page = make_checkpoint(tmp_path / "checkpoint"), tmp_path / "page.html"
    printed = {}
    for extra in (["--json"], ["--out", str(page)]):
        given = ["--model", str(checkpoint), "--method", "latim", *extra]
        monkeypatch.setattr(sys, "argv", ["mambascope", "explain", TEXT, *given])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        printed[extra[0]] = capsys.readouterr().out
    result = json.loads(printed["--json"])
    dom, messages = open_file(page)
    assert not messages
    rows = dom.rows()
    best = sorted(range(len(result["scores"])), key=lambda j: -result["scores"][j])[: len(rows)]
    assert len(rows) == 8
    assert [int(row["data-position"]) for row in rows] == best
    for row, source in zip(rows, best, strict=True):
        # the page scored every position in tiles, --json one row: the same sums in another order
        assert float(row["data-score"]) == pytest.approx(result["scores"][source], rel=1e-4)


def test_the_page_shows_heads_unasked_where_that_is_quick(run, tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "mamba2")
    words = ["explain", TEXT, "--model", checkpoint, "--method", "latim", "--out", tmp_path / "page.html"]
    galleries = lambda: data_of((tmp_path / "page.html").read_text("utf-8"))["gallery"]  # noqa: E731
    assert run(*words)[0] == 0
    assert [len(one["heads"]) for one in galleries()["mixers"]] == [4, 4]
    assert run(*words, "--words")[0] == 0
    assert galleries() is None, "words are not tokens"
    monkeypatch.setattr(gallery, "SECONDS", 0.0)
    assert run(*words)[0] == 0
    assert galleries() is None
    assert run(*words, "--heads")[0] == 0
    assert galleries() is not None
    assert run(*words, "--heads", "--generate", "2")[0] == 0
    page = data_of((tmp_path / "page.html").read_text("utf-8"))
    assert page["gallery"]["mixers"][0]["side"] == len(page["tokens"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--heads is a part of the page; add --out with a .html file"),
        (["--out", "scores.json"], "--heads is a part of the page; add --out with a .html file"),
        (["--out", "page.html", "--words"], "--heads shows single tokens; leave out --words and --span"),
    ],
)
def test_where_heads_are_not_shown(run, words, says):
    code, _, err = run("explain", TEXT, "--heads", *words)
    assert code == 2
    assert says in " ".join(err.split())


def test_pictures_have_no_heads_to_show(run, tmp_path):
    (tmp_path / "cat.png").write_bytes(b"")
    code, _, err = run("explain", tmp_path / "cat.png", "--image", "--heads", "--out", tmp_path / "page.html")
    assert code == 2
    assert "--heads is for texts" in " ".join(err.split())
