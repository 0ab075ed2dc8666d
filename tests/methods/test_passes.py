"""No pass is run twice for the same question: forward passes of the model, and captures, method by method."""

import dataclasses

import pytest
import torch

from mambascope import readouts
from mambascope.explanation import explain, subject, views
from mambascope.methods.registry import METHODS
from mambascope.trace import capture
from models import padded_batch, stock_model, stock_transformer
from rounding import assert_equal_to_rounding

#: Forward passes of one explanation of 6 tokens: that of the capture, and those that the method needs. Interventions
#: run all copies of so short a text at once; captum's gradients are held to the readout at both ends of their way.
PASSES = {
    "alti-logit": 2,
    "mamba-attribution": 2,
    "mamba-lrp": 2,
    "gradient-x-input": 4,
    "smoothgrad": 4,
    "knockout": 2,
    "occlusion": 2,
}
#: Integrated gradients run in parts, as many as their steps ask for.
VARIES = {"integrated-gradients"}


@pytest.fixture
def counted(monkeypatch):
    """A model whose forward passes are counted, and so are captures."""
    model, counts = stock_model("mamba"), {"passes": 0, "captures": 0}

    def passed(*_):
        counts["passes"] += 1

    def captured(*args, **kwargs):
        counts["captures"] += 1
        return stock(*args, **kwargs)

    stock = subject.capture
    monkeypatch.setattr(subject, "capture", captured)
    model.register_forward_hook(passed)
    return model, counts


def explained(model, names):
    inputs = {"input_ids": padded_batch(6, 1, "left")[0]}
    return explain(model, None, inputs, method=names, progress=False)


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if m.reads({"scan"}) and m.name not in VARIES])
def test_passes_of_each_method(counted, name):
    model, counts = counted
    explained(model, [name])
    assert counts == {"passes": PASSES.get(name, 1), "captures": 1}


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if m.reads({"attention"}) and m.name not in VARIES])
def test_passes_of_each_method_in_a_transformer(name):
    """For value zeroing a layer runs again by itself."""
    passes, model = [], stock_transformer("gpt2")
    model.register_forward_hook(lambda *_: passes.append(1))
    explained(model, [name])
    assert len(passes) == (2 if name == "transformer-attribution" else PASSES.get(name, 1))


def test_methods_that_are_asked_together_share_what_they_need(counted):
    """One capture for all, one backward pass for those that weight by gradients, whatever is asked in between."""
    model, counts = counted
    names = ["latim", "rollout", "value-zeroing", "mamba-attribution", "alti-logit", "mamba-lrp"]
    explained(model, names)
    assert counts == {"passes": 4, "captures": 1}


def test_a_run_computes_the_gradients_of_a_readout_once(counted):

    model, counts = counted
    trace = capture(model, input_ids=torch.tensor([[3, 4, 5]]))
    first, again, other = (trace.gradients(readouts.token(2, token)) for token in (7, 7, 8))
    assert first is again
    assert other is not first
    assert trace.logit_direction(readouts.token(2, 7)) is trace.logit_direction(readouts.token(2, 7))
    assert counts["passes"] == 4


def test_no_pass_is_shared_between_different_inputs():
    """As when copies of a text are explained by the trace of the text: what was computed for one is not the other's."""
    model, readout = stock_model("mamba"), readouts.token(2, 7)
    first, second = (capture(model, input_ids=torch.tensor([ids])) for ids in ([3, 4, 5], [9, 8, 7]))
    of_first = first.gradients(readout)
    moved = dataclasses.replace(first, inputs=second.inputs)
    assert_equal_to_rounding(moved.gradients(readout).embeddings, second.gradients(readout).embeddings)
    assert not torch.allclose(moved.gradients(readout).embeddings, of_first.embeddings)
    assert_equal_to_rounding(first.gradients(readout).embeddings, of_first.embeddings)


def test_a_page_is_made_from_one_capture(counted, monkeypatch):
    """Whatever it offers to switch to."""
    monkeypatch.setattr(views, "MAP_SECONDS", 1e6)
    monkeypatch.setattr(views, "METHOD_SECONDS", 1e6)
    model, counts = counted
    results = explain(model, None, {"input_ids": padded_batch(6, 1, "left")[0]}, views=True, progress=False)
    assert len(results) > 5
    assert counts["captures"] == 1
