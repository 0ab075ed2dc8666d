"""The self-contained page, read as text: it loads nothing, runs nothing foreign, and stays small."""

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from mambascope import memory
from mambascope.errors import InputError, MapTooLargeError
from mambascope.grid import Grid
from mambascope.methods.registry import METHODS
from mambascope.show import html_page, notebook, notebook_frame
from mambascope.show.notebook import frame_height
from mambascope.show.tokens import visible
from page_contents import Elements, data_of
from show_results import HOSTILE, PLAIN, picture_result, result

SUPPORT = Path(__file__).parents[1] / "support"


def test_nothing_is_loaded():
    page = html_page(result(HOSTILE, signed=True), result(HOSTILE, method="latim"))
    assert not re.search(r"https?://", page)
    for tag, attrs in Elements(page).tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert not {"src", "href", "onload", "onerror"} & attrs.keys()
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|innerHTML|outerHTML|document\.write|eval\(", page
    )


def test_the_policy_names_the_page_s_own_script_and_style():
    elements = Elements(html_page(result()))
    policy = next(attrs["content"] for tag, attrs in elements.tags if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy
    for kind in ("script", "style"):
        text = next(text for tag, attrs, text in elements.raw if tag == kind and not attrs)
        fingerprint = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{fingerprint}'" in policy


def test_hostile_tokens_stay_data():
    page = html_page(result(HOSTILE))
    blocks = 4 + 2  # the mean and three layers; row sums and small maps
    assert page.count("</script") == blocks + 2
    assert "<img" not in page
    assert "\u2028" not in page
    assert "<!--" not in page
    page.encode("utf-8")
    data = data_of(page)
    assert data["tokens"] == list(HOSTILE)
    assert data["shown"][str(HOSTILE.index("\n"))] == "↵"


def test_a_model_s_name_is_escaped_too():
    attribution = result()
    object.__setattr__(attribution.model, "name", "</title><script>alert(1)</script>")
    page = html_page(attribution)
    assert "<script>alert" not in page
    assert data_of(page)["methods"][0]["model"]["name"].startswith("</title>")


def test_the_command_is_told():
    assert data_of(html_page(result()))["command"] == "mambascope explain <tiny> 'a & b'"
    assert data_of(html_page(result(), command="other"))["command"] == "other"
    assert data_of(html_page(result(command=None)))["command"] is None


def test_evidence_of_any_kind_is_written():
    page = html_page(
        result(
            odd=float("nan"), tensor=torch.ones(2), nested={"a": (1, None)}, layer_kinds=["mamba", "attention", "mamba"]
        )
    )
    data = data_of(page)
    facts = data["methods"][0]["diagnostics"]
    assert (facts["odd"], facts["tensor"], facts["nested"]) == ("nan", [1.0, 1.0], {"a": [1, None]})
    assert data["methods"][0]["kinds"] == ["mamba", "attention", "mamba"]


def test_a_hybrids_page_says_which_layer_is_of_which_kind_and_what_each_carried():
    (facts,) = data_of(html_page(result(share_by_kind={"scan": 0.25, "attention": 0.75}, layer_kinds=["a", "b", "a"])))[
        "methods"
    ]
    assert facts["kinds"] == ["a", "b", "a"]
    assert facts["evidence"][0] == "carried by attention 75.0 %, scan 25.0 %"
    assert data_of(html_page(result(layer_kinds=["a"] * 3)))["methods"][0]["kinds"] is None, "they are all alike"


def test_evidence_stands_in_words_and_says_when_not_to_rely_on_it():
    """What adds up to what, and the error of the method itself before that of the layers."""
    terms = {"tokens": 8.1, "biases": 1.9}
    (facts,) = data_of(
        html_page(result(method="latim", conservation_error=2e-7, terms=terms, caution="do not rely on these scores"))
    )["methods"]
    assert facts["evidence"] == [
        "tokens 81.0 %, biases 19.0 % of the number explained, which they add up to within 2.0e-07",
        "layers rebuilt to within 4.1e-07",
    ]
    assert facts["diagnostics"]["caution"].startswith("do not rely")
    assert facts["title"] == METHODS["latim"].title


def test_results_of_one_text_share_a_page_whatever_their_layers_and_targets():
    single = result(single=True, layers=1)
    first, second = data_of(html_page(single, result(layers=3)))["methods"]
    assert (len(first["targets"]), len(first["layers"])) == (1, 1)
    assert (len(second["targets"]), len(second["layers"])) == (len(PLAIN), 3)


@pytest.mark.parametrize("signed", [False, True])
def test_512_tokens_and_12_layers_stay_under_a_megabyte(signed):
    assert len(html_page(result(512, layers=12, signed=signed))) < 1_000_000


@pytest.mark.parametrize(
    "attribution", [result(("",)), result(single=True), result(layers=1), result(HOSTILE, single=True, signed=True)]
)
def test_small_and_odd_results_have_a_page(attribution):
    data = data_of(html_page(attribution))
    (facts,) = data["methods"]
    assert facts["targets"] == list(attribution.axes["target"])
    assert facts["layers"] == list(attribution.axes["layer"])


def test_scores_ahead_of_the_target_are_kept_where_there_are_any():
    attribution = result()
    attribution.scores[0, 0, 5] = 1.0
    page = html_page(result(), attribution)
    assert [method["causal"] for method in data_of(page)["methods"]] == [True, False]


def test_results_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="another text"):
        html_page(result(), result(PLAIN[:-1], method="latim"))
    broken = result(method="latim")
    broken.scores[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="latim"):
        html_page(result(), broken)


def framed(frame):
    """The page that a notebook's frame unpacks."""
    (tag, attrs), *others = Elements(frame).tags
    assert tag == "iframe"
    assert not others
    packed = re.search(r'atob\("([^"]*)"\)', attrs["srcdoc"])[1]
    return zlib.decompress(base64.b64decode(packed)).decode()


def test_the_notebook_frame_holds_the_page_whole(monkeypatch):
    page = html_page(result(HOSTILE))
    monkeypatch.setattr(notebook, "html_page", lambda _: page)
    attribution = result(HOSTILE)
    object.__setattr__(attribution.model, "name", HOSTILE[1])
    frame = notebook_frame(attribution)
    assert framed(frame) == page
    (_, attrs), *_ = Elements(frame).tags
    assert "allow-same-origin" not in attrs["sandbox"]
    assert html.unescape(frame) != frame
    assert html.escape(visible(repr(attribution))) in frame, "what stands where frames are not shown"


@pytest.mark.parametrize(
    "shown", [result(single=True), result(signed=True), result(464, single=True), picture_result()]
)
def test_a_notebook_carries_less_than_two_thirds_of_a_page(shown):
    """Eleven cells once weighed 1.3 MB. What is left is scores, which are packed already, and the page's own script."""
    assert len(notebook_frame(shown)) < 2 / 3 * len(html_page(shown))


def test_a_frame_grows_with_what_it_shows():
    assert frame_height(result(("a",), layers=1)) < frame_height(result(layers=1)) < frame_height(result())
    assert frame_height(result(14, single=True)) < frame_height(result(464, single=True))
    assert frame_height(result(464, single=True)) == frame_height(result(5000, single=True)), "a long text scrolls"
    tall, wide = (picture_result(Grid(rows, columns, 0, 8, 8)) for rows, columns in ((8, 4), (4, 8)))
    assert frame_height(wide) < frame_height(tall)
    assert frame_height(result()) < frame_height(result(caution="do not rely on this"))


def test_a_page_that_would_not_fit_is_refused_before_it_is_made(monkeypatch, tmp_path):
    made = result(200, layers=2)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    says = r"a page of 2 x 200 x 200 scores needs .* are free; explain fewer positions or layers, or write the scores"
    with pytest.raises(MapTooLargeError, match=says):
        html_page(made)
    with pytest.raises(MapTooLargeError, match=says):
        made.save(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    made.save(tmp_path / "result.safetensors")  # the way out that is named
    html_page(result(20))


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "tokens"), [(1, 1500), (12, 1000)])
def test_the_estimate_of_a_page_is_near_the_measured_peak(layers, tokens):
    """From as much to twice as much, with scores that are hard to pack."""
    run = subprocess.run(
        [sys.executable, SUPPORT / "page_peaks.py", str(layers), str(tokens)],
        capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-800:]
    taken, said = json.loads(run.stdout.splitlines()[-1])
    assert taken <= said <= 2 * taken, f"took {taken:.0f} MiB, said {said:.0f} MiB"
