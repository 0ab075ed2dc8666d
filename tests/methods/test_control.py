"""The control: random scores, the same again for the same seed, none for what a position does not see."""

import pytest
import torch

import mambascope
from mambascope import readouts
from mambascope.evaluate.score_rows import score_rows
from models import stock_model


def drawn(seed):
    model, inputs = stock_model("mamba"), {"input_ids": torch.arange(300)[None] % 50}
    torch.manual_seed(seed)
    (rows,) = score_rows(model, inputs, ["random"], [readouts.token(199, 3), readouts.token(299, 3)])
    assert rows.method == "random"
    return rows.rows


def test_random_scores_are_standard_normal_and_repeat_with_the_seed():
    rows = drawn(0)
    assert torch.equal(rows, drawn(0))
    assert not torch.equal(rows, drawn(1))
    assert not torch.equal(rows[0], rows[1]), "every target has its own"
    assert rows[1].mean().abs() < 0.25
    assert rows[1].std() == pytest.approx(1, abs=0.2)


def test_a_random_row_holds_nothing_that_the_target_cannot_see():
    rows = drawn(0)
    assert rows[0, :200].all()
    assert not rows[0, 200:].any()


def test_the_command_offers_it():
    assert mambascope.methods.METHODS["random"].scope == "model"
