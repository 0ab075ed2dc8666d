"""Calls every public function with every kind of wrong argument, and prints what each call said, as JSON.

It runs in a process of its own, as users run the package: in tests annotations are checked before any code runs.
"""

import copy
import io
import json
import math
import os
import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1].iterdir() if folder.is_dir()]

import numpy as np
import torch
import transformers

import mambascope
from mambascope import methods, readouts
from models import stock_model, stock_transformer
from picture_checkpoints import vim
from small_tokenizers import byte_level

transformers.logging.set_verbosity_error()

NAN = float("nan")
ids = torch.tensor([[3, 4, 5, 6, 7]])
model, other, attending = stock_model("mamba"), stock_model("mamba", seed=1), stock_transformer("gpt2")
bert, seeing = stock_transformer("bert"), vim()
broken, endless = stock_model("mamba"), stock_model("mamba")
with torch.no_grad():
    broken.backbone.layers[0].mixer.in_proj.weight[0, 0] = NAN
    endless.backbone.layers[1].mixer.out_proj.weight[0, 0] = math.inf
nowhere = copy.deepcopy(model).to("meta")
half = copy.deepcopy(model).double()
tokenizer = byte_level(merges=False)
trace = mambascope.capture(model, input_ids=ids)
changed = mambascope.capture(model, input_ids=ids + (ids == 5))
two = mambascope.capture(model, input_ids=torch.cat([ids, ids + 1]))
of_attention = mambascope.capture(attending, input_ids=ids)
of_bert = mambascope.capture(bert, input_ids=ids)
headless = mambascope.capture(model.backbone, input_ids=ids)
readout = readouts.token(4, 7)
reader = stock_model("mamba", vocab_size=300)
result = mambascope.explain(reader, tokenizer, "some words", method="latim", positions="all", progress=False)
single = mambascope.explain(reader, tokenizer, "some words", method="latim", progress=False)
parts = mambascope.explain(reader, tokenizer, "some words", method="alti-logit", progress=False)
pixels = np.zeros((32, 32, 3), dtype=np.uint8)

#: Wrong as anything: no public function takes any of them where it takes a number, a name or a tensor.
THINGS = ({}, object(), b"3", {1}, 1j)
NUMBERS = ("3", 1.5, True, NAN, math.inf, *THINGS)
WRONG = {
    "trace": (None, model, "trace", ids, 3, (), *THINGS),
    "other": (None, model, "trace", ids, 3, (), *THINGS),
    "layer": (None, [], [1], 99, -99, torch.tensor([0, 1]), *NUMBERS),
    "target": (None, [], [99], [1.5], 99, -99, torch.tensor([1.0]), *NUMBERS),
    "readout": (
        None, [], 3, "token", *THINGS, readouts.class_(1), readouts.token(99, 1), readouts.token(-99, 1),
        readouts.token(0, 999), readouts.token(0, 1, 999), readouts.features(1), readouts.Place((1,)),
        readouts.OneEach((readout, readout)), lambda outputs: None, lambda outputs: 3.0,
        lambda outputs: outputs.logits, lambda outputs: outputs.logits.mean(),
        lambda outputs: torch.tensor([NAN]), lambda outputs: outputs.logits[:, 0, 0].long(),
        lambda outputs: torch.zeros(2),
    ),
    "sources": ([], [99], [-99], [1.5], 1.5, *THINGS),
    "spans": ([], [3], [(3, 3)], [(3, 99)], [(2.0, 3)], [(1, 2, 3)], [(-2, 0)], "12", 1.5, *THINGS),
    "places": (None, [], [99], [1.5], 99, -99, *NUMBERS),
    "rule": (None, "", "relu", 3, [], *THINGS),
    "value_bias": (None, "", "both", 3, [], *THINGS),
    "norm": (None, 0, 3, "2", 1.5, True, math.inf, [], *THINGS),
    "channels": ("all", 5, [], [99], [-1], [1.5], [True], [None], [[1]], 1.5, *THINGS),
    "batch": (0, -1, [1], *NUMBERS),
    "progress": (3, "bar", [], int, *THINGS),
    "variant": (None, "", "released", "other", 3, [], *THINGS),
    "normalise": (None, "yes", 3, [], *THINGS),
    "absolute": (None, "yes", 3, [], *THINGS),
    "pixels": (None, "yes", 3, [], True, *THINGS),
    "discard": (None, 1, -0.1, 1.5, "0.5", NAN, math.inf, [], True, *THINGS),
    "reduction": (None, "median", 3, [], *THINGS),
    "steps": (None, 0, -1, [], *NUMBERS),
    "samples": (None, 0, -1, [], *NUMBERS),
    "seed": (None, [], 10**30, -(10**30), *NUMBERS),
    "sketch": (None, 0, -1, [], *NUMBERS),
    "exact": (None, 0, -1, [], *NUMBERS),
    "noise": (None, 0, -1, NAN, math.inf, "0.1", True, [], *THINGS),
    "baseline": (None, "", "max", 3, [], *THINGS),
    "what": (None, "", "value", 3, [], *THINGS),
    "replacement": (None, "", "max", -1, 999, True, 1.5, [], *THINGS),
    "targets": ([], [99], [1.5], 99, -99, *NUMBERS),
    "layers": (1, [], (1,), (0, 1, 2), (1, 0), (0, 99), (0, 1.5), "01", 1.5, True, *THINGS),
    "rules": (None, "lrp", 3, [], *THINGS),
    "traced_share": (None, "", "all", -0.1, 1.5, True, float("nan"), [], *THINGS),
    "precision": (None, "", "float32", "float16", torch.bfloat16, 3, [], *THINGS),
    "rows": (None, "", 0, -1, 1.5, True, [], *THINGS),
    "maps": (3, "maps", [], [None], [torch.zeros(1)], [torch.zeros(2, 5, 5)], [torch.zeros(1, 5, 5)] * 2, *THINGS),
}  # fmt: skip

ROW = {"trace": "trace", "layer": 0, "target": 2}
#: Each function with arguments that are right; `channels` of a rollout are its reduction.
METHODS = {
    "alti": {"trace": trace, "layer": 0, "rule": "secant", "value_bias": "bias"},
    "alti_row": {"trace": trace, "layer": 0, "target": 2, "rule": "secant", "value_bias": "bias"},
    "alti_rollout": {"trace": trace, "rule": "secant", "value_bias": "bias"},
    "alti_rollout_row": {"trace": trace, "target": 2, "rule": "secant", "value_bias": "bias"},
    "alti_logit": {
        "trace": trace, "readout": readout, "rule": "secant", "value_bias": "bias", "maps": None,
        "traced_share": 0.9,
    },
    "gradient_x_input": {"trace": trace, "readout": readout},
    "integrated_gradients": {"trace": trace, "readout": readout, "steps": 2, "baseline": "zero", "batch": None},
    "smooth_grad": {
        "trace": trace, "readout": readout, "noise": 0.1, "samples": 2, "seed": 0, "batch": None,
    },
    "hidden_attention": {"trace": trace, "layer": 0, "channels": None},
    "hidden_attention_row": {"trace": trace, "layer": 0, "target": 2},
    "implicit_attention": {"trace": trace, "layer": 0, "channels": None},
    "implicit_attention_row": {"trace": trace, "layer": 0, "target": 2},
    "implicit_rollout_row": {"trace": trace, "target": 2},
    "knockout": {
        "trace": trace, "readout": readout, "targets": None, "sources": None, "spans": None, "layers": None,
        "batch": None, "progress": None,
    },
    "value_zeroing": {"trace": trace, "layer": 0, "batch": None, "progress": None},
    "logit_lens": {"trace": trace, "places": -1},
    "contributions": {"trace": trace, "layer": 0, "target": 2, "rule": "secant"},
    "latim": {"trace": trace, "layer": 0, "norm": 2, "rule": "secant", "precision": "own"},
    "latim_error": {
        "trace": trace, "maps": methods.latim(trace, 0), "layer": 0, "norm": 2, "rule": "secant", "rows": 2,
    },
    "latim_row": {"trace": trace, "layer": 0, "target": 2, "norm": 2, "rule": "secant"},
    "mamba_attribution": {"trace": trace, "readout": readout, "variant": "published"},
    "mamba_lrp": {"trace": trace, "readout": readout, "rules": methods.LRP, "pixels": False},
    "norm_based": {"trace": of_attention, "layer": 0},
    "norm_based_row": {"trace": of_attention, "layer": 0, "target": 2},
    "occlusion": {
        "trace": trace, "readout": readout, "replacement": "zero", "sources": None, "batch": None, "progress": None,
    },
    "patching": {
        "trace": trace, "other": changed, "readout": readout, "what": "stream", "layers": None, "batch": None,
        "progress": None,
    },
    "raw_attention": {"trace": trace, "layer": 0},
    "raw_attention_row": {"trace": trace, "layer": 0, "target": 2, "variant": "published"},
    "rollout": {"trace": trace, "channels": "mean", "absolute": False, "normalise": False, "discard": 0.0},
    "rollout_row": {"trace": trace, "target": 2, "normalise": False, "variant": "published"},
    "sketched_latim": {
        "trace": trace, "layer": 0, "sketch": 4, "exact": 2, "rule": "secant", "seed": 0,
    },
    "transformer_attribution": {"trace": of_attention, "readout": readout},
}  # fmt: skip

#: Values of WRONG that are right for one function.
RIGHT = {
    ("latim", "layer"): (None,),
    ("sketched_latim", "layer"): (None,),
    ("mamba_attribution", "readout"): (),
}
#: Runs that a function cannot take, beyond what is no trace at all.
RUNS = {
    "norm_based": (trace,), "norm_based_row": (trace,), "transformer_attribution": (trace,),
    "mamba_lrp": (headless,), "alti_logit": (of_bert, headless), "gradient_x_input": (headless,),
    "logit_lens": (two, headless), "patching": (two, headless, of_attention, changed),
    "knockout": (two, headless), "occlusion": (two, headless), "value_zeroing": (two,),
    "integrated_gradients": (headless,), "smooth_grad": (headless,), "mamba_attribution": (headless,),
}  # fmt: skip


def method_calls():
    for name, right in METHODS.items():
        function = getattr(methods, name)
        yield f"{name} right", lambda function=function, right=right: function(**right)
        for argument in right:
            kind = "reduction" if (name, argument) == ("rollout", "channels") else argument
            fine = RIGHT.get((name, argument), ())
            for wrong in (*WRONG[kind], *(RUNS.get(name, ()) if argument == "trace" else ())):
                if any(wrong is value for value in fine):
                    continue
                given = {**right, argument: wrong}
                yield f"{name} {argument}={label(wrong)}", lambda function=function, given=given: function(**given)


def label(value):
    return (
        " ".join(repr(value).split())[:70]
        if not callable(value) or isinstance(value, readouts.Readout)
        else str(getattr(value, "__name__", type(value).__name__))
        + f"@{getattr(getattr(value, '__code__', None), 'co_firstlineno', '')}:{id(value) % 9973}"
    )


def readout_calls():
    wrong_id = (None, -1, [], *NUMBERS)
    for wrong in wrong_id:
        yield f"token token={label(wrong)}", lambda wrong=wrong: readouts.token(0, wrong)
        yield f"class_ label={label(wrong)}", lambda wrong=wrong: readouts.class_(wrong)
        yield f"continuation tokens={label(wrong)}", lambda wrong=wrong: readouts.continuation(1, [wrong], "a")
        if wrong is not None:
            yield f"token foil={label(wrong)}", lambda wrong=wrong: readouts.token(0, 1, wrong)
            yield f"class_ foil={label(wrong)}", lambda wrong=wrong: readouts.class_(1, wrong)
    for wrong in (None, [], *NUMBERS):
        yield f"token position={label(wrong)}", lambda wrong=wrong: readouts.token(wrong, 1)
        yield f"features position={label(wrong)}", lambda wrong=wrong: readouts.features(wrong)
        yield f"class_ positions={label(wrong)}", lambda wrong=wrong: readouts.class_(1, positions=[wrong])
        yield f"continuation start={label(wrong)}", lambda wrong=wrong: readouts.continuation(wrong, [1], "a")
        yield f"Place={label(wrong)}", lambda wrong=wrong: readouts.Place((wrong,))
        yield f"Readout position={label(wrong)}", lambda wrong=wrong: readouts.Readout("a", (wrong,), ())
    for wrong in ("ab", ("a",), ("a", 1), 3, {}):
        yield f"token names={label(wrong)}", lambda wrong=wrong: readouts.token(0, 1, names=wrong)
        yield f"class_ names={label(wrong)}", lambda wrong=wrong: readouts.class_(1, names=wrong)
    for wrong in ("north", 3, [1.0], torch.tensor([1, 2]), torch.ones(2, 2), torch.tensor([]), torch.tensor([NAN])):
        yield f"features direction={label(wrong)}", lambda wrong=wrong: readouts.features(0, wrong)
    for wrong in (None, "abc", {}):
        yield f"continuation all tokens={label(wrong)}", lambda wrong=wrong: readouts.continuation(1, wrong, "a")
    for wrong in (None, "a", 3, (), (3,), (None,), [readout, 3]):
        yield f"OneEach={label(wrong)}", lambda wrong=wrong: readouts.OneEach(wrong)
    for wrong in ((3,), (None,), ((1, 2),), ("abc",), "abc", None, (readouts.Term(0, 1, NAN),)):
        yield f"Readout terms={label(wrong)}", lambda wrong=wrong: readouts.Readout("a", (0,), wrong)
    for wrong in (
        None,
        3,
        "logits",
        object(),
        torch.zeros(3),
        torch.zeros(1, 2, 3, 4),
        {},
        torch.zeros(1, 5, 9).long(),
    ):
        yield f"read a token of {label(wrong)}", lambda wrong=wrong: readouts.token(0, 1)(wrong)
        yield f"read a class of {label(wrong)}", lambda wrong=wrong: readouts.class_(0)(wrong)
        yield f"read features of {label(wrong)}", lambda wrong=wrong: readouts.features(0)(wrong)
    logits = torch.randn(2, 5, 9)
    yield "too few readouts", lambda: readouts.OneEach((readout,))(logits)
    wide = readouts.features(0, torch.ones(3))
    yield "a direction too narrow", lambda: wide(headless.outputs)


def floats(*shape):
    return torch.zeros(*shape)


def capture_calls():
    run = mambascope.capture
    wrong_ids = (
        None, 3, "text", [[1]], [], ids.float(), ids.bool(), ids[0], ids[:, :0], ids[:0], ids[None], ids * 0 - 1,
        ids + 999, ids.to("meta"), *THINGS,
    )  # fmt: skip
    for wrong in wrong_ids:
        yield f"capture input_ids={label(wrong)}", lambda wrong=wrong: run(model, input_ids=wrong)
    for wrong in (None, 3, "some", ids, *THINGS):
        yield f"capture keep={label(wrong)}", lambda wrong=wrong: run(model, input_ids=ids, keep=wrong)
    x = torch.randn(1, 5, 12)
    wrong_embeds = (
        3, "x", ids, x.long(), x[0], x[:, :0], x[:0], x[..., :5], x.double(), x.half(), x * NAN, x.to("meta"),
        x.to(torch.complex64), *THINGS,
    )  # fmt: skip
    for wrong in wrong_embeds:
        yield f"capture inputs_embeds={label(wrong)}", lambda wrong=wrong: run(model, inputs_embeds=wrong)
    masks = (
        3, "x", [[1, 1, 1, 1, 1]], ids[:, :3], ids[0], torch.ones(2, 5), torch.zeros(1, 5), ids, -torch.ones(1, 5),
        torch.full((1, 5), 0.5), torch.full((1, 5), NAN), torch.ones(1, 1, 5, 5), torch.ones(1, 5, 5),
        torch.ones(1, 5, device="meta"), *THINGS,
    )  # fmt: skip
    for of in (model, attending, bert):
        name = type(of).__name__
        for wrong in masks:
            given = {"input_ids": ids, "attention_mask": wrong}
            yield f"capture {name} attention_mask={label(wrong)}", lambda of=of, given=given: run(of, **given)
        packed = torch.tensor([[0, 0, 0, 1, 1]])
        restarting = torch.tensor([[0, 1, 2, 0, 1]])
        bounds = torch.tensor([0, 3, 5], dtype=torch.int32)
        more = {
            "seq_idx": packed, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 3, "max_length_k": 3,
            "cu_seqlens": bounds, "is_causal": False, "nothing": 1, "attn_mask": ids, "position_id": restarting,
            "logits_to_keep": 1, "labels": ids, "encoder_hidden_states": x, "encoder_attention_mask": ids,
            "num_items_in_batch": 3, "return_dict": False, "start_positions": ids[0], "use_cache": True,
            "past_key_values": (), "cache": (), "pixel_values": floats(1, 3, 8, 8), "head_mask": ids,
        }  # fmt: skip
        for argument, value in more.items():
            given = {"input_ids": ids, argument: value}
            yield f"capture {name} {argument}", lambda of=of, given=given: run(of, **given)
        for wrong in (3, [[0]], ids[:, :3], ids * 0 - 1, ids * 999, ids.float(), ids.bool(), ids.to("meta"), *THINGS):
            for argument in ("position_ids", "token_type_ids"):
                given = {"input_ids": ids, argument: wrong}
                yield f"capture {name} {argument}={label(wrong)}", lambda of=of, given=given: run(of, **given)
        given = {"input_ids": ids, "position_ids": restarting, "attention_mask": ids * 0 + 1}
        yield f"capture {name} restarting positions", lambda of=of, given=given: run(of, **given)
        long = {"input_ids": torch.ones(1, 600, dtype=torch.long)}
        if of is not model:
            yield f"capture {name} too long", lambda of=of, long=long: run(of, **long)
    for wrong in (None, "tiny-mamba", 3, type(model), model.config, tokenizer, (model, tokenizer), *THINGS):
        yield f"capture model={label(wrong)}", lambda wrong=wrong: run(wrong, input_ids=ids)
    for name, wrong in {"NaN": broken, "infinite": endless, "meta": nowhere, "linear": torch.nn.Linear(2, 2)}.items():
        for check in ("projected", "full", False):
            yield (
                f"capture {name} check={check}",
                lambda wrong=wrong, check=check: run(wrong, input_ids=ids, check=check),
            )
    for wrong in (NAN, -1.0, "1", True, [], *THINGS):
        yield f"capture tolerance={label(wrong)}", lambda wrong=wrong: run(model, input_ids=ids, tolerance=wrong)
    for wrong in (3, "bar", [], *THINGS):
        yield f"capture progress={label(wrong)}", lambda wrong=wrong: run(model, input_ids=ids, progress=wrong)
    for wrong in (None, "yes", 3, [], True, 0):
        yield f"capture check={label(wrong)}", lambda wrong=wrong: run(model, input_ids=ids, check=wrong)
    pictures = (
        None, 3, "x", floats(1, 3, 32, 32).byte(), floats(3, 32, 32), floats(1, 4, 32, 32), floats(0, 3, 32, 32),
        floats(1, 3, 0, 32), floats(1, 3, 3, 3), floats(1, 3, 32, 32).double(), floats(1, 3, 32, 32) * NAN,
        floats(1, 3, 32, 32).to("meta"), *THINGS,
    )  # fmt: skip
    for wrong in pictures:
        yield f"capture pixel_values={label(wrong)}", lambda wrong=wrong: run(seeing, pixel_values=wrong)
    yield "capture a picture model's ids", lambda: run(seeing, input_ids=ids)
    yield "capture a picture's mask", lambda: run(seeing, pixel_values=floats(1, 3, 32, 32), attention_mask=ids)
    for wrong in ("3", 1.5, True, 99, -99, None, [], *THINGS):
        yield f"operator layer={label(wrong)}", lambda wrong=wrong: trace.operator(wrong)
        yield f"index layer={label(wrong)}", lambda wrong=wrong: trace.index(wrong)
    for wrong in ("float32", torch.int64, 3, [], *THINGS):
        yield f"operator dtype={label(wrong)}", lambda wrong=wrong: trace.operator(0, wrong)
    for wrong in WRONG["readout"]:
        yield f"gradients readout={label(wrong)}", lambda wrong=wrong: trace.gradients(wrong)
        yield f"logit_direction readout={label(wrong)}", lambda wrong=wrong: trace.logit_direction(wrong)


def explain_calls():
    def run(model=reader, tokenizer=tokenizer, source="some words", **options):
        return mambascope.explain(model, tokenizer, source, progress=False, **options)

    for wrong in (
        None,
        "tiny-mamba",
        3,
        type(model),
        model.config,
        tokenizer,
        (model, tokenizer),
        nowhere,
        broken,
        *THINGS,
    ):
        yield f"explain model={label(wrong)}", lambda wrong=wrong: run(model=wrong)
    for wrong in ("gpt2", 3, [], model, *THINGS):
        yield f"explain tokenizer={label(wrong)}", lambda wrong=wrong: run(tokenizer=wrong)
    rows = {"input_ids": torch.cat([ids, ids])}
    for wrong in (None, "", 3, [""], [["a"]], b"text", {}, {"input_ids": None}, {"text": "a"}, {"input_ids": [[1]]},
                  {1: ids}, {"input_ids": ids, "seq_idx": ids}, rows, "\ud800", object(), pixels, Path("a.png"), 1.5,
                  True):  # fmt: skip
        yield f"explain source={label(wrong)}", lambda wrong=wrong: run(source=wrong)
    for wrong in ("", "nothing", 3, [], ["latim", "nothing"], [3], [None], ["latim", ["latim"]], *THINGS):
        yield f"explain method={label(wrong)}", lambda wrong=wrong: run(method=wrong)
    whole = {
        "target": ("", "two words", 999, -1, 1.5, True, [], [1], NAN, *THINGS),
        "foil": ("", "two words", 999, -1, 1.5, True, [], [1], NAN, *THINGS),
        "position": (99, -99, "1", 1.5, True, [], [1], NAN, *THINGS),
        "positions": (99, [99], [], "", "x", 1.5, True, [1, 1], [1.5], NAN, "5:5", *THINGS),
        "patch": (1, (1, 2), "1,2", (1.5, 2), [], NAN, *THINGS),
        "continuation": ("", 3, ["a"], "\ud800", NAN, *THINGS),
        "generate": (0, -1, 1.5, True, "3", [], NAN, *THINGS),
        "stage": (0, 99, 1.5, True, "x", [], *THINGS),
        "variant": (None, "", "other", 3, [], "reference-code", *THINGS),
        "precision": ("bfloat16", *WRONG["precision"]),
        "keep_size": (None, "yes", 3, [], *THINGS),
        "views": (None, "yes", 3, [], *THINGS),
        "layer": (0, "0", [0]),
    }
    for argument, values in whole.items():
        for wrong in values:
            yield (
                f"explain {argument}={label(wrong)}",
                lambda argument=argument, wrong=wrong: run(method="mamba-lrp", **{argument: wrong}),
            )
    for wrong in (None, 99, -99, "x", "", [], [99], [0, 0], 1.5, True, NAN, "5:5", *THINGS):
        yield f"explain layer={label(wrong)}", lambda wrong=wrong: run(method="latim", layer=wrong)
    spans = (
        {},
        {"a": (3, 3)},
        {"a": (3, 99)},
        {"a": 3},
        {"": (0, 1)},
        {"a": (0, 2), "b": (1, 2)},
        {"0:1": (1, 2)},
        {3: (0, 1)},
    )
    for wrong in (*spans, [(0, 1)], "words", 3, *THINGS[1:]):
        yield f"explain spans={label(wrong)}", lambda wrong=wrong: run(method="knockout", spans=wrong)
    for wrong in (3, "bar", [], *THINGS):
        yield (
            f"explain progress={label(wrong)}",
            lambda wrong=wrong: mambascope.explain(reader, tokenizer, "some words", progress=wrong),
        )


def gallery_calls():
    run = mambascope.head_gallery
    yield "head_gallery right", lambda: run(reader, tokenizer, "some words", generate=1)
    for wrong in (
        None,
        "tiny-mamba",
        3,
        type(model),
        model.config,
        (model, tokenizer),
        nowhere,
        broken,
        seeing,
        *THINGS,
    ):
        yield f"head_gallery model={label(wrong)}", lambda wrong=wrong: run(wrong, tokenizer, "some words")
    for wrong in ("gpt2", 3, [], model, None, *THINGS):
        yield f"head_gallery processor={label(wrong)}", lambda wrong=wrong: run(reader, wrong, "some words")
    padded = {"input_ids": ids, "attention_mask": torch.tensor([[0, 1, 1, 1, 1]])}
    two_rows = {"input_ids": torch.cat([ids, ids])}
    for wrong in (None, "", 3, ["a"], [""], {}, {"text": "a"}, {"input_ids": [[1]]}, padded, two_rows, pixels, "\ud800",
                  Path("a.png"), True, 1.5, *THINGS):  # fmt: skip
        yield f"head_gallery source={label(wrong)}", lambda wrong=wrong: run(reader, tokenizer, wrong)
    for wrong in ("", 3, ["a"], "\ud800", NAN, *THINGS):
        given = {"continuation": wrong}
        yield f"head_gallery continuation={label(wrong)}", lambda given=given: run(reader, tokenizer, "some", **given)
    for wrong in (0, -1, 1.5, True, "3", [], NAN, *THINGS):
        yield (
            f"head_gallery generate={label(wrong)}",
            lambda wrong=wrong: run(reader, tokenizer, "some", generate=wrong),
        )


def writing_calls(folder):
    def run(path="maps.safetensors", of=reader, processor=tokenizer, source="some words", **asked):
        return mambascope.write_maps(folder / path if isinstance(path, str) else path, of, processor, source, **asked)

    yield "write_maps right", run
    whole = {
        "path": (None, 3, "", "x", "x.json", "/absent/folder/x.safetensors", "x.\0safetensors", folder, [], *THINGS),
        "of": (None, "tiny-mamba", 3, type(model), model.config, (model, tokenizer), nowhere, broken, seeing, *THINGS),
        "processor": ("gpt2", 3, [], model, None, *THINGS),
        "source": (None, "", 3, ["a"], [""], {}, {"text": "a"}, {"input_ids": [[1]]}, pixels, "\ud800", *THINGS),
        "method": (None, "", "nothing", "mamba-lrp", "rollout", "random", 3, [], ["latim"], *THINGS),
        "layer": (None, 99, -99, "x", "", [], [99], [0, 0], 1.5, True, NAN, "5:5", *THINGS),
        "precision": WRONG["precision"],
        "facts": (3, "a", ["a"], {1: "a"}, {"a": 1}, *(thing for thing in THINGS if thing != {})),
        "progress": (3, "bar", [], *THINGS),
    }
    for argument, values in whole.items():
        for wrong in values:
            yield (
                f"write_maps {argument}={label(wrong)}",
                lambda argument=argument, wrong=wrong: run(**{argument: wrong}),
            )


def other_calls(folder):
    for wrong in (
        None,
        3,
        "",
        "absent",
        "a/b/c",
        model,
        Path("absent"),
        [],
        *THINGS,
        "tiny-mamba/",
        "zoo:nothing",
        "\0",
    ):
        yield f"load name={label(wrong)}", lambda wrong=wrong: mambascope.load(wrong)
    for wrong in ("float32", 3, torch.int64, float, [], *THINGS):
        yield f"load dtype={label(wrong)}", lambda wrong=wrong: mambascope.load("tiny-mamba", dtype=wrong)
    for wrong in ("gpu", 99, 1.5, [], "cuda:99", "meta", *THINGS):
        yield f"load device={label(wrong)}", lambda wrong=wrong: mambascope.load("tiny-mamba", device=wrong)
    for wrong in (3, "absent", "", Path("absent"), [], tokenizer, *THINGS):
        yield f"load tokenizer={label(wrong)}", lambda wrong=wrong: mambascope.load("tiny-mamba", tokenizer=wrong)
    for wrong in (None, "yes", 3, []):
        yield (
            f"load trust_remote_code={label(wrong)}",
            lambda wrong=wrong: mambascope.load("tiny-mamba", trust_remote_code=wrong),
        )
    no_pictures = (
        None, 3, "", "absent.png", [1], b"x", folder, pixels + 0.1 + 300, pixels[:0], pixels[..., :2], object(), "\0",
        torch.full((3, 32, 32), 7.0), torch.zeros(32, 32, 3, dtype=torch.uint8, device="meta"),
    )  # fmt: skip
    for wrong in no_pictures:
        yield f"read_picture source={label(wrong)}", lambda wrong=wrong: mambascope.read_picture(wrong, seeing)
    for wrong in (None, "x", 3, model, type(seeing), *THINGS):
        yield f"read_picture model={label(wrong)}", lambda wrong=wrong: mambascope.read_picture(pixels, wrong)
    for wrong in ("x", 3, model, tokenizer, *THINGS):
        yield (
            f"read_picture processor={label(wrong)}",
            lambda wrong=wrong: mambascope.read_picture(pixels, seeing, wrong),
        )
    for wrong in (None, "yes", 3, []):
        yield (
            f"read_picture keep_size={label(wrong)}",
            lambda wrong=wrong: mambascope.read_picture(pixels, seeing, keep_size=wrong),
        )
    for wrong in (None, "", "nothing", 3, [], *THINGS):
        yield f"find_method={label(wrong)}", lambda wrong=wrong: methods.find_method(wrong)
        yield f"register={label(wrong)}", lambda wrong=wrong: methods.register(wrong)
    for wrong in ("nothing", 99, -99, 1.5, True, [], NAN, *THINGS):
        yield f"matrix layer={label(wrong)}", lambda wrong=wrong: result.matrix(wrong)
        yield f"row position={label(wrong)}", lambda wrong=wrong: result.row(wrong)
        yield f"row layer={label(wrong)}", lambda wrong=wrong: result.row(layer=wrong)
        yield f"top position={label(wrong)}", lambda wrong=wrong: result.top(position=wrong)
        yield f"top layer={label(wrong)}", lambda wrong=wrong: result.top(layer=wrong)
        yield f"layer_mass={label(wrong)}", lambda wrong=wrong: result.layer_mass(wrong)
        yield f"picture={label(wrong)}", lambda wrong=wrong: result.picture(wrong)
        yield f"to_neuronpedia={label(wrong)}", lambda wrong=wrong: parts.to_neuronpedia(wrong)
    for wrong in (0, -1, None, "3", 1.5, True, [], NAN, *THINGS):
        yield f"top k={label(wrong)}", lambda wrong=wrong: result.top(wrong)
    for wrong in (None, 3, "", "x", "x.doc", "/absent/folder/x.json", "x.\0json", folder, [], *THINGS):
        yield f"save={label(wrong)}", lambda wrong=wrong: result.save(wrong)
        yield f"Attribution.load={label(wrong)}", lambda wrong=wrong: mambascope.Attribution.load(wrong)
    yield "to_neuronpedia of latim", result.to_neuronpedia
    yield "save a graph of latim", lambda: result.save(folder / "x.graph.json")
    foreign = folder / "foreign.safetensors"
    foreign.write_bytes(b"nothing of the kind")
    yield "Attribution.load foreign", lambda: mambascope.Attribution.load(foreign)
    for wrong in (None, 3, "x", single.scores, *THINGS):
        yield f"add={label(wrong)}", lambda wrong=wrong: result + wrong
        yield f"mean={label(wrong)}", lambda wrong=wrong: mambascope.Attribution.mean(wrong)
        yield f"mean of={label(wrong)}", lambda wrong=wrong: mambascope.Attribution.mean([result, wrong])
        yield f"spans={label(wrong)}", lambda wrong=wrong: result.spans(wrong)
        yield f"words sources={label(wrong)}", lambda wrong=wrong: result.words(sources=wrong)
        yield f"words targets={label(wrong)}", lambda wrong=wrong: result.words(targets=wrong)
        yield f"to_html={label(wrong)}", lambda wrong=wrong: result.to_html(wrong)
        yield f"to_xarray={label(wrong)}", lambda wrong=wrong: result.to_xarray(wrong)
        yield f"to_dataframe={label(wrong)}", lambda wrong=wrong: result.to_dataframe(wrong)
        yield f"to_csv={label(wrong)}", lambda wrong=wrong: result.to_csv(wrong)
        yield f"save others={label(wrong)}", lambda wrong=wrong: result.save(folder / "x.html", wrong)
    for wrong in ("x", 3, model, result, single.scores, *THINGS):
        yield f"to_html gallery={label(wrong)}", lambda wrong=wrong: result.to_html(gallery=wrong)
        yield f"save gallery={label(wrong)}", lambda wrong=wrong: result.save(folder / "x.html", gallery=wrong)
    facts = {name: getattr(single, name) for name in ("scores", "tokens", "axes", "method", "target", "model")}
    for argument, values in {
        "scores": (None, 3, "x", [[1.0]], single.scores[0], single.scores[:, :, 1:], single.scores.long(),
                   single.scores.to("meta"), *THINGS),
        "tokens": (None, 3, (), single.tokens[1:], (1,) * len(single.tokens), *THINGS),
        "axes": (None, 3, {}, {"layer": (0,)}, {"layer": 0, "target": 0, "source": 0}, *THINGS),
        "method": (None, 3, "", *THINGS),
        "target": (None, 3, "x", *THINGS),
        "model": (None, 3, "x", model, *THINGS),
    }.items():  # fmt: skip
        for wrong in values:
            yield (
                f"Attribution {argument}={label(wrong)}",
                lambda argument=argument, wrong=wrong: mambascope.Attribution(**{**facts, argument: wrong}),
            )


def fingerprint(one):
    return {
        "training": [module.training for module in one.modules()],
        "hooks": [
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for module in one.modules()
        ],
        "asking": [parameter.requires_grad for parameter in one.parameters()],
        "gradients": [parameter.grad is None for parameter in one.parameters()],
        "weights": {name: str(value.double().sum().item()) for name, value in one.state_dict().items()},
        "configuration": repr(one.config.to_dict()) + str(one.config._attn_implementation_internal),
    }


def classify_calls():
    layer, wrongs = torch.nn.Linear(2, 2).double(), {
        "width": ("3", 1.5, True, 0, -1, 10**6, [], *THINGS),
        "length": ("3", 1.5, True, None, 0, -1, 17, 10**6, *THINGS),
        "tolerance": ("3", None, True, 0.0, -1.0, 1.0, NAN, *THINGS),
        "seed": ("3", 1.5, None, *THINGS),
    }  # fmt: skip
    yield "classify right", lambda: mambascope.classify(layer, width=2, length=18)
    yield "classify in a model right", lambda: mambascope.classify(trace, number=0, length=18, tolerance=1e-3)
    for wrong in (None, 3, "mamba", [], {}, torch.ones(3), model, *THINGS):
        yield f"classify layer={label(wrong)}", lambda wrong=wrong: mambascope.classify(wrong)
    for wrong in ("3", 1.5, True, 99, -99, [], *THINGS):
        yield f"classify number={label(wrong)}", lambda wrong=wrong: mambascope.classify(trace, number=wrong)
    for name, values in wrongs.items():
        for wrong in values:
            given = {"width": 2, name: wrong}
            yield f"classify {name}={label(wrong)}", lambda given=given: mambascope.classify(layer, **given)


def captum_calls():
    made, masked = mambascope.CaptumAttribution, (torch.zeros(1, 5), ids[0], ids[:, :3], (ids, ids), "mask")
    right, seen = made(model), made(seeing, "latim")
    for wrong in (None, "tiny-mamba", 3, type(model), torch.nn.Linear(2, 2), *THINGS):
        yield f"captum model={label(wrong)}", lambda wrong=wrong: made(wrong)
    for wrong in ("", "nothing", 3, ["latim"], *THINGS):
        yield f"captum method={label(wrong)}", lambda wrong=wrong: made(model, wrong)
    for wrong in ([], [1], *NUMBERS):
        yield f"captum position={label(wrong)}", lambda wrong=wrong: made(model, position=wrong)
        yield f"captum layer={label(wrong)}", lambda wrong=wrong: made(model, "latim", layer=[wrong])
    for wrong in (99, -99):
        yield f"captum position={wrong}", lambda wrong=wrong: made(model, position=wrong).attribute(ids)
        yield f"captum layer={wrong}", lambda wrong=wrong: made(model, "latim", layer=wrong).attribute(ids)
        yield f"captum read position={wrong}", lambda wrong=wrong: made(model, position=wrong).forward_func(ids)
    wrong_ids = (
        None, 3, "text", [[1]], (), (ids, ids), ids.float(), ids.bool(), ids[0], ids[:, :0], ids[:0], ids * 0 - 1,
        ids + 999, ids.to("meta"), *THINGS,
    )  # fmt: skip
    for wrong in wrong_ids:
        yield f"captum inputs={label(wrong)}", lambda wrong=wrong: right.attribute(wrong)
        yield f"captum read={label(wrong)}", lambda wrong=wrong: right.forward_func(wrong)
    for wrong in (floats(3, 32, 32), floats(1, 4, 32, 32), floats(0, 3, 32, 32), floats(1, 3, 3, 3), ids, None):
        yield f"captum picture={label(wrong)}", lambda wrong=wrong: seen.attribute(wrong)
    for wrong in ([], [1, 2], (1,), (1, 2), [(1,)], [None], 99, -1, torch.tensor([1, 2]), torch.tensor(1.5), *NUMBERS):
        yield f"captum target={label(wrong)}", lambda wrong=wrong: right.attribute(ids, target=wrong)
    for wrong in (*masked, *NUMBERS):
        yield f"captum mask={label(wrong)}", lambda wrong=wrong: right.attribute(ids, additional_forward_args=wrong)
    for wrong in (None, "yes", 3, []):
        yield f"captum delta={label(wrong)}", lambda wrong=wrong: right.attribute(ids, return_convergence_delta=wrong)
    yield "captum a model without weights", lambda: made(nowhere).attribute(ids)
    yield "captum delta of latim", lambda: made(model, "latim").attribute(ids, return_convergence_delta=True)
    yield "captum right", lambda: right.attribute(ids, target=3, return_convergence_delta=True)


def main():
    used = {"mamba": model, "gpt2": attending, "bert": bert, "vim": seeing, "reader": reader, "broken": broken}
    before = {name: fingerprint(one) for name, one in used.items()}
    said = {}
    with tempfile.TemporaryDirectory() as name, redirect_stdout(io.StringIO()):
        os.chdir(name)
        groups = (
            method_calls(), readout_calls(), capture_calls(), explain_calls(), classify_calls(), captum_calls(),
            gallery_calls(), writing_calls(Path(name)), other_calls(Path(name)),
        )  # fmt: skip
        for label_, call in (pair for group in groups for pair in group):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    call()
                    found = ["returned", ""]
                except mambascope.MambascopeError as error:
                    found = ["refused", str(error)]
                except BaseException as error:
                    found = [f"foreign {type(error).__name__}", str(error)]
            key = label_ if label_ not in said else f"{label_} #{len(said)}"
            said[key] = [*found, [str(one.message) for one in caught]]
    changed = [name for name, one in used.items() if fingerprint(one) != before[name]]
    print(json.dumps({"said": said, "changed": changed}))


if __name__ == "__main__":
    main()
