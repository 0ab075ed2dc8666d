"""Padding gets and gives nothing: exact zeros in the rows and maps of every method, whichever side is padded."""

import functools

import pytest
import torch

from hybrids import HYBRIDS, hybrid_model
from mambascope import methods, readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation import explain
from mambascope.explanation.runner import score, score_every
from mambascope.methods.registry import METHODS
from mambascope.methods.targets import looks_ahead
from mambascope.trace import capture
from models import FAMILIES, padded_batch, stock_model, stock_transformer

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

TEXTS = (*FAMILIES, "gpt2", "gpt_neox", "llama", "mistral", "bert")
SIDES = ("left", "right", "hole")
LENGTH, PADDED = 11, 4
#: float32 sums in another order, through two layers.
SINGLE = 2e-4
#: These draw random numbers of the padded text's shape, so a shorter text has others.
DRAWN = ("random", "smoothgrad")
#: Hybrids whose recurrent layers read no mask: padding before a text is refused.
MASKLESS = ("recurrent_gemma", "rwkv", "xlstm")


def text(side):
    """One text whose padding is on the left, on the right, or a hole in its middle."""
    if side == "hole":
        ids, mask = padded_batch(LENGTH, 1, "left")
        mask[0, 4:6] = 0
        return ids, mask
    ids, mask = padded_batch(LENGTH, 3, side)
    return ids[2:], mask[2:]


@functools.cache
def model_of(family):
    return stock_model(family) if family in FAMILIES else stock_transformer(family)


@functools.cache
def traced(family, side):
    ids, mask = text(side)
    return capture(model_of(family), input_ids=ids, attention_mask=mask)


def asked(family, real):
    """A token at the last real position but one, or a class at the first position, where BERT reads it."""
    if family == "bert":
        return readouts.class_(1, positions=[0])
    return readouts.token(int(real.nonzero()[-2]), 7)


def supported(family, method):
    return method.reads({"scan" if family in FAMILIES else "attention"}) and (family, method.name) != (
        "bert",
        "alti-logit",
    )


def methods_for(family):
    return [name for name, method in METHODS.items() if supported(family, method)]


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in TEXTS for name in methods_for(family)])
def test_padding_is_exactly_zero(family, name):
    for side in SIDES if family != "bert" else SIDES[1:]:
        _check_zeros(family, side, name)


def _check_zeros(family, side, name):
    trace, method = traced(family, side), METHODS[name]
    real = trace.attention_mask[0].bool()
    readout = asked(family, real)
    rows = score(trace, method, [readout])
    assert rows.scores[..., real].any(), "what is real has a score"
    assert not rows.scores[..., ~real].any(), "padded sources"
    if family != "bert":
        assert not rows.scores[..., readout.positions[0] + 1 :].any(), "the future of a causal model"
    for evidence in rows.diagnostics:
        assert evidence.get("conservation_error", 0) < SINGLE
    if method.map is None and method.whole_map is None:
        return
    maps = score_every(trace, method).scores
    assert maps[..., real, :].any()
    assert not maps[..., ~real].any(), "padded sources"
    assert not maps[..., ~real, :].any(), "padded targets"
    if family != "bert":
        assert not maps.triu(1).any(), "the future of a causal model"


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in ("mamba2", "gpt2", "bert") for name in methods_for(family) if name not in DRAWN],
)
def test_a_text_padded_on_the_right_has_the_scores_of_the_text_alone(family, name):
    trace, method = traced(family, "right"), METHODS[name]
    real = trace.attention_mask[0].bool()
    alone = capture(model_of(family), input_ids=trace.input_ids[:, real])
    readout = asked(family, real)
    padded, own = (score(one, method, [readout]).scores for one in (trace, alone))
    assert (padded[..., real] - own).abs().max() <= SINGLE * own.abs().max()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["mamba2", "gpt2"])
def test_so_it_is_when_the_functions_are_called_for_a_batch(family, side):
    ids, mask = padded_batch(LENGTH, 3, side)
    trace = capture(model_of(family), input_ids=ids, attention_mask=mask)
    padding = ~mask.bool()
    pairs = (padding[:, None] | padding[..., None]) | torch.ones(LENGTH, LENGTH).triu(1).bool()
    maps = {
        "alti": methods.alti(trace, 1),
        "alti_rollout": methods.alti_rollout(trace),
        "hidden_attention": methods.hidden_attention(trace, 1),
        "hidden_attention, mean": methods.hidden_attention(trace, 1, "mean"),
        "implicit_attention": methods.implicit_attention(trace, 1),
        "implicit_attention, mean": methods.implicit_attention(trace, 1, "mean"),
        "latim": methods.latim(trace),
        "raw_attention": methods.raw_attention(trace, 0),
        "rollout": methods.rollout(trace),
        "rollout, largest": methods.rollout(trace, channels="max", absolute=True, normalise=True, discard=0.5),
    }
    if family not in FAMILIES:
        maps["norm_based"] = methods.norm_based(trace, 1)
    for name, found in maps.items():
        here = pairs.view(3, *[1] * (found.ndim - 3), LENGTH, LENGTH).expand_as(found)
        assert not found[here].any(), name
        assert found[~here].any(), name
    readout = readouts.token(-1, 7)
    rows = {
        "latim_row": methods.latim_row(trace, 1, -1),
        "contributions": methods.contributions(trace, 1, -1)[0].abs().sum(dim=-1),
        "implicit_attention_row": methods.implicit_attention_row(trace, 0, -1),
        "implicit_rollout_row": methods.implicit_rollout_row(trace, -1),
        "rollout_row": methods.rollout_row(trace, -1),
        "alti_rollout_row": methods.alti_rollout_row(trace, -1),
        "alti_logit": methods.alti_logit(trace, readout).scores.sum(dim=1),
        "gradient_x_input": methods.gradient_x_input(trace, readout).scores,
        "integrated_gradients": methods.integrated_gradients(trace, readout, steps=2).scores,
        "smooth_grad": methods.smooth_grad(trace, readout, samples=2).scores,
    }
    if family in FAMILIES:
        rows["mamba_lrp"] = methods.mamba_lrp(trace, readout).scores
        rows["mamba_attribution"] = methods.mamba_attribution(trace, readout)
    else:
        rows["transformer_attribution"] = methods.transformer_attribution(trace, readout)
    for name, found in rows.items():
        assert not found[padding].any(), name
        assert found[~padding].any(dim=-1).all(), name


@pytest.mark.parametrize("family", [name for name in HYBRIDS if name not in MASKLESS])
@pytest.mark.parametrize("side", ["left", "hole"])
def test_rows_of_hybrids_have_exact_zeros_too(family, side):
    """Some mask padding only where it enters, and their convolutions write there."""
    ids, mask = text(side)
    trace = capture(hybrid_model(family), input_ids=ids, attention_mask=mask)
    real = mask[0].bool()
    for layer in range(len(trace.layers)):
        for name in ("hidden_attention_row", "implicit_attention_row", "latim_row", "raw_attention_row"):
            try:
                row = getattr(methods, name)(trace, layer, -1)[0]
            except UnsupportedModelError:
                continue
            assert not row[~real].any(), (name, layer)
            assert row[real].any(), (name, layer)
    for name in ("rollout_row", "implicit_rollout_row"):
        try:
            assert not getattr(methods, name)(trace, -1)[0, ~real].any(), name
        except UnsupportedModelError:
            continue


def test_shares_of_a_target_still_sum_to_one():
    trace = traced("llama", "left")
    real = trace.attention_mask[0].bool()
    for found in (methods.alti(trace, 0), methods.alti_rollout(trace)):
        sums = found[0].sum(dim=-1)
        assert torch.allclose(sums[real], torch.ones(int(real.sum())), atol=1e-5)
    assert not looks_ahead(trace, 0)


@pytest.mark.parametrize("method", ["gradient_x_input", "integrated_gradients", "smooth_grad"])
def test_a_class_that_is_read_from_padding_is_refused(method):
    """BERT reads its class from the first position, where a text padded on the left has no token."""
    with pytest.raises(InputError, match="read from padding, at position 0 of text 0; pad the texts on the side"):
        getattr(methods, method)(traced("bert", "left"), readouts.class_(1))


def test_explanations_of_padded_inputs_have_no_score_at_padding():
    ids, mask = text("left")
    result = explain(
        model_of("mamba2"), None, {"input_ids": ids, "attention_mask": mask}, method="implicit-attention",
        positions="all", progress=False,
    )  # fmt: skip
    assert not result.scores[..., :PADDED].any()
    assert not result.scores[:, :PADDED].any()
    assert result.scores[:, PADDED:, PADDED:].any()


def test_several_readouts_are_read_from_each_texts_own_end():
    """Occlusion reads all of them from the same passes; -1 is the last token, not the padding after it."""
    trace = traced("gpt2", "right")
    many = [readouts.token(-1, 7), readouts.token(-3, 7)]
    together = score(trace, METHODS["occlusion"], many).scores[0]
    last = int(trace.attention_mask.sum()) - 1
    for row, place in zip(together, (last, last - 2), strict=True):
        (alone,) = score(trace, METHODS["occlusion"], [readouts.token(place, 7)]).scores[0]
        assert torch.allclose(row, alone, atol=1e-6)


def test_methods_without_a_stream_say_so():
    with pytest.raises(UnsupportedModelError):
        methods.alti_logit(traced("bert", "right"), readouts.class_(1))
