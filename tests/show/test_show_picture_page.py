"""The page of a picture: it loads nothing, keeps hostile names data, and each method brings its own layers."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mambascope.errors import InputError
from mambascope.grid import Grid
from mambascope.show import html_page, notebook_frame
from page_contents import Elements, data_of, one_row
from show_results import HOSTILE, picture_result, result


def test_nothing_is_loaded_and_names_stay_data():
    page = html_page(picture_result(names=HOSTILE[:2], picture=HOSTILE[1]))
    assert not re.search(r"https?://", page)
    for tag, attrs in Elements(page).tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert not {"src", "href", "onload", "onerror"} & attrs.keys()
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|innerHTML|outerHTML|document\.write|eval\(", page
    )
    assert "<img" not in page
    assert data_of(page)["methods"][0]["target"]["next_tokens"][0][0] == HOSTILE[0]


def test_the_picture_is_in_the_page():
    attribution = picture_result()
    packed = next(text for _, attrs, text in Elements(html_page(attribution)).raw if attrs.get("id") == "picture")
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(packed))))
    assert np.array_equal(kept, attribution.image.numpy()), "a small one exactly"
    large = torch.arange(300).expand(200, 300)[..., None].repeat(1, 1, 3).to(torch.uint8)
    page = html_page(picture_result(Grid(2, 3, 0, 100, 100), image=large))
    assert data_of(page)["picture"] == {"name": "cat.png", "mime": "image/jpeg", "height": 200, "width": 300}


def test_each_method_brings_its_own_layers_and_targets():
    attribution = picture_result()
    data = data_of(html_page(attribution, one_row(attribution)))
    first, second = data["methods"]
    assert (first["layers"], second["layers"]) == ([0, 2, 4], ["all"])
    assert (len(first["targets"]), second["targets"]) == (25, [12])
    assert (first["focus"], second["focus"]) == (12, 0)
    assert data["grid"]["class_position"] == 12


def test_the_mean_of_the_tokens_is_a_target_after_the_last():
    attribution = picture_result(Grid(2, 2, None, 4, 4))
    object.__setattr__(attribution.target, "pooled", 4)
    (facts,) = data_of(html_page(attribution))["methods"]
    assert (facts["targets"], facts["focus"]) == ([0, 1, 2, 3, 4], 4)
    (facts,) = data_of(html_page(one_row(attribution)))["methods"]
    assert (facts["targets"], facts["focus"]) == ([4], 0)


def test_196_patches_and_24_layers_stay_under_three_megabytes():
    assert len(html_page(picture_result(Grid(14, 14, 98, 16, 16), layers=24))) < 3_000_000


def test_a_page_opens_without_its_picture_and_from_a_notebook():
    attribution = picture_result()
    object.__setattr__(attribution, "image", None)
    assert data_of(html_page(attribution))["picture"]["mime"] in ("image/png", "image/jpeg")
    assert "srcdoc=" in notebook_frame(picture_result())


def test_results_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="another picture"):
        html_page(picture_result(), picture_result(seed=1, method="rollout"))
    with pytest.raises(InputError, match="another picture"):
        html_page(picture_result(), picture_result(Grid(4, 6, 0, 8, 8)))
    with pytest.raises(InputError, match="of a text and of a picture"):
        html_page(picture_result(), result())
    broken = picture_result(method="latim")
    broken.scores[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="latim"):
        html_page(picture_result(), broken)
