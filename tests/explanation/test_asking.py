"""What can be asked about: a token, a foil, a class, a continuation, and every question that has no answer."""

import pytest
import torch
import transformers

import mambascope
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation import explain
from mambascope.explanation.defaults import default_method
from models import stock_transformer
from rounding import assert_equal_to_rounding
from small_checkpoint import make_checkpoint

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

TEXT = "When Mary and John went to the store"


@pytest.fixture(scope="module", params=["mamba", "mamba2"])
def loaded(request, tmp_path_factory):
    return mambascope.load(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param))


def logits(loaded, text=TEXT):
    model, tokenizer = loaded
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text)["input_ids"]]), use_cache=False).logits[0].float()


def test_a_target_token_is_named_by_text_or_id(loaded):
    token = loaded[1]("e")["input_ids"][0]
    by_text = mambascope.explain(*loaded, TEXT, method="mamba-lrp", target="e")
    by_id = mambascope.explain(*loaded, TEXT, method="mamba-lrp", target=token)
    assert_equal_to_rounding(by_text.scores, by_id.scores)
    assert by_text.target.asked == "logit of 'e'"
    assert by_text.target.value == pytest.approx(float(logits(loaded)[-1, token]), rel=1e-4, abs=1e-5)
    assert not torch.allclose(by_text.row(), mambascope.explain(*loaded, TEXT, method="mamba-lrp", target="t").row())


@pytest.mark.parametrize("method", ["mamba-lrp", "alti-logit", "gradient-x-input", "occlusion", "knockout"])
def test_a_contrast_is_the_difference_of_two_explanations(loaded, method):
    """All of these are linear in the readout."""
    target, foil, both = (
        mambascope.explain(*loaded, TEXT, method=method, **asked)
        for asked in ({"target": "e"}, {"target": "t"}, {"target": "e", "foil": "t"})
    )
    assert both.target.asked == "logit of 'e' minus that of 't'"
    assert both.target.value == pytest.approx(target.target.value - foil.target.value, abs=1e-4)
    scale = target.row().abs().max()
    assert torch.allclose(both.row(), target.row() - foil.row(), atol=1e-4 * scale)


def test_without_a_method_the_question_decides(loaded):
    assert mambascope.explain(*loaded, TEXT).method == "mamba-lrp"
    assert mambascope.explain(*loaded, TEXT, layer=0).method == "latim"
    assert mambascope.explain(*loaded, TEXT, positions="all").method == "latim"
    assert mambascope.explain(loaded[0].base_model, loaded[1], TEXT).method == "latim", "nothing is predicted"
    assert mambascope.explain(*loaded, TEXT, target="e").method == "mamba-lrp"
    assert mambascope.explain(*loaded, TEXT, target="e", foil="t").method == "mamba-lrp"
    assert mambascope.explain(*loaded, TEXT, foil="t").method == "mamba-lrp"
    assert mambascope.explain(*loaded, TEXT, continuation=" to").method == "mamba-lrp"
    assert default_method(stock_transformer("gpt2"), asks=True) == "alti-logit"
    assert default_method(loaded[0].base_model, asks=True) == "mamba-lrp", "which says that there is no head"


@pytest.mark.parametrize("method", [None, "mamba-lrp"])
def test_a_foil_alone_is_contrasted_with_the_likeliest(loaded, method):
    best = int(logits(loaded)[-1].argmax())
    alone = mambascope.explain(*loaded, TEXT, method=method, foil="t")
    named = mambascope.explain(*loaded, TEXT, method="mamba-lrp", target=best, foil="t")
    assert alone.target.asked == named.target.asked
    assert alone.target.asked.endswith(" minus that of 't'")
    assert_equal_to_rounding(alone.scores, named.scores)


def test_a_continuation_is_explained_as_a_whole(loaded):
    result = mambascope.explain(*loaded, TEXT, method="mamba-lrp", continuation=" to the")
    assert "".join(result.tokens) == TEXT + " to the"
    start = len(loaded[1](TEXT)["input_ids"])
    ids = loaded[1](TEXT + " to the")["input_ids"]
    rows = logits(loaded, TEXT + " to the").log_softmax(-1)
    expected = sum(float(rows[place - 1, ids[place]]) for place in range(start, len(ids)))
    assert result.target.value == pytest.approx(expected, rel=1e-4)
    assert result.target.position == len(ids) - 2, "what follows the last token is not asked about"
    assert not result.row()[-1:].any()
    rolled = mambascope.explain(*loaded, TEXT, method="rollout", continuation=" to the").row()
    rows = [
        mambascope.explain(*loaded, TEXT + " to the", method="rollout", position=place).row()
        for place in range(start - 1, len(ids) - 1)
    ]
    assert torch.allclose(rolled, torch.stack(rows).mean(dim=0), atol=1e-5 * float(rolled.abs().max()))
    layerwise = mambascope.explain(*loaded, TEXT, method="latim", continuation=" to the").row()
    assert layerwise.shape == (len(ids),)
    assert len(ids) - start > 1, "one position would be no test"


@pytest.mark.parametrize("method", ["mamba-lrp", "alti-logit", "latim", "rollout", "value-zeroing"])
def test_a_continuation_is_one_target_and_no_mean_of_pooled_positions(loaded, method):
    """Only classes are read from the mean of positions, and only for those do results say so."""
    result = mambascope.explain(*loaded, TEXT, method=method, continuation=" to the")
    assert result.target.pooled == 1
    assert result.axes["target"] == (result.target.position,)
    last = result.target.position
    assert f"position {last}" in repr(result)
    assert "the mean of" not in repr(result)
    assert [source.position for source in result.top(99)] == [source.position for source in result.top(99, last)]
    assert max(source.position for source in result.top(99)) <= last, "what comes after it is no source"


@pytest.mark.parametrize("text", [TEXT, 5 * TEXT], ids=["short", "long"])
@pytest.mark.parametrize("method", ["value-zeroing", "latim", "latim-alti", "alti-rollout", "implicit-rollout"])
def test_what_scores_positions_gives_a_continuation_the_mean_of_its_positions(loaded, method, text):
    """Of a short text its positions are so many that they are taken from a map; of a long one, row by row."""
    joined = text + " to the"
    start, end = (len(loaded[1](one)["input_ids"]) for one in (text, joined))
    found = mambascope.explain(*loaded, text, method=method, continuation=" to the")
    alone = [mambascope.explain(*loaded, joined, method=method, position=k) for k in range(start - 1, end - 1)]
    assert len(alone) > 1
    expected = torch.stack([one.scores for one in alone]).mean(dim=0)
    assert torch.allclose(found.scores, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "store"}, r"the target 'store' is \d tokens, 's'"),
        ({"target": "e", "foil": "store"}, "the foil 'store' is"),
        ({"target": "e", "foil": "e"}, "the foil is the target itself, 'e'"),
        ({"target": 10_000}, "the target 10000 is not a token: the model predicts"),
        ({"target": ""}, "empty"),
        ({"continuation": ""}, "empty"),
        ({"continuation": " to", "target": "e"}, "a continuation is explained at its own positions; leave out target"),
        ({"continuation": " to", "foil": "e"}, "a continuation is explained as a whole; ask for it without a foil"),
        ({"continuation": " to", "position": 3}, "a continuation is explained at its own positions; .* and position"),
        ({"continuation": " to", "generate": 3}, "continuation and generate both say what follows the text"),
        ({"generate": 0}, "generate=0 asks for no token; ask for 1 or more"),
        ({"generate": 2, "target": "e"}, "generated tokens are explained at their own positions; leave out target"),
        (
            {"generate": 2, "positions": "all"},
            "generated tokens are explained at their own positions; leave out target and position",
        ),
        ({"position": 1, "positions": [1, 2]}, "position and positions both say which position is explained"),
        ({"positions": [1, 1]}, "positions 1 is named twice; name each position once"),
        ({"positions": [0, -400]}, "position -400 does not exist: the text has"),
        ({"positions": "400:"}, "no positions in 400:; the text has"),
        ({"positions": []}, "positions .. is neither a number, a range"),
        ({"patch": (1, 2)}, "patch is a place in a picture, and Mamba.* reads text; use position"),
        (
            {"method": "latim", "target": "e"},
            "latim scores a position, whatever is predicted there; .* choose one of alti",
        ),
        ({"method": "latim", "foil": "e"}, "latim scores a position, whatever is predicted there"),
        ({"foil": "e", "layer": 0}, "mamba-lrp explains the whole model, not single layers"),
        ({"method": "mamba-lrp", "layer": 0}, "explains the whole model, not single layers"),
        ({"method": "latim", "variant": "reference-code"}, "latim has one variant; .*rollout"),
    ],
)
def test_questions_without_an_answer_are_refused_in_one_sentence(loaded, options, words):
    with pytest.raises(InputError, match=words) as caught:
        mambascope.explain(*loaded, TEXT, **options)
    assert "\n" not in str(caught.value)


def test_a_method_for_another_kind_of_layer_is_refused(loaded):
    with pytest.raises(
        UnsupportedModelError, match="norm-based reads softmax attention, but this model mixes tokens by"
    ):
        mambascope.explain(*loaded, TEXT, method="norm-based")


def test_a_model_without_a_head_has_no_logit_to_explain(loaded):
    bare = loaded[0].base_model
    ids = {"input_ids": torch.tensor([loaded[1](TEXT)["input_ids"]])}
    (result,) = explain(bare, None, ids, method=["latim"])
    assert result.target.asked == ""
    for method, question in (
        ("mamba-lrp", {}),
        ("mamba-lrp", {"target": 3}),
        ("mamba-lrp", {"foil": 3}),
    ):
        with pytest.raises(InputError, match="has no head"):
            explain(bare, None, ids, method=method, **question)
    with pytest.raises(InputError, match="has no head"):
        explain(bare, loaded[1], TEXT, method="latim", continuation=" to")


def classifier(kind):
    torch.manual_seed(0)
    if kind == "last":
        config = transformers.GPT2Config(
            n_layer=2, n_embd=12, n_head=2, vocab_size=50, pad_token_id=0, num_labels=3, n_positions=32
        )
        model = transformers.GPT2ForSequenceClassification(config)
    else:
        config = transformers.BertConfig(
            num_hidden_layers=2,
            hidden_size=12,
            num_attention_heads=2,
            intermediate_size=16,
            vocab_size=50,
            num_labels=3,
        )
        model = transformers.BertForSequenceClassification(config)
    model.config.id2label = {0: "bad", 1: "fair", 2: "good"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if "orm" in name and name.endswith("weight") else 0, 0.4)
    return model.eval()


@pytest.mark.parametrize(("kind", "place"), [("last", 8), ("first", 0)])
def test_a_classifier_is_asked_by_class_where_it_reads_its_logits(kind, place):
    model = classifier(kind)
    inputs = {"input_ids": torch.arange(1, 10)[None]}
    result = explain(model, None, inputs, method="gradient-x-input", target="good", foil="bad")
    with torch.no_grad():
        out = model(**inputs).logits[0]
    assert result.target.asked == "logit of class 'good' minus that of 'bad'"
    assert result.target.value == pytest.approx(float(out[2] - out[0]), rel=1e-4)
    assert result.target.position == place
    assert {name for name, _ in result.target.next_tokens} == {"bad", "fair", "good"}
    (row,) = explain(model, None, inputs, method=["raw-attention"])
    assert row.axes["target"] == (place,)
    with pytest.raises(InputError, match="'best' is not a class of this model; its classes are bad, fair, good"):
        explain(model, None, inputs, method="gradient-x-input", target="best")
    with pytest.raises(InputError, match="7 is not a class"):
        explain(model, None, inputs, method="gradient-x-input", target=7)
