"""The page in a real browser without a network: it draws what the result says, and hostile text stays text."""

import dataclasses
import html
import json
import re

import pytest

from browser import ATTEMPTS, open_file, with_script
from mambascope.grid import Grid
from mambascope.show import html_page, notebook_frame
from mambascope.show.notebook import frame_height
from show_results import HOSTILE, picture_result, result, with_removals

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(tmp_path):
    """Open a page's text in the browser and return its DOM and console messages."""

    def open_page(page, *flags):
        file = tmp_path / "page.html"
        file.write_text(page, "utf-8")
        return open_file(file, flags=flags)

    return open_page


TOLD = """return [[...document.querySelectorAll("#text [role=option]")].map((one) => one.textContent),
  [...document.querySelectorAll("#sources tbody button")].map((one) => one.textContent)];"""

CASES = {
    "plain": (result(layers=12), result(layers=12, signed=True, method="latim")),
    "hostile": (result(HOSTILE, signed=True),),
    "single target": (result(single=True, layers=5),),
    "one token": (result(("",)),),
    "512 tokens": (result(512, layers=2, signed=True),),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_shows_the_numbers_of_the_result(opened, case):
    attribution = CASES[case][0]
    dom, messages = opened(html_page(*CASES[case]))
    assert not messages
    body = next(attrs for tag, attrs in dom.elements if tag == "body")
    assert body.get("data-ready") == "true"
    assert dom.by_id("sources")["data-target"] == str(attribution.target.position)
    told = attribution.to_dict()
    expected = attribution.top(8)
    assert [int(row["data-position"]) for row in dom.rows()] == [source.position for source in expected]
    for row, source in zip(dom.rows(), expected, strict=True):
        # float32 both, and each computes the means and sums of a row for itself
        assert float(row["data-score"]) == pytest.approx(source.score, rel=1e-6)
        assert told["scores"][source.position] == pytest.approx(source.score, rel=1e-6)
        assert float(row["data-share"]) == pytest.approx(source.share, rel=1e-5)
    masses = [float(attrs["data-mass"]) for _, attrs in dom.elements if "data-mass" in attrs]
    assert masses == pytest.approx(attribution.layer_mass().tolist(), rel=1e-5)


def test_hostile_text_is_shown_and_does_not_run(opened):
    attribution = result(HOSTILE)
    object.__setattr__(attribution.model, "name", HOSTILE[1])
    dom, _ = opened(html_page(attribution, command=HOSTILE[1]))
    root = next(attrs for tag, attrs in dom.elements if tag == "html")
    assert "data-hostile" not in root
    assert not [tag for tag, _ in dom.elements if tag == "img"]
    tokens = [attrs for tag, attrs in dom.elements if tag == "span" and attrs.get("role") == "option"]
    assert [int(attrs["data-position"]) for attrs in tokens] == list(range(len(HOSTILE)))


def test_nothing_of_the_square_of_the_length_enters_the_document(opened):
    dom, _ = opened(html_page(CASES["512 tokens"][0]))
    assert len(dom.elements) < 3 * 512


def test_the_pinned_token_is_the_target_and_the_readout_names_its_best_source(opened):
    attribution = CASES["plain"][0]
    dom, _ = opened(html_page(attribution))
    pinned = [attrs for _, attrs in dom.elements if "pinned" in (attrs.get("class") or "").split()]
    assert [attrs["data-position"] for attrs in pinned] == [str(attribution.target.position)]
    assert re.search(rf"\({attribution.top(1)[0].position}\): ", dom.texts["readout"])


@pytest.mark.parametrize("focus", [5, 13])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("tokens", [14, 20])
def test_the_sources_that_are_not_listed_are_counted(opened, tokens, bidirectional, focus):
    """As in the terminal: all tokens of a model that reads both ways, else the target and those before it."""
    attribution = result(tokens, layers=1)
    if bidirectional:
        attribution.scores.copy_(attribution.scores + attribution.scores.transpose(1, 2))
    target = dataclasses.replace(attribution.target, position=focus)
    page = html_page(dataclasses.replace(attribution, target=target))
    script = """return [...document.querySelectorAll("#sources .rest td")].map((cell) => cell.textContent);"""
    dom, _ = opened(with_script(page, script))
    told = json.loads(next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"])
    left = (tokens if bidirectional else focus + 1) - 8
    assert [cell for cell in told if "other" in cell] == ([f"{left} other{'s' * (left > 1)}"] if left > 0 else [])


def test_parts_of_a_character_are_dots_in_the_text_and_have_names_beside_it(opened):
    attribution = result(("a", "好", "", ""), layers=1)
    dom, messages = opened(with_script(html_page(attribution), TOLD))
    assert not messages
    words, sources = json.loads(next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"])
    assert words == ["a", "好", "·", "·"]
    assert set(sources) == {"‘a’", "‘好’", "‘‹2/3 of 好›’", "‘‹3/3 of 好›’"}


def test_the_notebook_frame_opens(opened):
    _, messages = opened("<!doctype html><meta charset=utf-8>" + notebook_frame(result()))
    assert not messages


def test_what_the_notebook_frame_holds_unpacks_itself_and_hostile_text_stays_text(opened):
    attribution = result(HOSTILE)
    object.__setattr__(attribution.model, "name", HOSTILE[1])
    held = html.unescape(re.search(r'srcdoc="([^"]*)"', notebook_frame(attribution))[1])
    for _ in range(ATTEMPTS):  # the browser's own time may run out before a stream is unpacked, see `open_file`
        dom, messages = opened(held)
        body = next(attrs for tag, attrs in dom.elements if tag == "body")
        if "data-ready" in body:
            break
    assert not messages
    assert body["data-ready"] == "true"
    assert len(dom.rows()) == 8
    assert "data-hostile" not in next(attrs for tag, attrs in dom.elements if tag == "html")


FRAMED = {
    "one token": result(("",)),
    "map": result(),
    "one method, long": result(464, layers=1, single=True, signed=True),
    "layers, long": result(464, single=True),
    "caution": result(caution="the scores miss the number explained by 12 %: do not rely on them " * 3),
    "picture": picture_result(Grid(8, 8, 0, 8, 8)),
    "removed": with_removals(result(single=True)),
}


@pytest.mark.parametrize("case", FRAMED)
def test_a_frame_is_as_tall_as_its_page_with_all_but_the_first_section_folded(opened, case):
    """A browser alone knows how lines break, and with which letters: a twentieth and a line may be missing."""
    script = """
      const [first, ...others] = [...document.querySelectorAll("main > section")].filter((one) => !one.hidden);
      const tall = () => Math.ceil(document.body.getBoundingClientRect().bottom);
      const folded = tall(), closed = others.map((one) => one.offsetHeight);
      for (const button of document.querySelectorAll("h2 button")) button.click();
      return [folded, tall(), first.offsetHeight, closed, others.map((one) => one.offsetHeight)];"""
    page = html_page(FRAMED[case]).replace('"use strict";', '"use strict"; window.name = "mambascope-frame";', 1)
    dom, messages = opened(with_script(page, script), "--window-size=900,900")
    assert not messages
    told = next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"]
    folded, opened_up, first, closed, shown = json.loads(told)
    assert max(closed) < 50 < min(shown)
    assert opened_up > folded
    assert first > 200
    assert 0.95 * folded - 20 < frame_height(FRAMED[case]) < 1.1 * folded + 80


PANEL = """const panel = () => ({
  says: document.getElementById("removal-says").textContent,
  bars: [...document.querySelectorAll(".losses dd.number")].map((one) => one.textContent),
  dots: document.querySelectorAll(".losses-plot circle title").length,
  pressed: [...document.querySelectorAll("#sources .remove")].map((one) => one.getAttribute("aria-pressed")),
});"""


def test_a_source_is_removed_and_put_back(opened):
    """What the score predicts, and what was measured when it was cut and when it was zeroed, with their signs."""
    shown = with_removals(result(single=True, signed=True, conservation_error=1e-7))
    script = f"""{PANEL}
      const before = panel(), [first, second] = document.querySelectorAll("#sources .remove");
      first.click(); const removed = panel();
      document.querySelectorAll("#sources .remove")[1].click(); const other = panel();
      document.querySelector("#text .token").click(); const nothing = panel();
      document.querySelectorAll("#sources .remove")[1].click();
      return [before, removed, other, nothing, panel()];"""
    dom, messages = opened(with_script(html_page(shown), script))
    assert not messages
    before, removed, other, nothing, back = json.loads(
        next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"]
    )
    assert before["bars"] == []
    assert before == back
    assert before["pressed"] == ["false"] * 4, "the top four of the eight that are listed were removed"
    assert before["dots"] == 8
    best, *_ = shown.top(2)
    number = lambda value: f"{value:.4g}".replace("-", "\u2212")  # noqa: E731
    assert removed["bars"] == [number(best.score), number(2 * best.score), number(-best.score)]
    way, opposite = ("falls", "rises") if best.score > 0 else ("rises", "falls")
    size = number(abs(best.score))
    assert f"its score predicts that the logit of ' Mary' {way} by {size}" in removed["says"]
    assert f"its embedding is zero, it {opposite} by {size}" in removed["says"]
    assert removed["pressed"] == ["true", "false", "false", "false"]
    assert other["pressed"] == ["false", "true", "false", "false"]
    assert nothing == other, "a token that was not removed has nothing to show"


def test_every_target_has_its_own_removals_and_methods_in_other_units_say_so(opened):
    first = with_removals(result(signed=True, conservation_error=1e-7))
    other = with_removals(result(method="latim"))
    script = f"""{PANEL}
      document.querySelector('#text [data-position="5"]').click();
      document.querySelector("#sources .remove").click(); const fifth = panel();
      const choose = document.getElementById("method");
      choose.value = 1; choose.dispatchEvent(new Event("change"));
      await new Promise((go) => setTimeout(go, 200));
      document.querySelectorAll("#sources .remove")[1].click();
      return [fifth, panel(), document.getElementById("removal").textContent];"""
    dom, messages = opened(with_script(html_page(first, other), script))
    assert not messages
    fifth, latim, text = json.loads(next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"])
    assert (
        f"its score predicts that the logit of ' Mary' {'falls' if first.top(1, 5)[0].score > 0 else 'rises'}"
        in fifth["says"]
    )
    assert "its score is " in latim["says"]
    assert "The score is in a unit of its own." in text


def test_patches_are_removed_too(opened):
    shown = with_removals(picture_result(single=True))
    script = f"""{PANEL}
      document.querySelector("#sources .remove").click();
      return panel();"""
    dom, messages = opened(with_script(html_page(shown), script))
    assert not messages
    panel = json.loads(next(attrs for tag, attrs in dom.elements if tag == "body")["data-told"])
    assert panel["bars"]
    assert panel["says"].startswith("Without ")
