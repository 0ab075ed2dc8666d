"""One or several results as an xarray: each number found by its coordinates, and what it means beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import mambascope
from made_results import make
from mambascope.errors import InputError, MapTooLargeError
from mambascope.explained import WHOLE_MODEL, Target
from mambascope.grid import Grid
from mambascope.results import arrays
from models import stock_model
from small_tokenizers import byte_level


def whole(result):
    """Return a result's sum over layers as that of a method that explains the whole model."""
    return replace(
        result,
        scores=result.scores.sum(dim=0, keepdim=True),
        axes=result.axes | {"layer": (WHOLE_MODEL,)},
        method="mamba-lrp",
        over_layers="sum",
    )


def test_several_results_keep_every_number_and_lack_the_others():
    one, two = make(targets=(1, 3)), whole(make(targets=(3, 0)))
    array = one.to_xarray(two)
    assert array.dims == ("result", "layer", "target", "source")
    assert list(array.layer.values) == [1, 4, WHOLE_MODEL]
    assert list(array.target.values) == [1, 3, 0]
    for number, result in enumerate((one, two)):
        for k, layer in enumerate(result.axes["layer"]):
            for t, target in enumerate(result.axes["target"]):
                found = array.sel(layer=layer, target=target).isel(result=number)
                np.testing.assert_array_equal(found, result.scores[k, t])
    assert int(array.isnull().sum()) == array.size - one.scores.numel() - two.scores.numel()
    assert list(array.method.values) == ["latim", "mamba-lrp"]
    assert list(array.over_layers.values) == ["mean", "sum"]
    assert array.name == "score"
    assert one.to_xarray(one).name == "latim"


def test_texts_of_unequal_lengths_lie_side_by_side():
    model, tokenizer = stock_model("mamba", vocab_size=300), byte_level(merges=False)
    short, long = mambascope.explain(model, tokenizer, ["ab", "some words"], method="alti-logit", progress=False)
    array = short.to_xarray(long)
    assert "".join(array.token.values[0]) == "ab"
    assert "".join(array.token.values[1]) == "some words"
    assert list(array.target_token.values[0]) == ["b", ""]
    assert list(array.asked.values[0]) == [short.target.asked, ""]
    assert array.value.values[1, 1] == long.target.value
    assert np.isnan(array.value.values[0, 1])
    torch.testing.assert_close(torch.from_numpy(array.isel(result=0).sum("layer").values[0, :2]), short.row())


def test_generated_text_says_where_each_token_came_to_stand():
    model, tokenizer = stock_model("mamba", vocab_size=300), byte_level(merges=False)
    array = mambascope.explain(model, tokenizer, "some words", generate=2, progress=False).to_xarray()
    assert list(array.target.values) == [9, 10]
    assert list(array.generated.values) == [10, 11]
    assert len(set(array.asked.values)) == 2


def test_a_picture_says_where_each_patch_lies():
    result = replace(make(), grid=Grid(1, 3, 1, 2, 2))
    array = result.to_xarray()
    assert list(array.row.values) == [0, -1, 0, 0]
    assert list(array.column.values) == [0, -1, 1, 2]
    assert result.to_xarray(result).row.dims == ("result", "source")
    with pytest.raises(InputError, match="results of texts and of pictures make no array together"):
        result.to_xarray(make())


def test_a_position_alone_is_asked_nothing():
    assert not {"asked", "value", "generated", "row"} & set(make().to_xarray().coords)
    one = replace(make(targets=(2,)), target=Target(2, "<c>", (), "logit of ' x'", 1.5))
    mixed = make(targets=(2,)).to_xarray(one)
    assert list(mixed.asked.values[:, 0]) == ["", "logit of ' x'"]


def test_an_array_that_would_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(arrays, "require_room", lambda shape, *_: (_ for _ in ()).throw(MapTooLargeError(str(shape))))
    with pytest.raises(MapTooLargeError, match=r"\(2, 2, 4, 4\)"):
        make().to_xarray(make())
