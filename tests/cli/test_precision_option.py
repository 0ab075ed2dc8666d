"""`mambascope explain --precision bfloat16`."""

import json

import pytest

import mambascope

TEXT = "Mr. Bolton was a rich man."
NEAR = ("explain", TEXT, "--positions", "all", "--precision", "bfloat16")


def test_the_result_says_how_far_it_is_off(run):
    code, out, _ = run(*NEAR, "--json")
    assert code == 0
    found = json.loads(out)["diagnostics"]
    assert found["products"] == "bfloat16"
    assert 0 < found["products_error"] < 4 * 2.0**-9  # as in test_latim_precision.py


def test_maps_that_go_to_a_file_do_too(run, tmp_path):
    out = tmp_path / "maps.safetensors"
    code, *_ = run(*NEAR, "--out", out)
    assert code == 0
    written = mambascope.Attribution.load(out)
    assert written.diagnostics["products"] == "bfloat16"
    exact = mambascope.explain(*mambascope.load("tiny-mamba"), TEXT, positions="all", progress=False)
    assert 0 < float((written.scores - exact.scores).norm() / exact.scores.norm()) < 4 * 2.0**-9


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "hidden-attention", "--positions", "all"], "hidden-attention has one precision"),
        (["--method", "latim"], "or pass --positions all"),
    ],
)
def test_it_is_refused_elsewhere_before_a_model_is_loaded(run, more, says):
    code, _, error = run("explain", TEXT, "--model", "absent", "--precision", "bfloat16", *more)
    words = " ".join(error.split())
    assert code != 0
    assert says in words
    assert "--precision bfloat16" in words
    assert "absent" not in words


def test_a_model_in_float64_is_refused_in_the_options_words(run):
    code, _, error = run(*NEAR, "--dtype", "float64")
    assert code != 0
    assert "--precision bfloat16 is for models in float32 or less" in " ".join(error.split())
