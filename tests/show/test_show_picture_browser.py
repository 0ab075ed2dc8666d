"""The page of a picture in a real browser without a network: numbers, colours, keys, clicks and addresses."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from browser import open_file, with_script
from mambascope.grid import Grid
from mambascope.show import html_page, notebook_frame
from mambascope.show.overlay import laid_over, pale, upsampled
from page_contents import one_row
from show_results import HOSTILE, PATCHES, picture_result

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(tmp_path):
    """Open a page's text in the browser and return its DOM and console messages."""

    def open_page(page, address="", script=None):
        file = tmp_path / "page.html"
        file.write_text(page if script is None else with_script(page, script), "utf-8")
        return open_file(file, address)

    return open_page


def told(dom):
    body = next(attrs for tag, attrs in dom.elements if tag == "body")
    return json.loads(body["data-told"])


def table(dom):
    return [(int(row["data-position"]), float(row["data-score"])) for row in dom.rows()]


def best(attribution, position=None, layer=None):
    top = attribution.top(8, position, layer)
    return [(source.position, pytest.approx(source.score, rel=1e-5)) for source in top]


LARGE_CLASS_TOKEN = picture_result()
LARGE_CLASS_TOKEN.scores[..., 12] = 1000
CASES = {
    "plain": picture_result(),
    "signed, one target": picture_result(signed=True, single=True),
    "no class token": picture_result(Grid(3, 5, None, 4, 4)),
    "overlapping patches": picture_result(Grid(5, 5, 25, 8, 4), layers=1),
    "one patch": picture_result(Grid(1, 1, None, 8, 8), layers=1),
    "hostile": picture_result(names=HOSTILE[:3], picture=HOSTILE[1]),
    "a class token of another size": LARGE_CLASS_TOKEN,
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_shows_the_numbers_of_the_result(opened, case):
    attribution = CASES[case]
    dom, messages = opened(html_page(attribution))
    assert not messages
    root = next(attrs for tag, attrs in dom.elements if tag == "html")
    assert "data-hostile" not in root
    assert next(attrs for tag, attrs in dom.elements if tag == "body").get("data-ready") == "true"
    assert table(dom) == best(attribution)
    masses = [float(attrs["data-mass"]) for _, attrs in dom.elements if "data-mass" in attrs]
    assert masses == pytest.approx(attribution.layer_mass().tolist(), rel=1e-5)
    assert float(dom.by_id("view")["data-largest"]) == pytest.approx(float(attribution.picture().abs().max()), rel=1e-5)
    classes = [attrs for tag, attrs in dom.elements if tag == "tr" and "data-score" not in attrs]
    shares = [float(attrs["data-share"]) for attrs in classes if "data-share" in attrs]
    assert shares == [share for _, share in attribution.target.next_tokens]


@pytest.mark.parametrize("grid", [PATCHES, Grid(1, 9, None, 8, 8), Grid(1, 8, None, 8, 8)])
def test_the_sources_that_are_not_listed_are_counted(opened, grid):
    """All tokens are sources, the class token among them; eight are listed."""
    script = """return [...document.querySelectorAll("#sources .rest td")].map((cell) => cell.textContent);"""
    cells = told(opened(html_page(picture_result(grid, focus=3)), script=script)[0])
    left = grid.tokens - 8
    assert [cell for cell in cells if "other" in cell] == ([f"{left} other{'s' * (left > 1)}"] if left else [])


def test_an_address_names_a_view(opened):
    attribution = picture_result()
    other = dataclasses.replace(
        picture_result(signed=True, layers=2), method="hidden-attention", image=attribution.image
    )
    page = html_page(attribution, other)
    dom, _ = opened(page, "#method=2&layer=2&patch=3,1")
    position = attribution.grid.position(3, 1)
    assert dom.by_id("view")["data-target"] == str(position)
    assert table(dom) == best(other, position, layer=2)
    assert dom.texts["readout"].startswith("Patch 3,1 drew from ")
    dom, messages = opened(page, "#method=9&layer=99&patch=30,1&scores=pixels")
    assert not messages
    assert table(dom) == best(attribution), "a name of nothing changes nothing"


def test_clicks_and_keys_explain_patches(opened):
    attribution = picture_result()
    script = """
      const view = document.getElementById("view"), targets = [];
      const seen = () => targets.push(Number(view.dataset.target));
      const key = (name) => view.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
      const box = view.getBoundingClientRect();
      const click = (row, column) => view.dispatchEvent(new MouseEvent("click", {
        clientX: box.left + box.width * (column + 0.5) / 6, clientY: box.top + box.height * (row + 0.5) / 4 }));
      click(3, 2); seen();
      key("ArrowRight"); key("ArrowRight"); seen(); key("Enter"); seen();
      key("ArrowUp"); key(" "); seen();
      key("Escape"); seen();
      document.querySelector("#sources button").click(); seen();
      document.getElementById("class-token").click(); seen();
      return { targets, readout: document.getElementById("readout").textContent };
    """
    at = attribution.grid.position
    first = attribution.top(1)[0].position
    found = told(opened(html_page(attribution), script=script)[0])
    assert found["targets"] == [at(3, 2), at(3, 2), at(3, 3), at(2, 3), 12, first, 12]


def test_a_result_of_one_target_reads_scores_by_key_and_explains_nothing_else(opened):
    attribution = one_row(picture_result(signed=True))
    script = """
      const view = document.getElementById("view");
      const key = (name) => view.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
      key("ArrowUp"); key("ArrowUp"); key("Enter");
      return [Number(view.dataset.target), document.getElementById("readout").textContent];
    """
    target, readout = told(opened(html_page(attribution), script=script)[0])
    assert target == 12
    score = float(attribution.picture()[1, 3])
    assert readout.startswith("The class token drew from patch 1,3: ")
    shown = float(readout.split(": ")[1].split(",")[0].removeprefix("≈ ").replace("\u2212", "-"))
    assert shown == pytest.approx(score, abs=0.02 * float(attribution.picture().abs().max()))


def test_the_slider_and_the_methods_switch(opened):
    attribution = picture_result()
    script = """
      const set = async (id, value, event) => {
        document.getElementById(id).value = value;
        document.getElementById(id).dispatchEvent(new Event(event));
        await new Promise((go) => setTimeout(go, 300));
      };
      const rows = () => [...document.querySelectorAll("#sources tr[data-score]")];
      const scores = () => rows().map((row) => Number(row.dataset.score));
      const seen = [scores()];
      await set("layer", 2, "input"); seen.push(scores());
      await set("method", 1, "change"); seen.push(scores());
      await set("method", 0, "change"); seen.push(scores());
      return seen;
    """
    other = one_row(attribution)
    seen = told(opened(html_page(attribution, other), script=script)[0])
    expected = ((attribution, None), (attribution, 2), (other, None), (attribution, None))
    for found, (one, layer) in zip(seen, expected, strict=True):
        assert found == pytest.approx([source.score for source in one.top(8, layer=layer)], rel=1e-5)


@pytest.mark.parametrize("grid", [Grid(4, 6, 12, 8, 8), Grid(7, 7, 0, 16, 8)], ids=["side by side", "overlapping"])
@pytest.mark.parametrize("kind", ["unsigned", "signed", "a class token of another size"])
def test_the_colours_are_those_of_the_figure(opened, grid, kind):
    """To what scores rounded to 1 % and colours interpolated in steps allow, and a picture kept as JPEG or resized."""
    signed = kind == "signed"
    attribution = picture_result(grid, signed=signed, image=torch.full((*grid.size, 3), 200, dtype=torch.uint8))
    if kind == "a class token of another size":
        attribution.scores[..., grid.class_position] = 1000
    script = """
      const view = document.getElementById("view"), { width, height } = view;
      const { data } = view.getContext("2d").getImageData(0, 0, width, height);
      const points = [];
      for (let y = 5; y < height; y += 40) {
        for (let x = 5; x < width; x += 40) {
          const at = 4 * (y * width + x);
          points.push([y, x, ...data.slice(at, at + 3)]);
        }
      }
      return { width, height, points };
    """
    found = told(opened(html_page(attribution), script=script)[0])
    height, width = found["height"], found["width"]
    scores = attribution.picture()
    ground = np.broadcast_to(pale(attribution.image)[0, 0], (height, width, 3))
    expected = laid_over(ground, upsampled(scores, grid, height, width), float(scores.abs().max()), signed)
    assert len(found["points"]) > 50
    for y, x, *colour in found["points"]:
        assert np.allclose(np.array(colour) / 255, expected[y, x], atol=0.03), (y, x)


def test_pixels_can_be_shown_where_a_method_goes_down_to_them(opened):
    attribution = picture_result(single=True)
    height, width = attribution.grid.size
    pixels = torch.randn(height + 3, width, generator=torch.Generator().manual_seed(0))
    attribution = dataclasses.replace(attribution, pixels=pixels)
    dom, messages = opened(html_page(attribution), "#scores=pixels")
    assert not messages
    largest = float(pixels[: attribution.grid.size[0]].abs().max())
    assert float(dom.by_id("view")["data-largest"]) == pytest.approx(largest, rel=1e-6)
    assert "hidden" in opened(html_page(picture_result()))[0].by_id("grain-choice")


def test_the_notebook_frame_opens(opened):
    _, messages = opened("<!doctype html><meta charset=utf-8>" + notebook_frame(picture_result()))
    assert not messages
