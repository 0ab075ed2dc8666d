"""What newcomers pass by mistake is answered by one sentence that says what to pass, and never by a traceback.

The calls run in a process of their own, as users run them: in these tests annotations are checked before any code runs.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = """
import json, sys
import numpy as np, torch
import mambascope
import mambascope.trace.differentiate
import mambascope.trace.directions
from mambascope.explanation import explain
from mambascope.trace import capture

transformers = __import__("transformers")
transformers.logging.set_verbosity_error()
sys.path[:0] = TESTS
from models import stock_model
from picture_checkpoints import vim
from small_tokenizers import byte_level

model, tokenizer, ids = stock_model("mamba", vocab_size=300), byte_level(merges=False), torch.tensor([[1, 2, 3, 4]])
text, seeing, readout = "some words", vim(), mambascope.readouts.token(1, 2)
pixels = np.zeros((32, 32, 3), dtype=np.uint8)
trace = capture(model, input_ids=ids)
linear, wrapped = torch.nn.Linear(2, 2), torch.nn.ModuleList([model])
explain = mambascope.explain


def picture(model, pixels, **options):
    return explain(model, None, pixels, **options)


PASSES = {
    "differentiate": mambascope.trace.differentiate.differentiate,
    "logit_direction": mambascope.trace.directions.logit_direction,
}
OF_A_RUN = {
    name: getattr(mambascope.methods, name)
    for name in ("mamba_lrp", "gradient_x_input", "integrated_gradients", "smooth_grad", "occlusion", "knockout")
}
ONE_LAYER = {
    name: getattr(mambascope.methods, name)
    for name in ("hidden_attention", "implicit_attention", "raw_attention", "latim", "alti")
}
ONE_LAYER["operator"] = mambascope.Trace.operator
ONE_LAYER["contributions"] = lambda trace, layer: mambascope.methods.contributions(trace, layer, 1)
ONE_LAYER["value_zeroing"] = mambascope.methods.value_zeroing

result = mambascope.explain(model, tokenizer, text, method="latim", positions="all")

calls = {
    "explain str": lambda: explain("tiny-mamba", tokenizer, text),
    "explain linear": lambda: explain(linear, tokenizer, text),
    "explain linear by a method": lambda: explain(linear, tokenizer, text, method="latim"),
    "explain wrapped": lambda: explain(wrapped, tokenizer, text),
    "explain swapped": lambda: explain(tokenizer, model, text),
    "explain two models": lambda: explain(model, model, text),
    "explain a pair": lambda: explain((model, tokenizer), tokenizer, text),
    "explain None": lambda: explain(None, tokenizer, text),
    "explain a class": lambda: explain(type(model), tokenizer, text),
    "explain a configuration": lambda: explain(model.config, tokenizer, text),
    "explain tokenizer str": lambda: explain(model, "gpt2", text),
    "explain an empty list": lambda: explain(model, tokenizer, []),
    "explain a list of lists": lambda: explain(model, tokenizer, [[text]]),
    "explain a list with nothing": lambda: explain(model, tokenizer, [text, ""]),
    "explain a list, methods": lambda: explain(model, tokenizer, [text], method=["latim"]),
    "explain a list, views": lambda: explain(model, tokenizer, [text], views=True),
    "explain no text": lambda: explain(model, tokenizer, None),
    "explain pictures' model": lambda: explain(seeing, tokenizer, text),
    "explain targets": lambda: explain(model, tokenizer, text, method="latim", positions="every"),
    "picture str": lambda: picture("tiny-mamba", pixels),
    "picture linear": lambda: picture(linear, pixels),
    "picture text model": lambda: picture(model, pixels),
    "picture None": lambda: picture(seeing, None),
    "picture list": lambda: picture(seeing, [1, 2]),
    "picture absent": lambda: picture(seeing, "absent.png"),
    "picture patch": lambda: picture(seeing, pixels, patch=(1.0, 2)),
    "picture patch str": lambda: picture(seeing, pixels, patch="1,2"),
    "picture patch 3": lambda: picture(seeing, pixels, patch=3),
    "picture stage": lambda: picture(seeing, pixels, stage=1.0),
    "capture str": lambda: capture("tiny-mamba"),
    "capture nothing": lambda: capture(model),
    "capture linear": lambda: capture(linear, input_ids=ids),
    "capture float ids": lambda: capture(model, input_ids=ids.float()),
    "load model": lambda: mambascope.load(model),
    "load None": lambda: mambascope.load(None),
    "channels": lambda: mambascope.methods.hidden_attention(trace, 0, [1.5]),
    "channels 5": lambda: mambascope.methods.hidden_attention(trace, 0, 5),
    "a window": lambda: mambascope.methods.knockout(trace, readout, targets=1, layers=1),
    "no readout": lambda: mambascope.methods.mamba_lrp(trace, 5),
}
for name in PASSES:
    calls[f"{name} str"] = lambda run=PASSES[name]: run("tiny-mamba", readout, input_ids=ids)
    calls[f"{name} nothing"] = lambda run=PASSES[name]: run(model, readout)
for name in OF_A_RUN:
    calls[f"{name} model"] = lambda run=OF_A_RUN[name]: run(model, readout)
for wrong in ("3", 2.0, True, [1]):
    for name in ONE_LAYER:
        calls[f"{name} layer={wrong!r}"] = lambda run=ONE_LAYER[name], wrong=wrong: run(trace, wrong)
    calls[f"result layer={wrong!r}"] = lambda wrong=wrong: result.matrix(wrong)
    calls[f"result position={wrong!r}"] = lambda wrong=wrong: result.row(wrong)
    for name in ("position", "target", "foil", "generate"):
        if not isinstance(wrong, str):
            given = {"method": "mamba-lrp", name: wrong}
            calls[f"explain {name}={wrong!r}"] = lambda given=given: explain(model, tokenizer, text, **given)
for wrong in (2.0, True, None, "x", [], [2.0], {1}):
    calls[f"explain layer={wrong!r}"] = lambda wrong=wrong: explain(model, tokenizer, text, method="latim", layer=wrong)
    calls[f"picture layer={wrong!r}"] = lambda wrong=wrong: picture(seeing, pixels, method="latim", layer=wrong)
for right in (1, "1", [1], (1,), range(1, 2), slice(1, 2), "1:2", np.int64(1), np.array([1]), torch.tensor(1), -1):
    given = {"method": "latim", "layer": right}
    calls[f"explain right {right!r}"] = lambda given=given: explain(model, tokenizer, text, **given).axes["layer"]
    calls[f"picture right {right!r}"] = lambda given=given: picture(seeing, pixels, **given).axes["layer"]

said = {}
for name, call in calls.items():
    try:
        said[name] = ["", str(call())]
    except Exception as error:
        said[name] = [type(error).__name__, str(error)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said():
    """What each call raised, by its name: the error's class, and its message; or what it returned, where it did."""
    script = f"TESTS = {[*map(str, sorted(p for p in Path(__file__).parents[1].iterdir() if p.is_dir()))]!r}\n{CALLS}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


EXPECTED = {
    "explain str": "the model is the name 'tiny-mamba'; load it first: model, tokenizer = mambascope.load('tiny-mam",
    "explain linear": "Linear holds no token mixer that mambascope can read; supported are models of the types mamba,",
    "explain linear by a method": "Linear holds no token mixer",
    "explain wrapped": "ModuleList does not say where its tokens are embedded",
    "explain swapped": "the model is a tokenizer; pass the model first, then its tokenizer",
    "explain two models": "the tokenizer is a model; pass the model first, then its tokenizer",
    "explain a pair": "the model is a pair; unpack it: model, tokenizer = mambascope.load(…)",
    "explain None": "the model must be one that mambascope.load or transformers returned, found None",
    "explain a class": "the model must be one that mambascope.load or transformers returned, found <class",
    "explain a configuration": "the model must be one that mambascope.load or transformers returned, found MambaConfig",
    "explain tokenizer str": "the tokenizer must be one that mambascope.load or transformers returned, found 'gpt2'",
    "explain an empty list": "the list of texts is empty; pass at least one",
    "explain a list of lists": "item 0 is a list itself, ['some words']; pass one",
    "explain a list with nothing": "item 1: the text is empty",
    "explain a list, methods": "a list of texts is explained by one method, without views",
    "explain a list, views": "a list of texts is explained by one method, without views",
    "explain no text": "the text must be a string, found NoneType",
    "explain pictures' model": "VisionMamba reads pictures and takes an image processor of transformers or None, found",
    "explain targets": "positions 'every' is neither a number",
    "picture str": "the model is the name 'tiny-mamba'; load it first",
    "picture linear": "Linear holds no token mixer",
    "picture text model": "MambaForCausalLM reads text, not pictures",
    "picture None": "a picture must be a file, bytes, a Pillow image, an array or a tensor of pixels, found None",
    "picture list": "item 0: a picture must be a file, bytes, a Pillow image, an array or a tensor of pixels, found 1",
    "picture absent": "there is no picture absent.png",
    "picture patch": "patch must be a whole number, found 1.0",
    "picture patch str": "patch must be a whole number, found '1,2'",
    "picture patch 3": "a patch is a row and a column from 0, such as (3, 7), found 3",
    "picture stage": "VisionMamba has no stages",
    "capture str": "the model is the name 'tiny-mamba'; load it first",
    "capture nothing": "there is nothing to read: pass input_ids (batch, tokens) or inputs_embeds",
    "capture linear": "Linear holds no token mixer",
    "capture float ids": "token ids must be one row of integers, found torch.float32",
    "load model": "load takes a name, a folder or a hub id, found MambaForCausalLM(",
    "load None": "load takes a name, a folder or a hub id, found None",
    "channels": "channel must be a whole number, found 1.5",
    "channels 5": "channels is 5; pass None",
    "a window": "a window of layers must be its first and last layer, found 1",
    "no readout": "a readout must be a function of a model's outputs, such as readouts.token(…), found 5",
}
PATTERNS = {
    "str": "the model is the name 'tiny-mamba'; load it first",
    "nothing": "there is nothing to read: pass input_ids",
    "model": "pass a trace, as returned by mambascope.capture(model, …); found MambaForCausalLM(",
}


def test_each_is_answered_by_one_sentence(said):
    unexpected = {name: found for name, found in said.items() if " right " not in name and not _is_ours(*found)}
    assert not unexpected


def _is_ours(kind, message):
    return kind in ("InputError", "UnsupportedModelError") and "\n" not in message


@pytest.mark.parametrize("call", EXPECTED)
def test_it_says_what_to_pass(said, call):
    assert said[call][1].startswith(EXPECTED[call])


def test_the_rest_says_what_was_found(said):
    for name, (_, message) in said.items():
        call, _, given = name.partition("=")
        if name in EXPECTED or " right " in name:
            continue
        if call in ("explain layer", "picture layer"):
            assert message.startswith(f"layer {given} is neither a number, a range"), name
        elif given:
            asked = call.rpartition(" ")[2]
            asked = asked if asked in ("layer", "position", "generate") else f"the {asked}"
            assert message == f"{asked} must be a whole number, found {given}", name
        else:
            assert message.startswith(PATTERNS[name.rpartition(" ")[2]]), name


def test_layers_that_have_one_meaning_are_those(said):
    right = {name: found for name, found in said.items() if " right " in name}
    assert len(right) == 22
    assert {tuple(found) for found in right.values()} == {("", "(1,)")}
