"""The gallery of heads in a real browser: as many maps as heads, sorted, enlarged, read cell by cell."""

import dataclasses
import json

import pytest

from browser import open_file, with_script
from mambascope.show import html_page
from show_results import HOSTILE, made_gallery, result

pytestmark = pytest.mark.browser

HELP = """
  const byName = (id) => document.getElementById(id), wait = () => new Promise((go) => setTimeout(go, 150));
  const change = async (id, value) => {
    byName(id).value = value;
    byName(id).dispatchEvent(new Event("change"));
    await wait();
  };
  const buttons = () => [...document.querySelectorAll("#heads button")];
  const numbers = () => buttons().map((one) => Number(one.dataset.head));
  const spansOf = (one) => [...one.querySelectorAll("span")].map((span) => span.textContent);
  const words = () => buttons().map(spansOf);
  const press = (key) => byName("head-map").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  for (let k = 0; k < 100 && !buttons().length; k++) await wait();
"""


@pytest.fixture
def told(tmp_path):
    """Open a page and return what a script told, and the page's DOM; the browser must have said nothing."""

    def run(page, script, *flags):
        file = tmp_path / "page.html"
        file.write_text(with_script(page, HELP + script), "utf-8")
        dom, messages = open_file(file, flags=flags)
        assert not messages
        return json.loads(next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"]), dom

    return run


def test_a_map_for_every_head_with_its_label(told):
    page = html_page(result(), gallery=made_gallery())
    (shown, options), _ = told(
        page, """return [words(), [...byName("heads-layer").options].map((one) => one.textContent)];"""
    )
    assert shown == [
        ["head 0", "separator", "40.0 %, lift 9.0", "distance 12.0"],
        ["head 1", "first", "45.0 %, lift 9.0", "distance 11.0"],
        ["head 2", "induction", "50.0 %, lift 9.0", "distance 10.0"],
        ["head 3", "–", "", "distance 9.0"],
        ["head 4", "local", "", "memory 8.0"],
        ["head 5", "diffuse", "", "distance 7.0"],
    ]
    assert options == ["0 scan", "4 scan", "4 attention"]


def test_the_pictures_are_the_maps(told):
    """A cell has a colour where the map has weight, and none in the future; the strongest is the darkest."""
    script = """const canvas = buttons()[0].querySelector("canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, 14, 14);
      const red = (i, j) => data[4 * (14 * i + j)];
      return [canvas.width, red(0, 0), red(13, 13), red(13, 12), red(13, 0), red(0, 13)];"""
    (width, own, last, before, far, future), _ = told(html_page(result(), gallery=made_gallery()), script)
    assert width == 14
    assert own < last < before < far <= future


def test_sorting_changes_the_order(told):
    (number, label, distance, share), _ = told(
        html_page(result(), gallery=made_gallery()),
        """const found = [numbers()];
           for (const order of ["label", "distance", "share"]) {
             await change("heads-order", order);
             found.push(numbers());
           }
           return found;""",
    )
    assert number == [0, 1, 2, 3, 4, 5]
    assert label == [1, 2, 0, 4, 5, 3], "first, induction, separator, local, diffuse, none"
    assert distance == [5, 4, 3, 2, 1, 0]
    assert share == [2, 1, 0, 3, 4, 5]


def test_a_click_enlarges_a_map_which_the_keyboard_and_the_pointer_read(told):
    script = """
      await change("heads-order", "share");
      const before = byName("head-detail").hidden;
      buttons()[0].click(); await wait();
      const open = byName("head-detail").hidden, pressed = buttons().map((one) => one.getAttribute("aria-pressed"));
      const says = byName("head-says").textContent, all = byName("head-shares").textContent;
      press("ArrowUp"); const last = byName("head-readout").textContent;
      press("ArrowLeft"); press("ArrowUp"); const moved = byName("head-readout").textContent;
      const map = byName("head-map"), box = map.getBoundingClientRect();
      const { left, top, cell } = headView, far = (at) => (at + 0.5) * cell * box.width / headView.width;
      const point = (row, column) => map.dispatchEvent(new PointerEvent("pointermove", { bubbles: true,
        clientX: box.left + left * box.width / headView.width + far(column),
        clientY: box.top + top * box.width / headView.width + far(row) }));
      point(3, 1); const pointed = byName("head-readout").textContent;
      point(1, 3); const future = byName("head-readout").textContent;
      buttons()[0].click();
      return [before, open, pressed, says, all, last, moved, pointed, future, byName("head-detail").hidden];"""
    gallery = made_gallery()
    found, _ = told(html_page(result(), gallery=gallery), script)
    before, opened, pressed, says, every, last, moved, pointed, future, closed = found
    assert (before, opened, closed) == (True, False, True)
    assert pressed == ["true"] + ["false"] * 5
    assert says.startswith("Layer 0, head 2: induction: 50.0 % of its weight is on the place after")
    assert "separator 10.0 % (lift 1.0)" in every
    maps = gallery.mixers[0].maps[2]
    value = lambda words: float(words.partition("≈ ")[2].partition(" %")[0]) / 100  # noqa: E731
    assert last.startswith("‘ to’ (13) gives ‘ to’ (13) ≈ ")
    assert moved.startswith("‘ drink’ (12) gives ‘ drink’ (12) ≈ ")
    assert pointed.startswith("‘ John’ (3) gives ‘ Mary’ (1) ≈ ")
    for words, at in ((last, (13, 13)), (moved, (12, 12)), (pointed, (3, 1))):
        assert value(words) == pytest.approx(float(maps[at]), abs=0.01)
    assert future == "‘ Mary’ (1) gives ‘ John’ (3) none of its weight"


def test_the_layer_chosen_in_the_page_is_followed(told):
    """Layers 0, 2 and 4 are explained; the gallery has 0 and 4, whose first mixer is the scan."""
    script = """const at = () => [byName("heads-layer").value, buttons().length];
      await change("layer", 3); const last = at();
      await change("layer", 2); const none = at();
      await change("layer", 1); const first = at();
      await change("layer", 0); const all = at();
      await change("heads-layer", 2); return [last, none, first, all, at()];"""
    (last, none, first, every, chosen), _ = told(html_page(result(), gallery=made_gallery()), script)
    assert last == none == ["1", 2]
    assert first == every == ["0", 6]
    assert chosen == ["2", 1]


def test_groups_of_channels_are_called_so(told):
    gallery = made_gallery(channels=(4, 4, 4, 4, 5, 5))
    script = """buttons()[4].click(); await wait();
      return [words()[4], byName("heads-how").textContent, byName("head-says").textContent];"""
    (words, how, says), _ = told(html_page(result(), gallery=gallery), script)
    assert words[:2] == ["group 4", "local"]
    assert how.startswith("Each small map is the mean over 4 or 5 channels whose memory is of like length")
    assert says.startswith("Layer 0, group 4: local, with a memory of 8.0 tokens: 90 % of its weight")


def test_cells_of_a_long_text_are_ranges(told):
    tokens = tuple(f" word{j}" for j in range(200))
    script = """buttons()[0].click(); await wait(); press("ArrowUp");
      return [byName("head-readout").textContent, buttons()[0].querySelector("canvas").width];"""
    (says, width), _ = told(html_page(result(200), gallery=made_gallery(tokens)), script)
    assert says.startswith("of tokens 195 to 199, none gives one of tokens 195 to 199 more than ≈ ")
    assert width == 48


def test_it_fits_a_narrow_window_and_hostile_names_do_not_run(told):
    gallery = made_gallery(HOSTILE, read=HOSTILE[1])
    mixers = tuple(dataclasses.replace(one, kind=HOSTILE[1]) for one in gallery.mixers)
    page = html_page(result(HOSTILE), gallery=dataclasses.replace(gallery, mixers=mixers))
    script = """document.body.style.width = "360px"; await wait(); buttons()[2].click(); press("ArrowUp"); await wait();
      const wide = (id) => byName(id).scrollWidth;
      return ["heads", "heads-measured", "head-says", "head-map"].map(wide);"""
    wide, dom = told(page, script)
    assert max(wide) <= 360
    assert "data-hostile" not in next(attrs for tag, attrs in dom.elements if tag == "html")
    assert not [tag for tag, _ in dom.elements if tag == "img"]


def test_the_gallery_is_kept_in_the_address_and_saved(told, tmp_path):
    page = html_page(result(), gallery=made_gallery())
    script = """
      await change("heads-layer", 1); await change("heads-order", "distance");
      document.querySelector('#heads [data-head="0"]').click(); await wait(); await wait(); await wait();
      return [location.hash, numbers(), byName("head-says").textContent];"""
    (address, order, says), _ = told(page, script)
    assert address == "#token=13&heads=1&sort=distance&head=0"
    file = tmp_path / "again.html"
    script = 'await wait(); await wait(); return [location.hash, numbers(), byName("head-says").textContent];'
    file.write_text(with_script(page, HELP + script), "utf-8")
    for opened, expected in ((address, [order, says]), ("#heads=9&sort=constructor&head=77", None)):
        dom, messages = open_file(file, opened)
        assert not messages
        found = json.loads(next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"])
        assert expected is None or found[1:] == expected
    (saved,), _ = told(
        page,
        """const made = []; const urls = URL.createObjectURL;
      URL.createObjectURL = (blob) => { made.push(blob.type); return urls.call(URL, blob); };
      byName("heads-save-svg").click(); await wait();
      return [made];""",
    )
    assert saved == ["image/svg+xml"]
