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
CAUGHT = """const caught = [], urls = URL.createObjectURL;
URL.createObjectURL = (blob) => { caught.push(blob); return urls.call(URL, blob); };
const last = async () => {
  await rest();
  const bytes = new Uint8Array(await caught.at(-1).arrayBuffer());
  return [caught.at(-1).type, Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")];
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
    shown = result(HOSTILE, signed=True)
    script = f"""{CAUGHT}
      const saved = [];
      const ids = ["text", "map"].flatMap((view) => ["png", "svg", "pdf"].map((kind) => `${{view}}-save-${{kind}}`));
      for (const id of ids) {{
        document.getElementById(id).click(); await rest(); await rest(); saved.push([id, ...await last()]);
      }}
      return saved;"""
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
      document.getElementById("row-csv").click(); const csv = await last();
      document.getElementById("row-json").click(); return [csv, await last()];"""
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
