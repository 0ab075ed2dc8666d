"""Readouts against torch formulas, and what they refuse."""

from types import SimpleNamespace

import pytest
import torch

from mambascope import InputError, readouts
from mambascope.readouts import Readout, logits_of, read, read_at
from rounding import assert_equal_to_rounding

LOGITS = torch.randn(2, 9, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FEATURES = SimpleNamespace(last_hidden_state=torch.ones(2, 9, 4, dtype=torch.float64))
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
    assert_equal_to_rounding(readout.of_logits(LOGITS), LOGITS[:, 6, 31] - LOGITS[:, 6, 8])
    assert readout.positions == (6,)
    assert readout.label == "logit of 'token 31' minus that of 'token 8'"


def test_a_class_is_read_without_a_position():
    assert torch.equal(readouts.class_(3).of_logits(CLASSES), CLASSES[:, 3])
    assert_equal_to_rounding(readouts.class_(3, 0).of_logits(CLASSES), CLASSES[:, 3] - CLASSES[:, 0])
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


def test_words_that_cannot_come_add_nothing_to_the_first_order():
    logits, banned = LOGITS.clone(), torch.tensor([1, 4])
    logits[..., banned] = -torch.inf
    kept = torch.tensor([entry for entry in range(LOGITS.shape[-1]) if entry not in banned])
    among = int((kept == 7).nonzero())
    found = readouts.continuation(3, [7], "…").first_order(logits)
    assert torch.allclose(found, readouts.continuation(3, [among], "…").first_order(logits[..., kept]), rtol=1e-12)


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
        (lambda: readouts.token(0, -1), "the token -1 does not exist; they are counted from 0"),
        (lambda: readouts.token(0, 1, -1), "the foil -1 does not exist"),
        (lambda: readouts.class_(-1), "the class -1 does not exist"),
        (lambda: readouts.continuation(1, [3, -1], "a"), "the token or class -1 does not exist"),
        (lambda: readouts.token(0, True), "the token must be a whole number, found True"),
        (lambda: readouts.continuation(True, [1], "a"), "start must be a whole number, found True"),
        (lambda: readouts.features(0, torch.full((3,), torch.inf)), "the direction holds NaN or infinite values"),
        (lambda: Readout("…", (0,), (readouts.Term(0, 1, float("nan")),)), "weight of a term must be a finite number"),
        (lambda: readouts.OneEach(()), "pass one readout for each text"),
        # what only the outputs can tell is refused when they are read
        (lambda: readouts.token(9, 1)(LOGITS), "position 9 is not a position of this text, which has positions 0 to 8"),
        (lambda: readouts.token(-10, 1)(LOGITS), "position -10 is not a position"),
        (lambda: readouts.token(0, 40)(LOGITS), "there is no logit 40: the model predicts 40 tokens, 0 to 39"),
        (lambda: readouts.token(0, 1, 99)(LOGITS), "there is no logit 99"),
        (lambda: readouts.class_(5)(CLASSES), "there is no logit 5: the model predicts 5 classes, 0 to 4"),
        (
            lambda: readouts.class_(1)(LOGITS),
            "the readout is a class, but this model predicts a token at every position",
        ),
        (lambda: readouts.continuation(9, [1, 2], "…")(LOGITS), "position 9 is not a position"),
        (lambda: readouts.features(9)(FEATURES), "position 9 is not a position"),
        (lambda: readouts.features(0, torch.ones(5))(FEATURES), "the direction has 5 numbers, but .* has 4 features"),
        (lambda: readouts.OneEach((readouts.token(0, 1),))(LOGITS), "1 readouts were given for 2 texts"),
        (lambda: readouts.token(0, 1)(LOGITS.long()), "logits must be floating-point numbers of shape"),
        (lambda: read(lambda outputs: 3.0, LOGITS), r"one number per text, here 2, found 3\.0"),
        (lambda: read(lambda outputs: outputs.mean(), LOGITS), r"found a torch.float64 of shape \(\)"),
        (lambda: read(lambda outputs: outputs[:, 0, 0] * torch.nan, LOGITS), r"the number to explain is \[nan, nan\]"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_where_a_number_is_read_is_known_but_for_a_class():
    assert read_at(readouts.token(-1, 3, 4)) == (-1, -1)
    assert read_at(readouts.continuation(4, [1, 2], "…")) == (3, 4)
    assert read_at(readouts.features(2)) == (2,)
    assert read_at(readouts.class_(1, positions=[3])) is None
    assert read_at(lambda outputs: outputs.logits[:, 0, 0]) is None
