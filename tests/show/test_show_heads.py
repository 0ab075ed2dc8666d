"""The gallery in the page, read as text: its numbers, its size, and what does not belong there."""

import base64
import dataclasses
import re
import zlib

import numpy as np
import pytest
import torch

from mambascope.errors import InputError
from mambascope.show import html_page
from mambascope.show.gallery import SOURCES
from mambascope.theory.heads import SHARES
from page_contents import data_of
from show_results import HOSTILE, PLAIN, made_gallery, picture_result, result


def codes(page, number, shape):
    packed = re.search(rf'id="heads-{number}">([^<]*)<', page)[1]
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.int8).reshape(shape).astype(float)


def test_the_page_holds_what_each_head_does():
    gallery = made_gallery()
    facts = data_of(html_page(result(), gallery=gallery))["gallery"]
    assert [(one["layer"], one["kind"], one["side"], one["channels"]) for one in facts["mixers"]] == [
        (0, "scan", 14, None), (4, "scan", 14, None), (4, "attention", 14, None),
    ]  # fmt: skip
    first = facts["mixers"][0]["heads"]
    assert [head["label"] for head in first] == ["separator", "first", "induction", None, None, None]
    assert [head["spread"] for head in first] == [None, None, None, None, "local", "diffuse"]
    assert first[1]["shares"] == [0.1, 0.45, 0.1, 0.1, 0.1]
    assert (facts["rows"], facts["read"], facts["lift"]) == ([6, 24], "A, b.", 5.0)
    assert set(SOURCES) == set(SHARES) == {one["name"] for one in facts["labels"]}


def test_shares_that_were_not_measured_are_nothing():
    gallery = made_gallery(read=None)
    head = dataclasses.replace(gallery.mixers[1].heads[0], shares={"first": float("nan")}, lifts={"first": 0.1234567})
    mixer = dataclasses.replace(gallery.mixers[1], heads=(head,), maps=gallery.mixers[1].maps[:1])
    facts = data_of(html_page(result(), gallery=dataclasses.replace(gallery, mixers=(mixer,))))["gallery"]
    assert facts["mixers"][0]["heads"][0]["shares"] == [None] * 5
    assert facts["mixers"][0]["heads"][0]["lifts"] == [None, 0.1235, None, None, None]
    assert facts["read"] is None


def test_maps_are_known_to_one_percent_of_their_largest():
    gallery = made_gallery()
    page = html_page(result(), gallery=gallery)
    for number, mixer in enumerate(gallery.mixers):
        scales = np.array(data_of(page)["gallery"]["mixers"][number]["scales"])[:, None, None]
        found = (codes(page, number, mixer.maps.shape) / 127) ** 2 * scales
        # half a step of the square root: 2 · √share · 1/254, at most 1/127 of the largest
        assert np.abs(found - mixer.maps.numpy()).max() < 0.008


def test_a_map_without_weight_is_empty():
    gallery = made_gallery()
    mixer = dataclasses.replace(gallery.mixers[2], maps=torch.zeros(1, 14, 14))
    page = html_page(result(), gallery=dataclasses.replace(gallery, mixers=(mixer,)))
    assert not codes(page, 0, (1, 14, 14)).any()


def test_a_head_takes_at_most_2304_bytes_before_they_are_deflated():
    tokens = tuple(f" word{j}" for j in range(200))
    gallery = made_gallery(tokens)
    page = html_page(result(200), gallery=gallery)
    assert codes(page, 0, (6, 48, 48)).shape == (6, 48, 48)
    assert sum(len(one) for one in re.findall(r'id="heads-\d">([^<]*)<', page)) < 9 * 2304 / 2


@pytest.mark.parametrize(
    ("shown", "gallery", "says"),
    [
        (result(), made_gallery(PLAIN[:-1]), "the gallery of heads is of another text than the result"),
        (picture_result(), made_gallery(), "is of a text, and this page of a picture"),
    ],
)
def test_what_does_not_belong_on_one_page(shown, gallery, says):
    with pytest.raises(InputError, match=says):
        shown.to_html(gallery=gallery)


def test_without_one_the_page_says_nothing_of_heads():
    page = html_page(result())
    assert data_of(page)["gallery"] is None
    assert "heads" not in page, "neither its numbers nor its script"


def test_it_is_saved_with_the_page_and_left_out_of_other_files(tmp_path):
    gallery = made_gallery()
    for name in ("page.html", "scores.json", "scores.csv", "scores.npz", "all.safetensors"):
        result().save(tmp_path / name, gallery=gallery)
    assert (tmp_path / "page.html").read_text("utf-8") == result().to_html(gallery=gallery)
    result().save(tmp_path / "alone.json")
    assert (tmp_path / "alone.json").read_text() == (tmp_path / "scores.json").read_text()


def test_hostile_names_stay_data():
    gallery = made_gallery(HOSTILE, read=HOSTILE[1])
    mixers = tuple(dataclasses.replace(one, kind=HOSTILE[0]) for one in gallery.mixers)
    page = html_page(result(HOSTILE), gallery=dataclasses.replace(gallery, mixers=mixers))
    assert "<img" not in page
    assert data_of(page)["gallery"]["mixers"][0]["kind"] == HOSTILE[0]
