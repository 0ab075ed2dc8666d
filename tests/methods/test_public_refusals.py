"""Every public function answers every wrong argument by one sentence of ours, warns of nothing, and changes nothing.

The calls are in `tests/support/hostile_calls.py`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mambascope
from mambascope import methods

CALLS = Path(__file__).parents[1] / "support" / "hostile_calls.py"

#: What is no function of a run: classes, tables, propagation rules.
OTHERS = {"LogitLens", "ATTN_LRP", "LRP", "LRP_VISION", "METHODS", "Method", "MethodResult", "SketchedMaps"}


@pytest.fixture(scope="module")
def told():
    """What each call said, by its name: whether it was refused, its message, and the warnings."""
    done = subprocess.run([sys.executable, str(CALLS)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def said(told):
    return told["said"]


def test_every_wrong_argument_is_refused(said):
    unexpected = {
        call: kind
        for call, (kind, _, _) in said.items()
        if kind != ("returned" if call.endswith(" right") else "refused")
    }
    assert not unexpected
    assert len(said) > 2500


def test_each_is_refused_in_one_sentence(said):
    long = {call: message for call, (_, message, _) in said.items() if "\n" in message or len(message) > 500}
    assert not long


def test_nothing_is_warned_of(said):
    assert not {call: warnings for call, (_, _, warnings) in said.items() if warnings}


def test_no_model_is_changed(told):
    assert told["changed"] == []


def test_every_public_function_is_called(said):
    called = {call.split(" ")[0].split("=")[0] for call in said}
    public = set(methods.__all__) - OTHERS
    assert not public - called
    functions = {name for name in mambascope.__all__ if callable(getattr(mambascope, name)) and name[0].islower()}
    assert functions - called == {"bundled_models"}, "which takes no argument"


SENTENCES = {
    "alti trace=3": "pass a trace, as returned by mambascope.capture(model, …); found 3",
    "token token=-1": "the token -1 does not exist; they are counted from 0",
    "token token=1.5": "the token must be a whole number, found 1.5",
    "class_ foil=-1": "the foil -1 does not exist; they are counted from 0",
    "integrated_gradients steps=0": "steps must be 1 or more, found 0",
    "knockout batch=-1": "batch must be 1 or more, found -1",
    "rollout normalise='yes'": "normalise must be True or False, found 'yes'",
    "smooth_grad noise=inf": "noise must be a finite number, found inf",
    "mamba_lrp rules='lrp'": "rules must be propagation rules, such as methods.LRP, found 'lrp'",
    "latim norm=True": "unknown norm True; choose one of 1, 2",
    "capture meta check=False": "backbone.embeddings.weight of this MambaForCausalLM has no numbers in memory",
    "capture NaN check=False": "layer 0 (backbone.layers.0.mixer, MambaMixer) returned NaN or infinite values: the "
    "model's weights are damaged, or its numbers overflow in this precision",
    "capture MambaForCausalLM nothing": "MambaForCausalLM does not read nothing; it reads input_ids, attention_mask, "
    "inputs_embeds",
    "top k=0": "k must be 1 or more, found 0",
    "find_method=''": "unknown method ''; choose one of latim",
    "load device='meta'": "device meta holds no weights",
}


@pytest.mark.parametrize("call", SENTENCES)
def test_it_says_what_was_wrong(said, call):
    assert said[call][1].startswith(SENTENCES[call])
