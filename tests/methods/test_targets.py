"""Targets in padded batches: counted in each text, the same rows as one by one, and refused where they are padding."""

import functools
import itertools

import pytest
import torch

from mambascope import readouts
from mambascope.errors import InputError
from mambascope.explanation import explain
from mambascope.methods.alti import alti_rollout_row
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.gradients import gradient_x_input, integrated_gradients
from mambascope.methods.implicit_attention import implicit_rollout_row
from mambascope.methods.interventions import knockout
from mambascope.methods.latim import contributions
from mambascope.methods.mamba_attribution import from_gradients as mamba_attribution
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.method import ATTENTION, SCAN
from mambascope.methods.occlusion import occlusion
from mambascope.methods.registry import METHODS
from mambascope.methods.rollout import rollout_row
from mambascope.methods.transformer_attribution import from_gradients as transformer_attribution
from mambascope.positions import positions_in
from mambascope.readouts import OneEach
from mambascope.trace import capture
from mambascope.trace.differentiate import differentiate
from models import FAMILIES, padded_batch, stock_model, stock_transformer, without_downcasts

LENGTH, TEXTS = 13, 3
BIAS = "the bias of contributions"
#: Families of attention, with the sides on which they can be padded: GPT-2 counts its positions from the left.
ATTENDING = {"gpt2": ("right",), "gpt_neox": ("right", "left"), "llama": ("right", "left")}


def of_layer(name, **options):
    return lambda trace, gradients, target: METHODS[name].row(trace, 1, target, **options)


def rows_of(kinds):
    return [name for name, method in METHODS.items() if method.row is not None and method.kinds == kinds]


SHARED = {
    name: of_layer(name) for name, method in METHODS.items() if method.row is not None and method.kinds is None
} | {
    "contributions": lambda trace, gradients, target: contributions(trace, 1, target)[0].sum(dim=-1),
    BIAS: lambda trace, gradients, target: contributions(trace, 1, target)[1],
    "rollout": lambda trace, gradients, target: rollout_row(trace, target),
    "implicit rollout": lambda trace, gradients, target: implicit_rollout_row(trace, target),
    "ALTI rollout": lambda trace, gradients, target: alti_rollout_row(trace, target),
}
OF_SCANS = SHARED | {
    **{name: of_layer(name) for name in rows_of(SCAN)},
    "rollout, normalised": lambda trace, gradients, target: rollout_row(trace, target, normalise=True),
    "Mamba-Attribution": lambda trace, gradients, target: mamba_attribution(trace, gradients, [target]),
}
OF_ATTENTION = SHARED | {
    **{
        name: of_layer(name) for name, method in METHODS.items() if method.row is not None and method.kinds == ATTENTION
    },
    "Transformer-Attribution": lambda trace, gradients, target: transformer_attribution(trace, gradients, [target]),
}


def passes(model, target, **inputs):
    readout = readouts.token(target, 7)
    return capture(model, **inputs), differentiate(model, readout, mixers=True, **inputs)


def same_one_by_one(model, side, methods, bound, targets=(-1, -3)):
    ids, mask = padded_batch(LENGTH, TEXTS, side)
    for target in targets:
        batch = passes(model, target, input_ids=ids, attention_mask=mask)
        found = {name: rows(*batch, target) for name, rows in methods.items()}
        for text in range(TEXTS):
            real = mask[text].bool()
            alone = passes(model, target, input_ids=ids[text : text + 1, real])
            for name, rows in methods.items():
                ours, expected = found[name][text], rows(*alone, target)[0]
                assert expected.any() or name == BIAS, name
                ours = ours[real] if len(ours) == LENGTH else ours
                assert float((ours - expected).norm()) <= bound * float(expected.norm()), f"{name}, {text}, {target}"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_gives_the_rows_of_one_by_one(family, side):
    """Without biases, which the stock models let flow from tokens that are padded on the left."""
    model = stock_model(family, torch.float64, use_bias=False, use_conv_bias=False)
    with without_downcasts(family):
        same_one_by_one(model, side, OF_SCANS, 1e-10)


@pytest.mark.parametrize(("family", "side"), [(family, side) for family, sides in ATTENDING.items() for side in sides])
def test_a_padded_batch_gives_the_rows_of_one_by_one_in_transformers(family, side):
    """In float32, as eager attention in float64 gives no numbers where padding masks a whole row.

    Scores are then differences of sums of single precision, some of which nearly cancel.
    """
    same_one_by_one(stock_transformer(family), side, OF_ATTENTION, 1e-4)


def test_readouts_count_their_positions_in_each_text():
    model = stock_model("mamba", torch.float64, use_bias=False, use_conv_bias=False)
    numbers = (readouts.token(-1, 7, 11), readouts.continuation(3, [4, 9], "…"), readouts.token(-2, 5))
    for side, readout in itertools.product(("right", "left"), numbers):
        ids, mask = padded_batch(LENGTH, TEXTS, side)
        if side == "left" and readout.positions[0] >= 0:
            continue  # the position is padding there
        batch = {"input_ids": ids, "attention_mask": mask}
        found = {name: explain(model, readout, **batch) for name, explain in EXPLAINERS.items()}
        for text in range(TEXTS):
            real = mask[text].bool()
            for name, run in EXPLAINERS.items():
                expected = run(model, readout, input_ids=ids[text : text + 1, real])
                assert torch.allclose(found[name][0][text], expected[0][0], rtol=1e-6, atol=1e-9), name
                assert torch.allclose(found[name][1][text][real], expected[1][0], rtol=1e-6, atol=1e-9), name


def of_alti_logit(model, readout, **inputs):
    found = alti_logit(capture(model, **inputs), readout)
    return found.value, found.scores.sum(dim=1)


def scored(method):
    def explain(model, readout, **inputs):
        found = method(capture(model, **inputs), readout)
        return found.value, found.scores

    return explain


EXPLAINERS = {
    "alti-logit": of_alti_logit,
    **{method.__name__: scored(method) for method in (mamba_lrp, gradient_x_input)},
    "integrated_gradients": scored(functools.partial(integrated_gradients, steps=8)),
}


@pytest.mark.parametrize("side", ["right", "left"])
def test_interventions_on_a_padded_text_are_those_on_the_text(side):
    model = stock_model("mamba2", torch.float64, use_bias=False, use_conv_bias=False)
    ids, mask = padded_batch(LENGTH, TEXTS, side)
    ids, mask, real = ids[2:], mask[2:], mask[2].bool()
    for method in (knockout, occlusion):
        with without_downcasts("mamba2"):
            padded = method(capture(model, input_ids=ids, attention_mask=mask), readouts.token(-1, 7))
            alone = method(capture(model, input_ids=ids[:, real]), readouts.token(-1, 7))
        assert padded.value == pytest.approx(alone.value, rel=1e-10)
        assert torch.allclose(padded.scores[real], alone.scores, rtol=1e-8, atol=1e-10)
        # the pass without a padded token is the intact one, but for the order of its sums
        assert padded.scores[~real].abs().max() <= 1e-10 * padded.scores.abs().max(), "padding is no source"


def test_copies_of_a_padded_text_each_have_a_readout_of_their_own():
    model = stock_model("mamba", torch.float64)
    ids, mask = padded_batch(LENGTH, TEXTS, "right")
    batch = {"input_ids": ids[1:2].expand(2, -1), "attention_mask": mask[1:2].expand(2, -1)}
    both = mamba_lrp(capture(model, **batch), OneEach((readouts.token(-1, 7), readouts.token(-2, 5))))
    for text, readout in enumerate((readouts.token(-1, 7), readouts.token(-2, 5))):
        one = mamba_lrp(capture(model, input_ids=ids[1:2], attention_mask=mask[1:2]), readout)
        assert both.value[text] == pytest.approx(float(one.value[0]), rel=1e-9)
        assert torch.allclose(both.scores[text], one.scores[0], rtol=1e-9, atol=1e-12)


def test_an_explained_text_may_be_padded():
    """`explain` takes a mask: the last token is then the text's own."""
    model = stock_model("mamba")
    ids, mask = padded_batch(LENGTH, TEXTS, "right")
    for method in ("latim", "mamba-lrp"):
        ask = functools.partial(explain, model, None, method=method)
        padded = ask({"input_ids": ids[2:], "attention_mask": mask[2:]})
        alone = ask({"input_ids": ids[2:, :9]})
        assert padded.target.position == alone.target.position == 8
        assert torch.allclose(padded.row()[:9], alone.row(), rtol=1e-4, atol=1e-6)
        with pytest.raises(InputError, match="position 12 is padding in text 0; its own tokens are at 0 to 8"):
            ask({"input_ids": ids[2:], "attention_mask": mask[2:]}, position=12)


def test_positions_are_counted_in_each_text():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    assert positions_in(None, (2, 4), -1).tolist() == [[3], [3]]
    assert positions_in(None, (1, 4), range(0, 4, 2)).tolist() == [[0, 2]]
    assert positions_in(mask, (3, 4), -1).tolist() == [[3], [1], [3]]
    assert positions_in(mask.bool(), (3, 4), [-2, -1]).tolist() == [[2, 3], [0, 1], [2, 3]]
    assert positions_in(mask[:2], (2, 4), (1, -1)).tolist() == [[1, 3], [1, 1]]


@functools.cache
def padded_passes(side):
    ids, mask = padded_batch(LENGTH, TEXTS, side)
    return passes(stock_model("mamba"), -1, input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("name", OF_SCANS)
def test_padding_is_no_target(name):
    for side, target, words in (
        ("right", LENGTH - 1, "target 12 is padding in text 1; its own tokens are at 0 to 10; negative"),
        ("left", 1, "target 1 is padding in text 1; its own tokens are at 2 to 12"),
        ("right", -11, "target -11 is not a position of text 2, which has 9 tokens"),
        ("right", LENGTH, "target 13 is not a position of this text"),
        ("right", True, "target must be a whole number, found True"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            OF_SCANS[name](*padded_passes(side), target)
        assert "\n" not in str(caught.value)


def test_readouts_say_what_is_not_there():
    model = stock_model("mamba")
    ids, mask = padded_batch(LENGTH, TEXTS, "right")
    for run in EXPLAINERS.values():
        for readout, words in (
            (readouts.token(LENGTH - 1, 7), "position 12 is padding in text 1"),
            (readouts.token(28, 7), "position 28 is not a position of this text, which has positions 0 to 12"),
            (readouts.token(2, 50), "there is no logit 50: the model predicts 50 tokens, 0 to 49"),
            (readouts.class_(2), "the readout is a class, but this model predicts a token at every position"),
        ):
            with pytest.raises(InputError, match=words):
                run(model, readout, input_ids=ids, attention_mask=mask)
