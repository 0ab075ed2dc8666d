"""What readers do with the page of a text: select, take together, keep a view in the address, save."""

import dataclasses
import json
import re
import zlib
from xml.etree import ElementTree

import pytest
import torch

from browser import open_file, with_script
from mambascope.attribution import Target
from mambascope.show import html_page
from show_results import HOSTILE, picture_result, result, with_removals

pytestmark = pytest.mark.browser

#: Scores are kept to 1 % of their row's largest; the top ones are exact.
ROUNDED = 0.01

WAIT = "const rest = () => new Promise((go) => setTimeout(go, 400));"
CAUGHT = """const urls = URL.createObjectURL;
const real = async (promise) => {  // the browser's own time runs ahead of work on other threads: give that some time
  let done = false;
  promise.finally(() => { done = true; });
  while (!done) {
    await new Promise((go) => setTimeout(go, 20));
    for (let spun = 0; spun < 2e6; spun++);
  }
  return promise;
};
const saved = async (id) => {
  const blob = await real(new Promise((found) => {
    URL.createObjectURL = (made) => { found(made); return urls.call(URL, made); };
    document.getElementById(id).click();
  }));
  const bytes = new Uint8Array(await real(blob.arrayBuffer()));
  return [blob.type, Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")];
};"""


@pytest.fixture
def told(tmp_path):
    """Run a script in a page and return what it returns."""

    def run(page, script, address=""):
        file = tmp_path / "page.html"
        file.write_text(with_script(page, f"{WAIT} {script}"), "utf-8")
        dom, messages = open_file(file, address)
        assert not messages
        return json.loads(next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"])

    return run


VIEW = """const view_ = () => ({
  method: document.getElementById("method").selectedIndex, layer: Number(document.getElementById("layer").value),
  target: Number(document.getElementById("sources").dataset.target), hash: location.hash,
  contrast: document.getElementById("contrast").value, title: document.getElementById("sources-title").textContent,
});"""


def test_the_address_names_the_view_and_opens_it_again(told):
    page = html_page(with_removals(result(signed=True)), result(layers=2, method="latim"))
    script = f"""{VIEW}
      const choose = (id, value) => {{
        document.getElementById(id).value = value;
        document.getElementById(id).dispatchEvent(new Event("change"));
        return rest();
      }};
      const first = view_();
      await choose("method", 1); await choose("layer", 2); await choose("contrast", "row");
      document.querySelector('#text [data-position="6"]').click(); await rest();
      return [first, view_()];"""
    first, moved = told(page, script)
    assert first["hash"] == ""
    assert moved["hash"] == "#method=2&layer=2&token=6&contrast=row"
    (again,) = told(page, f"{VIEW} return [view_()];", moved["hash"])
    assert again == moved
    back, changed = told(
        page,
        f"""{VIEW} await rest();
          const here = view_();
          location.hash = "#method=1&token=3"; await rest();
          return [here, view_()];""",
        moved["hash"],
    )
    assert back == again
    assert (changed["method"], changed["target"]) == (0, 3)


@pytest.mark.parametrize(
    "address",
    [
        "#method=9&layer=99&token=99",
        "#token=-1&rows=9,2&method=abc",
        "#rows=3&map=1,2&removed=1e9",
        "#<script>=1&layer=%zz",
    ],
)
def test_an_address_that_names_nothing_changes_nothing(told, address):
    page = html_page(with_removals(result(signed=True)))
    (plain,), (shown,) = (told(page, f"{VIEW} return [view_()];", where) for where in ("", address))
    assert shown | {"hash": ""} == plain


def test_a_picture_keeps_its_view_too(told):
    page = html_page(picture_result(), picture_result(method="latim-l1"))
    script = """
      document.getElementById("method").value = 1;
      document.getElementById("method").dispatchEvent(new Event("change")); await rest();
      return [location.hash];"""
    assert told(page, script) == ["#method=2"]


def test_rows_are_explained_together(told):
    shown = result(signed=True)
    script = f"""{VIEW}
      const range = document.createRange();
      const at = (j) => document.querySelector(`#text [data-position="${{j}}"]`).firstChild;
      range.setStart(at(4), 1); range.setEnd(at(7), 2);
      getSelection().addRange(range); await rest();
      const selected = document.getElementById("readout").textContent;
      const button = document.getElementById("explain-together");
      const offers = [button.hidden, button.textContent];
      button.click(); await rest();
      const rows = [...document.querySelectorAll("#sources tbody tr[data-position]")]
        .map(({{ dataset }}) => [Number(dataset.position), Number(dataset.score)]);
      const view = view_(), marked = document.querySelectorAll("#text .together").length;
      document.querySelector("#text [data-position='9']").focus();
      document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {{ key: "Escape", bubbles: true }}));
      await rest();
      return [selected, offers, rows, view, marked, view_(), document.querySelectorAll("#text .together").length];"""
    selected, offers, rows, view, marked, ended, left = told(html_page(shown), script)
    row = shown.row()
    found = float(re.search(r"≈? ?([−\d.e-]+);", selected)[1].replace("−", "-"))
    assert found == pytest.approx(float(row[4:8].sum()), abs=4 * ROUNDED * float(row.abs().max()))
    assert "(4 to 7)" in selected
    assert offers == [False, "Explain these 4 together"]
    together = shown.matrix()[4:8].sum(dim=0)
    bound = ROUNDED * float(shown.matrix()[4:8].abs().max(dim=1).values.sum())
    assert [position for position, _ in rows[:2]] == together.abs().argsort(descending=True)[:2].tolist()
    for position, score in rows:
        assert score == pytest.approx(float(together[position]), abs=bound)
    assert view["hash"] == "#token=13&rows=4,7"
    assert marked == 4
    assert "added up" in view["title"]
    assert (ended["hash"], left) == ("", 0)
    (again,) = told(html_page(shown), f"{VIEW} await rest(); return [view_()];", "#rows=4,7")
    assert again["title"] == view["title"]


def test_generated_tokens_show_how_likely_they_were(told):
    made = result()
    rows = tuple(
        Target(
            position,
            made.tokens[position],
            ((made.tokens[position + 1], 0.25 * (k + 1)),),
            "logit",
            1.0,
            generated=position + 1,
        )
        for k, position in enumerate(range(10, 13))
    )
    shown = dataclasses.replace(
        made, scores=made.scores[:, 10:13], axes={**made.axes, "target": (10, 11, 12)}, target=rows[-1], targets=rows
    )
    script = (
        """return [...document.querySelectorAll("#text .token")].map((one) => [one.title, one.style.borderTopWidth]);"""
    )
    found = told(html_page(shown), script)
    assert [title for title, _ in found[11:]] == [f"generated, with a probability of {p}.0 %" for p in (25, 50, 75)]
    assert {width for _, width in found[11:]} == {"3px"}
    assert not any(title or width for title, width in found[:11])


def test_every_view_is_saved_in_every_form(told):
    shown = with_path(tokens=HOSTILE)
    script = f"""{CAUGHT}
      const found = [];
      const views = ["text", "map", "layers", "path"], kinds = ["png", "svg", "pdf"];
      const ids = views.flatMap((view) => kinds.map((kind) => `${{view}}-save-${{kind}}`));
      for (const id of ids) found.push([id, ...await saved(id)]);
      return found;"""
    for name, kind, data in told(html_page(shown), script):
        data = bytes.fromhex(data)
        if name.endswith("png"):
            assert data.startswith(b"\x89PNG")
        elif name.endswith("svg"):
            assert ElementTree.fromstring(data.decode()).tag.endswith("svg")
        else:
            assert kind == "application/pdf"
            assert_is_pdf_of_one_picture(data)


def assert_is_pdf_of_one_picture(data):
    """Every object is where the table says, and the picture has as many dots as it claims."""
    assert data.startswith(b"%PDF-1.4")
    table = int(re.search(rb"startxref\n(\d+)\n%%EOF", data)[1])
    assert data[table:].startswith(b"xref\n0 6\n")
    places = [int(place) for place in re.findall(rb"(\d{10}) 00000 n", data[table:])]
    assert [data[place:].split(b"\n")[0] for place in places] == [f"{k} 0 obj".encode() for k in range(1, 6)]
    width, height, length = (
        int(re.search(rb"/%s (\d+)" % name, data[places[4] :])[1]) for name in (b"Width", b"Height", b"Length")
    )
    start = data.index(b"stream\n", places[4]) + len(b"stream\n")
    dots = zlib.decompress(data[start : start + length])
    assert len(dots) == 3 * width * height
    assert len(set(dots)) > 10, "something is drawn"


@pytest.mark.parametrize("shown", [result(HOSTILE, signed=True), picture_result(single=True)], ids=["text", "picture"])
def test_the_row_is_saved_as_numbers(told, shown):
    script = f"""{CAUGHT}
      return [await saved("row-csv"), await saved("row-json")];"""
    (_, csv), (_, found) = told(html_page(shown), script)
    found = json.loads(bytes.fromhex(found).decode())
    row = shown.row()
    assert found["method"] == shown.method
    assert len(found["sources"]) == len(row)
    tops = {source.position for source in shown.top(8)}
    for one in found["sources"]:
        assert one["score"] == pytest.approx(float(row[one["position"]]), abs=ROUNDED * float(row.abs().max()))
        if one["exact"]:
            assert one["score"] == pytest.approx(float(row[one["position"]]), rel=1e-6)
    assert tops <= {one["position"] for one in found["sources"] if one["exact"]}
    lines = bytes.fromhex(csv).decode().split("\r\n")
    assert lines[0] == "position,token,score,exact"
    assert torch.equal(torch.tensor([one["position"] for one in found["sources"]]), torch.arange(len(row)))


def with_path(**options):
    """Return a result of ALTI-Logit whose layers and terms add up to the number."""
    shown = result(signed=True, method="alti-logit", **options)
    last = len(shown.tokens) - 1
    rows = shown.scores.double().sum(dim=(0, 2))
    terms = {"residual": 0.5, "bias": -0.25, "other": 0.0, "constant": 0.125}
    each = [
        {"terms": {"tokens": float(row)} | terms, "value": float(row) + 0.375, "conservation_error": 0.0}
        for row in rows
    ]
    targets = tuple(
        Target(j, shown.tokens[j], asked=f"logit {j}", value=each[j]["value"]) for j in shown.axes["target"]
    )
    lens = {
        "position": last, "layers": [0, 2, 4, None], "explained": [0.1, 0.2, 0.3, 0.4], "rank": [9, 5, 2, 1],
        "error": 1e-7,
        "likeliest": [[["<b>", 0.5], ["x", 0.25]]] * 3 + [[[" Mary", 0.4]]],
    }  # fmt: skip
    diagnostics = {**shown.diagnostics, **each[-1], "per_target": each, "lens": [lens]}
    return dataclasses.replace(shown, over_layers="sum", targets=targets, target=targets[-1], diagnostics=diagnostics)


PATH = """const path = () => ({
  says: document.getElementById("path-says").textContent,
  layers: [...document.querySelectorAll(".path .stop title")].map((one) => one.textContent),
  terms: [...document.querySelectorAll(".path .term title")].map((one) => one.textContent),
  number: document.querySelector(".path .number")?.textContent,
  chosen: [...document.querySelectorAll(".path .chosen text")].map((one) => one.textContent),
  lens: document.getElementById("lens").hidden ? null
    : [...document.querySelectorAll("#lens tbody tr")]
      .map((row) => [...row.cells].slice(0, 3).map((cell) => cell.textContent)),
});"""


def test_the_path_shows_every_layer_and_term_and_the_number_that_they_add_up_to(told):
    shown, other = with_path(), result(method="latim")
    script = f"""{PATH}
      const first = path();
      document.querySelector(".path .stop").dispatchEvent(new MouseEvent("click", {{ bubbles: true }})); await rest();
      const isolated = [path(), document.getElementById("layer").value];
      document.querySelector('#text [data-position="4"]').click(); await rest();
      const fourth = path();
      const choose = document.getElementById("method");
      choose.value = 1; choose.dispatchEvent(new Event("change")); await rest();
      return [first, isolated, fourth, path()];"""
    first, (isolated, block), fourth, latim = told(html_page(shown, other), script)
    sums = shown.scores[:, -1].double().sum(dim=1)
    number = lambda value: f"{value:.4g}".replace("-", "\u2212")  # noqa: E731
    assert first["layers"] == [f"layer {2 * k}: {number(float(total))}" for k, total in enumerate(sums)]
    assert [term.rpartition(": ")[2] for term in first["terms"]] == ["0.5", "\u22120.25", "0", "0.125"]
    assert first["number"] == number(float(sums.sum()) + 0.375)
    assert first["chosen"] == []
    assert first["lens"] == [
        ["embeddings", "‘<b>’ 50.0 %", "10.0 % (#9)"],
        ["after layer 0", "‘<b>’ 50.0 %", "20.0 % (#5)"],
        ["after layer 2", "‘<b>’ 50.0 %", "30.0 % (#2)"],
        ["after layer 4", "‘ Mary’ 40.0 %", "40.0 % (#1)"],
    ]
    assert isolated["chosen"] == ["0"]
    assert block == "1"
    assert fourth["lens"] is None, "the lens was read at another position"
    assert fourth["number"] == number(float(shown.scores[:, 4].double().sum()) + 0.375)
    assert latim["says"] == "latim has no parts per layer that add up; choose alti-logit to see the path."
    assert latim["layers"] == []


def test_a_page_without_path_and_lens_has_no_section_for_them(told):
    page = html_page(result())
    assert told(page, """return [document.getElementById("path-title"), document.getElementById("removal")];""") == [
        None,
        None,
    ]
    assert "offerRemoval(entry" not in page
    assert "function showPath" not in page


@pytest.mark.parametrize("measured", [False, True])
def test_a_page_without_measurements_says_how_to_get_them(told, measured):
    shown = with_removals(result()) if measured else result()
    (says,) = told(html_page(shown), """return [document.getElementById("evidence").textContent];""")
    assert ("For what is lost without the top sources add --verify 8." in says) == (not measured)
