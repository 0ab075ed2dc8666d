"""What a pass cannot be given is refused before it in one sentence: no text, one of a wrong shape, one too long."""

import pytest
import torch

from mambascope import readouts
from mambascope.errors import InputError
from mambascope.inputs.checks import longest_text
from mambascope.methods.gradients import gradient_x_input
from mambascope.methods.interventions import knockout
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.occlusion import occlusion
from mambascope.trace import capture
from mambascope.trace.differentiate import logit_direction
from models import stock_model, stock_transformer


def ids(length, batch=1):
    return torch.ones(batch, length, dtype=torch.long)


TOO_LONG = {
    "gpt2": ("GPT2LMHeadModel has positions for 9; shorten the text", {"n_positions": 9}),
    "bert": ("BertForSequenceClassification has positions for 9", {"max_position_embeddings": 9}),
}


@pytest.mark.parametrize("family", TOO_LONG)
def test_a_text_longer_than_the_table_of_positions_is_refused(family):
    words, options = TOO_LONG[family]
    model = stock_transformer(family, **options)
    assert longest_text(model) == 9
    readout = readouts.class_(1) if family == "bert" else readouts.token(3, 7)
    for given in ({"input_ids": ids(10)}, {"inputs_embeds": torch.randn(1, 10, 12)}):
        for run in (
            lambda **inputs: capture(model, **inputs),
            lambda **inputs: gradient_x_input(capture(model, **inputs), readout),
            lambda **inputs: occlusion(capture(model, **inputs), readout),
            lambda **inputs: logit_direction(model, readout, **inputs),
        ):
            with pytest.raises(InputError, match=f"the text has 10 tokens, but {words}"):
                run(**given)
    assert capture(model, input_ids=ids(9)).shape == (1, 9)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "mistral", "qwen2", "qwen3"])
def test_rotary_positions_have_no_end(family):
    model = stock_transformer(family, max_position_embeddings=9)
    assert longest_text(model) is None
    assert capture(model, input_ids=ids(10)).shape == (1, 10)


def test_state_space_models_read_any_length():
    assert longest_text(stock_model("mamba")) is None


gpt2, bert, vit = (stock_transformer(family) for family in ("gpt2", "bert", "vit"))
mamba = stock_model("mamba")


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (mamba, {}, "there is nothing to read: pass input_ids"),
        (mamba, {"text": "some words"}, "there is nothing to read: pass input_ids"),
        (mamba, {"pixel_values": torch.zeros(1, 3, 8, 8)}, "there is nothing to read: pass input_ids"),
        (mamba, {"input_ids": ids(3), "inputs_embeds": torch.zeros(1, 3, 12)}, "the same text twice"),
        (mamba, {"input_ids": [[1, 2]]}, 'input_ids must be a tensor, found a list; ask .* return_tensors="pt"'),
        (mamba, {"input_ids": ids(2), "attention_mask": [[1, 1]]}, "attention_mask must be a tensor, found a list"),
        (
            mamba,
            {"inputs_embeds": torch.zeros(1, 3, 11)},
            "inputs_embeds are 11 wide, but this model's embeddings are 12 wide",
        ),
        (mamba, {"input_ids": ids(3), "attention_mask": ids(4)}, r"attention_mask of shape \(1, 4\) does not match"),
        (gpt2, {"input_ids": ids(3), "position_ids": ids(2)}, r"position_ids of shape \(1, 2\) does not match"),
        (
            gpt2,
            {"input_ids": ids(3), "position_ids": ids(3) * 256},
            "position_ids must be from 0 to 255, found 256 to 256",
        ),
        (gpt2, {"input_ids": ids(3), "position_ids": -ids(3)}, "position_ids must be from 0 to 255, found -1 to -1"),
        (bert, {"input_ids": ids(3), "token_type_ids": ids(3) * 2}, "token_type_ids must be from 0 to 1, found 2 to 2"),
        (vit, {"input_ids": ids(3)}, "ViTForImageClassification reads pictures: pass pixel_values"),
        (vit, {}, "ViTForImageClassification reads pictures: pass pixel_values"),
        (
            vit,
            {"pixel_values": torch.zeros(3, 8, 8)},
            r"must have shape \(batch, 3, height, width\), found \(3, 8, 8\)",
        ),
        (vit, {"pixel_values": torch.zeros(1, 1, 8, 8)}, r"must have shape \(batch, 3, height, width\)"),
        (vit, {"pixel_values": torch.zeros(0, 3, 8, 8)}, r"must have shape \(batch, 3, height, width\)"),
        (vit, {"pixel_values": torch.zeros(1, 3, 9, 8)}, "reads pictures of 8 x 8 pixels, found 9 x 8"),
        (
            vit,
            {"pixel_values": [1]},
            "pixel_values must be a tensor, found a list; explain and read_picture read",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(model, inputs, words):
    with pytest.raises(InputError, match=words) as caught:
        capture(model, **inputs)
    assert "\n" not in str(caught.value)


def test_positions_that_are_given_count_and_not_the_length():
    assert capture(stock_transformer("gpt2", n_positions=4), input_ids=ids(5), position_ids=ids(5)).shape == (1, 5)


def test_nothing_to_read_is_refused_by_every_pass():
    for run in (
        lambda: mamba_lrp(capture(mamba), readouts.token(1, 7)),
        lambda: gradient_x_input(capture(mamba), readouts.token(1, 7)),
        lambda: knockout(capture(mamba), readouts.token(1, 7), targets=1),
        lambda: occlusion(capture(mamba), readouts.token(1, 7)),
        lambda: logit_direction(mamba, readouts.token(1, 7)),
    ):
        with pytest.raises(InputError, match="there is nothing to read"):
            run()
