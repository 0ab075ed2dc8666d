"""Several texts in one row: either a model keeps them apart, and so do the scores, or the row is refused before it."""

import pytest
import torch

from mambascope import capture, methods, readouts
from mambascope.errors import InputError
from mambascope.explanation import explain
from mambascope.inputs.names import CACHES, PACKING, read_by
from models import FAMILIES, TRANSFORMERS, stock_model, stock_transformer
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9]])
BOUNDARY = 4
PACKED = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
ONES = torch.ones_like(IDS)
CAUSAL = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")


def model_of(family):
    return stock_model(family) if family in FAMILIES else stock_transformer(family)


@pytest.mark.parametrize("family", [*FAMILIES, *CAUSAL, "bert"])
@pytest.mark.parametrize("name", PACKING)
def test_boundaries_that_the_model_ignores_are_refused(family, name):
    """transformers drops them in silence wherever no compiled kernel runs."""
    value = torch.tensor([[0, 0, 0, 0, 1, 1, 1]]) if name == "seq_idx" else torch.tensor([0, 4, 7])
    value = 4 if name.startswith("max") else value
    with pytest.raises(InputError, match=f"{name} says where texts end .* pass each text in a row of its own"):
        capture(model_of(family), input_ids=IDS, **{name: value})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scan_would_credit_across_the_boundary_so_restarting_positions_are_refused(family):
    model = stock_model(family)
    with torch.no_grad():
        bare, told = model(IDS).logits, model(IDS, position_ids=PACKED).logits
    assert_equal_to_rounding(told, bare, "with positions, which the model ignores, and without: the two")
    with pytest.raises(InputError, match=r"do not count up one by one, but .* reads the whole row as one text"):
        capture(model, input_ids=IDS, position_ids=PACKED)
    with pytest.raises(InputError, match="reads the whole row as one text"):
        explain(model, None, {"input_ids": IDS, "position_ids": PACKED}, progress=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_that_only_count_the_tokens_are_none_the_worse(family):
    """As they come with a text padded on the left: 1 at padding, then 0, 1, 2, …"""
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    for places, beside in ((torch.arange(7)[None], None), (torch.tensor([[1, 1, 0, 1, 2, 3, 4]]), mask)):
        given = capture(stock_model(family), input_ids=IDS, attention_mask=beside, position_ids=places)
        bare = capture(stock_model(family), input_ids=IDS, attention_mask=beside)
        assert_equal_to_rounding(given.logits, bare.logits)


@pytest.mark.parametrize("family", CAUSAL)
def test_attention_that_keeps_the_texts_apart_is_explained_exactly(family):
    """transformers tells them apart by positions that start anew; each text has the scores that it has alone."""
    model = stock_transformer(family)
    packed = capture(model, input_ids=IDS, position_ids=PACKED)
    alone = capture(model, input_ids=IDS[:, BOUNDARY:])
    assert torch.allclose(packed.logits[:, BOUNDARY:], alone.logits, atol=1e-4)
    for method in (methods.latim, methods.hidden_attention):
        found = method(packed, 1)
        assert not found[..., BOUNDARY:, :BOUNDARY].any()
        assert torch.allclose(found[..., BOUNDARY:, BOUNDARY:], method(alone, 1), atol=1e-4)
    readout, own = readouts.token(6, 7), readouts.token(2, 7)
    effect = methods.occlusion(packed, readout)
    assert torch.allclose(effect.scores[BOUNDARY:], methods.occlusion(alone, own).scores, atol=1e-4)
    assert effect.scores[:BOUNDARY].abs().max() < 1e-5
    found = methods.gradient_x_input(packed, readout).scores
    assert not found[:, :BOUNDARY].any()


@pytest.mark.parametrize("family", CAUSAL)
def test_with_a_mask_transformers_joins_the_texts_so_they_are_refused(family):
    with pytest.raises(InputError, match="start anew within the row, which transformers reads as one text when"):
        capture(stock_transformer(family), input_ids=IDS, position_ids=PACKED, attention_mask=ONES)


def test_attention_in_both_directions_joins_them_too():
    with pytest.raises(InputError, match=r"encoder.layer.0.attention \(BertAttention\) reads the row as one text"):
        capture(stock_transformer("bert"), input_ids=IDS, position_ids=PACKED)


def test_a_token_deleted_between_given_positions_does_not_split_the_text():
    """A gap in the positions is the end of a text to transformers, unless there is a mask."""
    model = stock_transformer("gpt2")
    places = torch.arange(7)[None]
    trace = capture(model, input_ids=IDS, position_ids=places)
    found = methods.occlusion(trace, readouts.token(6, 7), replacement="delete").scores
    without = [0, 1, 3, 4, 5, 6]
    with torch.no_grad():
        left = model(IDS[:, without], position_ids=places[:, without], attention_mask=ONES[:, without]).logits[0, -1, 7]
    assert found[2] == pytest.approx(float(trace.logits[0, -1, 7] - left), abs=1e-5)
    packed = capture(model, input_ids=IDS, position_ids=PACKED)
    with pytest.raises(InputError, match="packed into one row cannot be deleted"):
        methods.occlusion(packed, readouts.token(6, 7), replacement="delete")


@pytest.mark.parametrize("family", [*FAMILIES, *(name for name in TRANSFORMERS if name != "vit")])
def test_what_the_model_would_drop_in_silence_is_refused_by_name(family):
    model = model_of(family)
    for name in ("attn_mask", "position_id", "nothing", "pixel_values"):
        with pytest.raises(InputError, match=f"{type(model).__name__} does not read {name}; it reads input_ids"):
            capture(model, input_ids=IDS, **{name: torch.ones(1, 7)})


@pytest.mark.parametrize("family", ["mamba", "gpt2", "bert"])
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("labels", IDS, "computes no loss"),
        ("logits_to_keep", 1, "readouts count positions"),
        ("encoder_hidden_states", torch.ones(1, 7, 12), "cross-attention"),
        ("is_causal", True, "the model's own mask holds"),
    ],
)
def test_what_changes_the_question_is_refused(family, name, value, why):
    with pytest.raises(InputError, match=f"{name} cannot be used here: .*{why}"):
        capture(model_of(family), input_ids=IDS, **{name: value})


def test_harmless_arguments_are_taken():
    for family in ("mamba", "mamba2", "llama"):
        options = {"output_hidden_states": True, "return_dict": True, "use_cache": False, "labels": None}
        options |= {"token_type_ids": IDS * 0, "logits_to_keep": 0, **dict.fromkeys(CACHES)}
        assert capture(model_of(family), input_ids=IDS, **options).shape == (1, 7)


def test_segments_that_are_embedded_as_tokens_are_refused():
    """GPT-2 adds the embeddings of token_type_ids, so that a pass would find two embedded texts."""
    with pytest.raises(InputError, match="GPT2LMHeadModel has no embeddings of segments; leave out token_type_ids"):
        capture(stock_transformer("gpt2"), input_ids=IDS, token_type_ids=IDS * 0)
    with pytest.raises(InputError, match="MambaForCausalLM has no embeddings of segments"):
        capture(stock_model("mamba"), input_ids=IDS, token_type_ids=ONES)
    assert capture(stock_transformer("bert"), input_ids=IDS, token_type_ids=ONES).shape == (1, 7)


def test_outputs_without_names_are_refused():
    for model in (stock_model("mamba"), stock_model("mamba", return_dict=False)):
        options = {} if model.config.return_dict is False else {"return_dict": False}
        with pytest.raises(InputError, match="would return its outputs without their names"):
            capture(model, input_ids=IDS, **options)


def test_any_other_module_may_have_arguments_of_its_own():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = stock_model("mamba")

        def forward(self, words, **more):
            return self.model(input_ids=words, use_cache=False)

    assert read_by(Own()) == (["words"], True)
    assert capture(Own(), words=IDS, tone=3).shape == (1, 7)
    with pytest.raises(InputError, match="seq_idx says where texts end"):
        capture(Own(), words=IDS, seq_idx=IDS)
