"""`precision="bfloat16"`: only where a method has maps in it and they are asked for, and with its measured error."""

import pytest

import mambascope
from dense_reference import distance
from mambascope.errors import InputError
from mambascope.methods import latim
from mambascope.show.evidence import evidence_sentences
from mambascope.trust import caution

TEXT = "Mr. Bolton was a rich man."
#: As in `test_latim_precision`: factors, values and norms are rounded to 8 bits.
HALF = 4 * 2.0**-9


@pytest.fixture(scope="module")
def loaded():
    return mambascope.load("tiny-mamba")


def every(loaded, **options):
    return mambascope.explain(*loaded, TEXT, positions="all", progress=False, **options)


@pytest.mark.parametrize("method", ["latim", "latim-l1", "latim-silu", "latim-identity"])
def test_maps_are_in_bfloat16_and_say_how_far_off(loaded, method):
    exact, near = every(loaded, method=method), every(loaded, method=method, precision="bfloat16")
    assert 0 < distance(near.scores, exact.scores) < HALF
    assert near.diagnostics["products"] == "bfloat16"
    error = near.diagnostics["products_error"]
    assert 0 < error < HALF
    norms = [(one - other).norm() / other.norm() for one, other in zip(near.scores, exact.scores, strict=True)]
    assert error == pytest.approx(float(max(norms)), rel=1), "four targets of every layer stand for all"
    assert any("products in bfloat16" in words for words in evidence_sentences(near.diagnostics))
    assert not {"products", "products_error"} & set(exact.diagnostics)


def test_it_is_latims_precision(loaded):
    near = every(loaded, layer=1, precision="bfloat16")
    trace = mambascope.capture(loaded[0], **loaded[1](TEXT, return_tensors="pt"))
    assert distance(near.scores[0], latim(trace, 1, precision="bfloat16")[0]) < 1e-5, "float32 in another order"


def test_a_list_of_texts_and_a_saved_result_keep_it(loaded, tmp_path):
    (near,) = mambascope.explain(*loaded, [TEXT], positions="all", precision="bfloat16")
    again = mambascope.Attribution.load(near.save(tmp_path / "near.safetensors"))
    assert again.diagnostics["products_error"] == near.diagnostics["products_error"] > 0
    mean = mambascope.Attribution.mean([near, every(loaded)])
    assert mean.diagnostics["products_error"] == near.diagnostics["products_error"]


def test_maps_that_go_to_a_file_are_the_same(loaded, tmp_path):
    near = every(loaded, precision="bfloat16")
    written = mambascope.write_maps(tmp_path / "near.safetensors", *loaded, TEXT, precision="bfloat16")
    assert distance(written.scores, near.scores) < 1e-5
    assert written.diagnostics["products"] == "bfloat16"
    assert 0 < written.diagnostics["products_error"] < HALF


def test_a_file_is_not_continued_in_another_precision(loaded, tmp_path, monkeypatch):
    from mambascope.explanation import writing

    rows_of, calls = writing.rows_of, []

    def interrupted(*given, **options):
        calls.append(given)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return rows_of(*given, **options)

    path = tmp_path / "maps.safetensors"
    monkeypatch.setattr(writing, "rows_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mambascope.write_maps(path, *loaded, TEXT)
    monkeypatch.setattr(writing, "rows_of", rows_of)
    with pytest.raises(InputError, match=r"something else|another"):
        mambascope.write_maps(path, *loaded, TEXT, precision="bfloat16")
    mambascope.write_maps(path, *loaded, TEXT)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "hidden-attention", "positions": "all"}, "hidden-attention has one precision; .*latim, latim-l1"),
        ({"method": "mamba-lrp", "positions": "all"}, "mamba-lrp has one precision"),
        ({"method": ["latim", "rollout"], "positions": "all"}, "rollout has one precision"),
        ({}, "mamba-lrp has one precision"),
        ({"method": "latim"}, "all positions"),
        ({"method": "latim", "position": 3}, "all positions"),
        ({"method": "latim", "positions": [1, 2]}, "all positions"),
    ],
)
def test_elsewhere_it_is_refused_by_name(loaded, options, says):
    with pytest.raises(InputError, match=says):
        mambascope.explain(*loaded, TEXT, precision="bfloat16", progress=False, **options)


def test_a_file_of_maps_without_it_is_refused(loaded, tmp_path):
    with pytest.raises(InputError, match="hidden-attention has one precision"):
        mambascope.write_maps(
            tmp_path / "a.safetensors", *loaded, TEXT, method="hidden-attention", precision="bfloat16"
        )


def test_a_large_error_is_a_caution():
    assert caution({"products": "bfloat16", "products_error": HALF}) == ""
    assert "products" in caution({"products": "bfloat16", "products_error": 0.1})
