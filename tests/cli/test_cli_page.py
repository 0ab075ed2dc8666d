"""The page that the command writes shows, in a browser without a network, the numbers that `--json` prints."""

import json
import sys

import pytest

from browser import open_file
from mambascope.cli import main
from small_checkpoint import make_checkpoint

pytestmark = pytest.mark.browser
TEXT = "When Mary & John went to the <store>"


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
