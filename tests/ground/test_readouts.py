"""Readouts against torch formulas, and what they refuse."""

from types import SimpleNamespace

import pytest
import torch

from mambascope import InputError, readouts
from mambascope.readouts import Readout, logits_of

LOGITS = torch.randn(2, 9, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_tokens_logit_is_read_at_its_position():
    readout = readouts.token(6, 31, names=(" ol", " x"))
    assert torch.equal(readout.of_logits(LOGITS), LOGITS[:, 6, 31])
    assert torch.equal(readout(SimpleNamespace(logits=LOGITS)), LOGITS[:, 6, 31])
    assert torch.equal(readout(LOGITS), LOGITS[:, 6, 31]), "a model may return its logits bare"
    assert readout.positions == (6,)
    assert readout.label == "logit of ' ol'"


def test_a_contrast_is_the_lead_over_the_foil():
    readout = readouts.token(6, 31, 8)
    assert torch.equal(readout.of_logits(LOGITS), LOGITS[:, 6, 31] - LOGITS[:, 6, 8])
    assert readout.positions == (6,)
    assert readout.label == "logit of 'token 31' minus that of 'token 8'"


def test_a_class_is_read_without_a_position():
    assert torch.equal(readouts.class_(3).of_logits(CLASSES), CLASSES[:, 3])
    assert torch.equal(readouts.class_(3, 0).of_logits(CLASSES), CLASSES[:, 3] - CLASSES[:, 0])
    assert readouts.class_(3).positions == ()
    assert readouts.class_(3, positions=[4]).positions == (4,)
    assert readouts.class_(1, 0, ("good", "bad")).label == "logit of class 'good' minus that of 'bad'"


def test_a_continuation_is_the_log_probability_of_each_token_given_those_before():
    tokens, start = [5, 39, 0], 4
    expected = sum(LOGITS[:, start - 1 + k].log_softmax(dim=-1)[:, token] for k, token in enumerate(tokens))
    readout = readouts.continuation(start, tokens, " and so")
    assert torch.allclose(readout.of_logits(LOGITS), expected, rtol=1e-14, atol=0)
    assert readout.positions == (3, 4, 5), "each token is predicted from the position before its own"
    assert readout.label == "log-probability of ' and so'"
    loss = torch.nn.functional.cross_entropy(LOGITS[0, 3:6], torch.tensor(tokens), reduction="sum")
    assert torch.allclose(readout.of_logits(LOGITS)[0], -loss, rtol=1e-14, atol=0)


def test_a_continuation_of_a_half_precision_model_is_computed_in_float32():
    tokens = [5, 39, 0]
    half = LOGITS.to(torch.bfloat16)
    value = readouts.continuation(4, tokens, "…").of_logits(half)
    exact = readouts.continuation(4, tokens, "…").of_logits(half.double())
    # float32 keeps 24 bits; bfloat16's 8 would leave errors of 4e-3
    assert torch.allclose(value.double(), exact, rtol=1e-6, atol=0)


def test_log_probabilities_of_classes_are_those_of_torch():
    readout = Readout("log-probability", (), readouts.class_(2).terms, log_probability=True)
    assert torch.allclose(readout.of_logits(CLASSES), CLASSES.log_softmax(dim=-1)[:, 2], rtol=1e-14, atol=0)


def test_the_gradient_in_the_logits_reaches_what_was_asked_and_nothing_else():
    leaf = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(readouts.token(6, 31, 8).of_logits(leaf).sum(), leaf)
    expected = torch.zeros_like(LOGITS)
    expected[:, 6, 31], expected[:, 6, 8] = 1, -1
    assert torch.equal(gradient, expected)
    (gradient,) = torch.autograd.grad(readouts.continuation(3, [7], "…").of_logits(leaf).sum(), leaf)
    expected = torch.zeros_like(LOGITS)
    expected[:, 2] = -LOGITS[:, 2].softmax(dim=-1)
    expected[:, 2, 7] += 1
    assert torch.allclose(gradient, expected, rtol=1e-13, atol=1e-16)


def test_first_order_is_the_gradient_at_the_logits_times_the_logits():
    for readout, logits in (
        (readouts.token(6, 31, 8), LOGITS),
        (readouts.continuation(3, [7, 0], "…"), LOGITS),
        (readouts.class_(3, 1), CLASSES),
        (Readout("log-probability", (), readouts.class_(2).terms, log_probability=True), CLASSES),
    ):
        leaf = logits.clone().requires_grad_()
        (c,) = torch.autograd.grad(readout.of_logits(leaf).sum(), leaf)
        expected = (c * logits).flatten(1).sum(dim=1)
        assert torch.allclose(readout.first_order(logits), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(readouts.token(6, 31).first_order(LOGITS), LOGITS[:, 6, 31]), "of a logit the logit itself"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: readouts.token(6, 31, 31), "the foil is the target itself, 31"),
        (lambda: readouts.token(6, 31, 31, (" ol", " ol")), "the foil is the target itself, ' ol'"),
        (lambda: readouts.class_(2, 2), "the foil is the target itself, 2"),
        (lambda: readouts.continuation(4, [], ""), "at least one token"),
        (lambda: readouts.continuation(0, [3], "a"), "a text before it"),
        (lambda: logits_of(SimpleNamespace(last_hidden_state=LOGITS)), "no head"),
        (lambda: readouts.token(0, 0)(SimpleNamespace(logits=None)), "no head"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
