"""What a pass cannot be given is refused before it in one sentence: no text, one of a wrong shape, one too long."""

import pytest
import torch

from mambascope import readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation import explain
from mambascope.inputs.checks import longest_text
from mambascope.methods.gradients import gradient_x_input
from mambascope.methods.interventions import knockout
from mambascope.methods.latim import latim
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.occlusion import occlusion
from mambascope.trace import capture
from mambascope.trace.directions import logit_direction
from models import stock_model, stock_transformer
from rounding import assert_equal_to_rounding
from small_staged_models import small
from small_tokenizers import byte_level


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


PICTURES = torch.zeros(1, 3, 8, 8)
SMALL = torch.randn(1, 3, 12)
WRONG = [
    (mamba, {"input_ids": ids(3).short()}, r"token ids must be one row of integers, found torch\.int16"),
    (mamba, {"input_ids": ids(3).to("meta")}, "input_ids are on meta, but the model is on cpu; move them there"),
    (mamba, {"inputs_embeds": SMALL.double()}, r"inputs_embeds are torch\.float64, but the model is torch\.float32"),
    (mamba, {"inputs_embeds": SMALL.half()}, r"inputs_embeds are torch\.float16, but the model is torch\.float32"),
    (mamba, {"inputs_embeds": SMALL.long()}, r"inputs_embeds must be floating-point numbers, found torch\.int64"),
    (mamba, {"inputs_embeds": SMALL * torch.nan}, "inputs_embeds hold NaN or infinite values"),
    (mamba, {"inputs_embeds": SMALL[:0]}, r"must have shape \(batch, tokens > 0, width\), found \(0, 3, 12\)"),
    (mamba, {"input_ids": ids(3), "attention_mask": ids(3) * 0}, "text 0 is all padding: its attention_mask is 0"),
    (mamba, {"input_ids": ids(3), "attention_mask": ids(3) * 2}, "attention_mask must be 1 at tokens and 0 at padding"),
    (gpt2, {"input_ids": ids(3), "attention_mask": ids(3) / 2}, "attention_mask must be 1 at tokens and 0 at padding"),
    (
        gpt2,
        {"input_ids": ids(3), "attention_mask": torch.ones(1, 1, 3, 3)},
        r"must have shape \(batch, tokens\), found \(1, 1, 3, 3\); masks of pairs of tokens are not supported",
    ),
    (
        gpt2,
        {"input_ids": ids(3), "position_ids": ids(3).float()},
        r"position_ids must be integers, found torch\.float32",
    ),
    (gpt2, {"input_ids": ids(3), "position_ids": ids(3)[0]}, r"position_ids of shape \(3,\) does not match"),
    (vit, {"pixel_values": PICTURES.byte()}, r"pixel_values must be floating-point numbers, found torch\.uint8"),
    (vit, {"pixel_values": PICTURES.double()}, r"pixel_values are torch\.float64, but the model is torch\.float32"),
    (vit, {"pixel_values": PICTURES * torch.inf}, "pixel_values hold NaN or infinite values"),
    (
        vit,
        {"pixel_values": PICTURES[..., :1], "interpolate_pos_encoding": True},
        "the picture has 8 x 1 pixels, fewer than one patch of side 2",
    ),
    (vit, {"pixel_values": PICTURES, "attention_mask": ids(17)}, "marks the padding of texts, and pictures have none"),
]


@pytest.mark.parametrize(("model", "inputs", "words"), WRONG)
def test_wrong_kinds_of_numbers_are_refused_in_one_sentence(model, inputs, words):
    with pytest.raises(InputError, match=words) as caught:
        capture(model, **inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["vmamba", "mambavision"])
def test_a_picture_smaller_than_a_token_of_the_last_stage_is_refused(kind):
    """Two stages of one token each could not be told apart."""
    model = small(kind, torch.float32)
    side = max(model.cells())
    pixels = torch.randn(1, 2, side, side)
    assert len(capture(model, pixel_values=pixels).stages) == len(model.cells())
    with pytest.raises(InputError, match=f"fewer than one token of the last stage of this .*, whose side is {side}"):
        capture(model, pixel_values=pixels[..., 1:])


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32, torch.float64])
def test_a_mask_of_zeros_and_ones_may_be_of_any_kind(kind):
    mask = torch.tensor([[0, 1, 1, 0, 1]])
    for model in (mamba, gpt2):
        expected = capture(model, input_ids=ids(5), attention_mask=mask)
        found = capture(model, input_ids=ids(5), attention_mask=mask.to(kind))
        assert_equal_to_rounding(found.logits, expected.logits)
        assert_equal_to_rounding(latim(found, 1), latim(expected, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_read_half_precision(dtype):
    model = stock_model("mamba", dtype)
    assert capture(model, inputs_embeds=SMALL.to(dtype)).shape == (1, 3)
    with pytest.raises(InputError, match=f"but the model is {dtype}; convert them"):
        capture(model, inputs_embeds=SMALL)


def test_a_table_of_positions_that_starts_after_padding_has_fewer():
    """As RoBERTa's: the rows up to that of padding are no positions of tokens."""
    model = stock_transformer("bert", max_position_embeddings=12)
    assert longest_text(model) == 12
    model.bert.embeddings.position_embeddings.padding_idx = 1
    assert longest_text(model) == 10
    with pytest.raises(InputError, match=r"the text has 11 tokens, but .* has positions for 10"):
        capture(model, input_ids=ids(11))


@pytest.mark.parametrize("more", [{"continuation": "abcd"}, {"generate": 4}])
def test_a_text_too_long_with_what_follows_it_is_refused(more):
    model = stock_transformer("gpt2", n_positions=8, vocab_size=300)
    tokenizer = byte_level(merges=False)
    assert explain(model, tokenizer, "abcde", progress=False).axes["source"] == tuple(range(5))
    with pytest.raises(InputError, match="positions for 8; shorten the text"):
        explain(model, tokenizer, "abcde", progress=False, **more)


def test_weights_that_are_nan_or_nowhere_are_named():
    broken = stock_model("mamba")
    with torch.no_grad():
        broken.backbone.layers[1].mixer.out_proj.weight[0, 0] = torch.nan
    for check in ("projected", "full", False):
        with pytest.raises(InputError, match=r"layer 1 \(backbone.layers.1.mixer, MambaMixer\) returned NaN"):
            capture(broken, input_ids=ids(3), check=check)
    with torch.no_grad():
        broken.backbone.layers[1].mixer.out_proj.weight[0, 0] = 0
        broken.backbone.norm_f.weight[0] = torch.nan
    with pytest.raises(InputError, match="the logits of this MambaForCausalLM hold NaN"):
        capture(broken, input_ids=ids(3))
    with pytest.raises(UnsupportedModelError, match="has no numbers in memory: the model was made without weights"):
        capture(stock_model("mamba").to("meta"), input_ids=ids(3))


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


@pytest.mark.parametrize("name", ["token_type_ids", "attention_mask", "input_ids", "image_grid_thw"])
def test_tensors_without_plain_numbers_are_named(name):
    """A sparse tensor, and one that is nowhere, as any input; the models' own code would stumble over them."""
    text = {"input_ids": ids(3)}
    for odd in (torch.ones(1, 3, dtype=torch.int64).to_sparse(), torch.ones(1, 3, dtype=torch.int64, device="meta")):
        with pytest.raises(InputError, match=rf"{name} (must hold plain numbers|are on meta)|does not take"):
            capture(stock_model("mamba"), **(text | {name: odd}))
