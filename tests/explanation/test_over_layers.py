"""A result whose layers add up is their sum wherever it is read: saved and loaded, printed, drawn, on a page."""

import base64
import dataclasses
import io
import json
import zlib

import numpy as np
import pytest
import torch
from rich.console import Console

import mambascope
from browser import open_file
from mambascope import Attribution
from mambascope.show import html_page, print_attribution
from mambascope.show.screen import number
from page_contents import Elements, data_of, unpacked
from rounding import assert_equal_to_rounding
from show_results import picture_result, result
from small_checkpoint import make_checkpoint

TEXT = "When Mary and John went to the store"
LAYERS = 3


@pytest.fixture(scope="module", params=["explained", "every position", "picture"])
def summed(request, tmp_path_factory):
    """ALTI-Logit of a model, whose layers' scores make a logit only together; and made-up results like it."""
    if request.param == "explained":
        loaded = mambascope.load(make_checkpoint(tmp_path_factory.mktemp("model"), num_hidden_layers=LAYERS))
        return mambascope.explain(*loaded, TEXT, method="alti-logit")
    made = (result if request.param == "every position" else picture_result)(layers=LAYERS, signed=True)
    return dataclasses.replace(made, over_layers="sum")


def test_the_layers_add_up(summed):
    assert summed.over_layers == "sum"
    assert len(summed.axes["layer"]) == LAYERS
    assert_equal_to_rounding(summed.matrix(), summed.scores.sum(dim=0))
    if summed.method == "alti-logit":
        terms = summed.diagnostics["terms"]
        assert float(summed.row().sum()) == pytest.approx(terms["tokens"], rel=1e-4, abs=1e-5)
        assert sum(terms.values()) == pytest.approx(summed.target.value, rel=1e-4, abs=1e-5)


def test_so_they_do_once_saved_and_loaded(summed, tmp_path):
    loaded = Attribution.load(summed.save(tmp_path / "result.safetensors"))
    assert loaded.over_layers == "sum"
    assert_equal_to_rounding(loaded.matrix(), summed.scores.sum(dim=0))
    assert loaded.top(3) == summed.top(3)
    written = json.loads(summed.save(tmp_path / "result.json").read_text("utf-8"))
    assert written["over_layers"] == "sum"
    assert written["scores"] == pytest.approx(
        summed.scores.sum(dim=0)[summed.axes["target"].index(summed.target.position)].tolist(), rel=1e-5, abs=1e-6
    )


def test_so_they_do_in_the_data_of_the_page(summed):
    """Block 0 is all layers: the exact scores of each row's largest sources, and the sums of the rows' sizes."""
    page = html_page(summed)
    blocks = {attrs["id"]: text for _, attrs, text in Elements(page).raw if "id" in attrs}
    assert data_of(page)["methods"][0]["over"] == "sum"
    expected = summed.scores.sum(dim=0)
    targets, sources = expected.shape
    totals = np.frombuffer(zlib.decompress(base64.b64decode(blocks["totals-0"])), "<f4").reshape(1 + LAYERS, targets)
    assert totals[0] == pytest.approx(expected.abs().sum(dim=1).numpy(), rel=1e-5)
    causal = data_of(page)["methods"][0]["causal"]
    lengths = [position + 1 if causal else sources for position in summed.axes["target"]]
    *_, exact = unpacked(blocks["block-0-0"], lengths)
    patches = expected.clone()
    if summed.grid is not None:
        patches[:, summed.grid.class_position] = 0  # packed apart
    assert np.abs(exact[:, 0]) == pytest.approx(patches.abs().amax(dim=1).numpy(), rel=1e-5)


@pytest.mark.browser
def test_so_they_do_on_the_page(summed, tmp_path):
    (tmp_path / "page.html").write_text(html_page(summed), "utf-8")
    dom, messages = open_file(tmp_path / "page.html")
    assert not messages
    row = summed.scores.sum(dim=0)[summed.axes["target"].index(summed.target.position)]
    shown = {int(row["data-position"]): float(row["data-score"]) for row in dom.rows()}
    assert shown == {position: pytest.approx(float(row[position]), rel=1e-5) for position in shown}
    assert set(shown) == set(row.abs().topk(len(shown)).indices.tolist())
    said = dom.texts["text-legend"] if summed.grid is None else dom.by_id("layer")["aria-valuetext"]
    assert f"sum of {LAYERS} layers" in said


def test_so_they_do_in_the_terminal_and_in_figures(summed):
    stream = io.StringIO()
    print_attribution(summed, Console(file=stream, width=100))
    row = summed.scores.sum(dim=0)[summed.axes["target"].index(summed.target.position)]
    for position in row.abs().topk(3).indices.tolist():
        assert number(float(row[position])) in stream.getvalue()
    sheet = summed.plot()
    assert any(f"sum of {LAYERS} layers" in axes.get_title(loc="left") for axes in sheet.get_axes())
    if len(summed.axes["target"]) > 1 and summed.grid is None:
        drawn = sheet.get_axes()[0].images[0].get_array()
        assert_equal_to_rounding(torch.tensor(np.asarray(drawn)), summed.scores.sum(dim=0))
    elif summed.grid is None:
        widths = [bar.get_width() for bar in sheet.get_axes()[0].patches]
        assert widths == pytest.approx(row.tolist(), rel=1e-5, abs=1e-6)
