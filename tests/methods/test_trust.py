"""When a result says in words that its scores should not be relied on."""

import pytest
import torch

from mambascope.methods.trust import CONSERVED, caution, token_share


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


def test_tokens_that_hold_the_smaller_part_are_a_reason_for_care():
    held = {"conservation_error": 1e-8, "terms": {"tokens": 2.0, "biases": 3.0}}
    assert token_share(held) == pytest.approx(0.4)
    assert "the tokens hold 40%" in caution(held, torch.float32)
    assert "the tokens hold -20%" in caution({"terms": {"tokens": -1.0, "biases": 6.0}}, torch.float32)
    assert caution({"terms": {"tokens": 4.0, "biases": 1.0}}, torch.float32) == ""


def test_what_was_not_measured_says_nothing():
    assert caution({}, torch.float32) == ""
    assert token_share({"terms": {"residual": 1.0}}) is None
