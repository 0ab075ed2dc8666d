"""When a result says in words that its scores should not be relied on."""

import pytest
import torch

from mambascope.trust import CONSERVED, caution, coarsest, in_short, token_share


@pytest.mark.parametrize("dtype", CONSERVED)
def test_a_conservation_error_beyond_rounding_is_a_reason(dtype):
    bound = CONSERVED[dtype]
    assert caution({"conservation_error": bound}, dtype) == ""
    words = caution({"conservation_error": 2 * bound}, dtype)
    assert words.startswith("do not rely on these scores")
    assert f"{2 * bound:.1e}" in words
    assert f"{bound:.0e}" in words
    assert caution({"conservation_error": float("nan")}, dtype), "a number that is none is no proof"


def test_a_sum_of_steps_may_miss_a_little():
    assert caution({"completeness_error": 0.04}, torch.float32) == ""
    assert "miss the number that they explain by 12%" in caution({"completeness_error": 0.12}, torch.float32)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"completeness_error": 1.2}, "they miss the number that they explain by 120%, more than half of it"),
        ({"residual": 1.2}, "the activation rule leaves 120% of the layers' outputs unexplained, more than half of it"),
        (
            {"reconstruction_error": 3e-4},
            "the layers were rebuilt with an error of 3.0e-04, and rounding explains",
        ),
        ({"scan_error": float("nan")}, "the scan differs from the model's own by nan"),
    ],
)
def test_every_kind_of_evidence_has_its_bound(evidence, words):
    found = caution(evidence)
    assert found.startswith("do not rely on these scores: ")
    assert words in found
    assert in_short(found) == "do not rely on these scores"
    sound = {"completeness_error": 0.01, "residual": 0.45, "reconstruction_error": 1e-6, "scan_error": 0.0}
    assert caution(sound) == ""
    assert caution(sound | evidence) == found


def test_rounding_is_judged_by_the_precision_in_which_the_model_ran():
    for evidence in ({"reconstruction_error": 1e-2}, {"conservation_error": 1e-2}):
        assert caution(evidence | {"precision": "bfloat16"}) == ""
        assert caution(evidence | {"precision": "float32"})
    assert coarsest([torch.float32, torch.bfloat16, torch.float64]) == torch.bfloat16


def test_a_stored_caution_is_the_verdict():
    assert caution({"caution": "take these scores with care: a reason", "residual": 9.0}).startswith("take these")


def test_tokens_that_hold_the_smaller_part_are_a_reason_for_care():
    held = {"conservation_error": 1e-8, "terms": {"tokens": 2.0, "biases": 3.0}}
    assert token_share(held) == pytest.approx(0.4)
    assert "the tokens hold 40%" in caution(held, torch.float32)
    assert "the tokens hold -20%" in caution({"terms": {"tokens": -1.0, "biases": 6.0}}, torch.float32)
    assert caution({"terms": {"tokens": 4.0, "biases": 1.0}}, torch.float32) == ""


def test_what_was_not_measured_says_nothing():
    assert caution({}, torch.float32) == ""
    assert token_share({"terms": {"residual": 1.0}}) is None
