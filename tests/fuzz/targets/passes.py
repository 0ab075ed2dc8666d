"""`capture` and the functions of `methods` on it: sizes, batches, padding, precisions, modes, and wrong arguments."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

import mambascope
from mambascope import methods

from .. import hostile, originals
from ..findings import Case
from ..properties import close, left_as_it_was, require
from ..running import Target
from . import modes

#: The functions of `methods` by what they take after the trace, and what they return.
LAYER_ROWS = (
    "hidden_attention_row", "raw_attention_row", "latim_row", "alti_row", "implicit_attention_row", "norm_based_row",
)  # fmt: skip
LAYER_MAPS = ("hidden_attention", "raw_attention", "latim", "alti", "implicit_attention", "norm_based", "value_zeroing")
ROWS = ("rollout_row", "alti_rollout_row", "implicit_rollout_row")
MAPS = ("rollout", "alti_rollout")
READOUTS = (
    "mamba_lrp", "gradient_x_input", "integrated_gradients", "smooth_grad", "alti_logit", "mamba_attribution",
    "transformer_attribution", "occlusion", "knockout",
)  # fmt: skip
CALLS = (*LAYER_ROWS, *LAYER_MAPS, *ROWS, *MAPS, *READOUTS, "contributions")

#: Options that a call takes at times.
OPTIONS: dict[str, Case] = {
    "hidden_attention": {"channels": "mean"},
    "implicit_attention": {"channels": "mean"},
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 2},
}
#: Calls whose result for one text does not depend on what stands beside it. SmoothGrad's noise does.
ALONE = tuple(
    name for name in CALLS if name not in ("smooth_grad", "occlusion", "knockout", "value_zeroing", "contributions")
)


def _draw(rng: Random) -> Case:
    call = rng.choice(CALLS)
    single = call in ("occlusion", "knockout", "value_zeroing")
    case: Case = {
        "model": rng.choice((*originals.TEXT, *originals.TEXT, *originals.PICTURE)),
        "dtype": rng.choice(("float32", "float32", "float32", "float64", "bfloat16", "float16")),
        "mode": modes.drawn(rng),
        "batch": 1 if single else rng.choice((1, 1, 2, 3)),
        "length": rng.choice((1, 2, 3, 5, 8, 17, 63)),
        "padding": rng.choice(("none", "right", "left", "middle", "ones")),
        "embeds": rng.random() < 0.1,
        "call": call,
        "layer": rng.choice((0, 1, -1, -2, 0, 1, 2, 99)),
        "target": rng.choice((-1, -1, 0, -2, 1, 7)),
        "seed": rng.randrange(10**6),
        "wrong": {},
    }
    if rng.random() < 0.15:
        name = rng.choice(
            ("layer", "target", "readout", "trace", "option", "input_ids", "attention_mask", "inputs_embeds")
        )
        case["wrong"] = {name: hostile.any_value(rng)}
        if name == "option":
            options = [one for one in _parameters(getattr(methods, call)) if one not in ("trace", "layer", "target")]
            case["wrong"]["name"] = rng.choice([*options, "readout"])
    return case


def inputs_of(case: Case) -> tuple[Any, dict[str, Any], Tensor | None]:
    """Return a case's model, its inputs, and which positions are real."""
    model, _ = originals.model(case["model"], getattr(torch, case["dtype"]))
    draw = torch.Generator().manual_seed(case["seed"])
    if case["model"] in originals.PICTURE:
        size = (case["batch"], 3, 32, 32)
        return model, {"pixel_values": torch.randn(size, generator=draw).to(model.dtype)}, None
    top = 13 if case["model"] == "bert" else 250
    ids = torch.randint(3, top, (case["batch"], case["length"]), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(case["batch"]):
        pad = min(case["length"] - 1, row + (case["batch"] == 1))
        if case["padding"] == "left":
            mask[row, :pad] = 0
        elif case["padding"] == "right" and pad:
            mask[row, -pad:] = 0
        elif case["padding"] == "middle" and pad and case["length"] > 2:
            mask[row, 1 : 1 + min(pad, case["length"] - 2)] = 0
    ids = ids * mask
    inputs: dict[str, Any] = {"input_ids": ids}
    if case["embeds"]:
        inputs = {"inputs_embeds": model.get_input_embeddings()(ids).detach()}
    if case["padding"] != "none":
        inputs["attention_mask"] = mask
    return model, inputs, mask


def call(case: Case, trace: Any, target: Any = None) -> Any:
    """Make the case's call on a trace."""
    wrong = {name: hostile.made(value) for name, value in case["wrong"].items() if name != "name"}
    run, name = getattr(methods, case["call"]), case["call"]
    trace = wrong.get("trace", trace)
    layer, target = wrong.get("layer", case["layer"]), wrong.get("target", case["target"] if target is None else target)
    options = dict(OPTIONS.get(name, {}))
    if "option" in wrong:
        options |= {case["wrong"]["name"]: wrong["option"]}
        taken = {"trace", "layer", "target", "readout"}  # given by position below
        options = {key: value for key, value in options.items() if key in _parameters(run) and key not in taken}
    if name in LAYER_ROWS or name == "contributions":
        found = run(trace, layer, target, **options)
    elif name in LAYER_MAPS:
        found = run(trace, layer, **options)
    elif name in ROWS:
        found = run(trace, target, **options)
    elif name in MAPS:
        found = run(trace, **options)
    else:
        found = run(trace, wrong.get("readout", _readout(case, target)), **options)
    return found


def _parameters(run: Any) -> list[str]:
    return list(inspect.signature(run).parameters)


def _readout(case: Case, target: Any) -> Any:
    if case["model"] in (*originals.PICTURE, "bert"):
        return mambascope.readouts.class_(1, positions=(0,))
    return mambascope.readouts.token(target, 5)


def scores_of(found: Any) -> Tensor:
    """Return the scores of whatever a call returned, texts first."""
    if isinstance(found, tuple):
        return found[0]
    scores = getattr(found, "scores", found)
    return scores[None] if scores.ndim == 1 else scores


def _check(case: Case, folder: Path) -> None:
    model, inputs, mask = inputs_of(case)
    for name in ("input_ids", "attention_mask", "inputs_embeds"):
        if name in case["wrong"]:
            inputs[name] = hostile.made(case["wrong"][name])
    mode = modes.MODES[case["mode"]]
    try:
        with mode(model) as used, left_as_it_was(used):
            trace = mambascope.capture(used, **_fitting(inputs, used))
            found = scores_of(call(case, trace))
            held = found.detach().clone()
    except modes.HookError:
        require(case["mode"] == "hook that raises", "foreign exception", "HookError from nowhere")
        return
    require(
        case["mode"] not in ("default device meta", "on meta") or held.device.type == "cpu",
        "shape or type",
        "meta scores",
    )
    if case["wrong"]:
        require(case["call"] == "occlusion" or bool(held.isfinite().all()), "NaN or infinity", case["call"])
        return
    _right(case, held, mask)
    exact = case["mode"] in modes.SAME and case["dtype"] in ("float32", "float64")
    if not exact:
        return
    if case["mode"] != "plain":
        plain = scores_of(call(case, mambascope.capture(model, **inputs)))
        close(held, plain, "another result in a mode", f"{case['call']} {case['mode']}")
    elif case["batch"] > 1 and case["call"] in ALONE:
        _alone(case, held, model, inputs, mask)


def _fitting(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the inputs in a model's precision."""
    dtype = next(model.parameters()).dtype
    pixels = inputs.get("pixel_values")
    return inputs if pixels is None else {"pixel_values": pixels.to(dtype)}


def _right(case: Case, scores: Tensor, mask: Tensor | None) -> None:
    """Hold scores to what is true of every method."""
    name = case["call"]
    half = case["dtype"] == "float16" or case["mode"] in ("half", "hook that halves")
    require(half or bool(scores.isfinite().all()), "NaN or infinity", name)
    require(scores.shape[0] == case["batch"], "shape or type", f"{name}: {tuple(scores.shape)}")
    if mask is None:
        return
    real, length = mask.bool(), case["length"]
    causal = case["model"] in originals.CAUSAL or case["model"] == "mamba without head"
    for text in range(case["batch"]):
        own = real[text].nonzero()[:, 0].tolist()
        if name in (*LAYER_MAPS, *MAPS):
            rows = scores[text][real[text]]
            require(not rows[:, ~real[text]].any(), "padding not zero", f"{name} {case['padding']}")
            if causal:
                later = torch.tensor([[source > place for source in range(length)] for place in own])
                require(not rows[later].any(), "future not zero", name)
        elif name != "contributions" and scores.shape[-1] == length:
            require(not scores[text][..., ~real[text]].any(), "padding not zero", f"{name} {case['padding']}")
            place = own[case["target"]] if case["target"] < 0 else case["target"]
            if causal:
                require(not scores[text][..., place + 1 :].any(), "future not zero", name)


def _alone(case: Case, scores: Tensor, model: Any, inputs: dict[str, Any], mask: Tensor | None) -> None:
    """Require that the last text of a batch has the scores that it has by itself, without its padding."""
    if mask is None:
        single = {name: value[-1:] for name, value in inputs.items()}
        close(
            scores[-1:],
            scores_of(call(case, mambascope.capture(model, **single))),
            "depends on the batch",
            case["call"],
        )
        return
    own = mask[-1].bool()
    if case["padding"] == "middle" and not own.all():
        return
    single = {name: value[-1:, own] for name, value in inputs.items() if name != "attention_mask"}
    with torch.no_grad():  # some read padding on the left: by their positions, or by biases that run into convolutions
        beside, alone = (_read(model, given)[-1] for given in (inputs, single))
    beside = beside[own] if beside.ndim > 1 else beside  # a classifier's numbers are of whole texts
    apart = (beside - alone).abs().max()
    if apart > 1e-4 * alone.abs().max():
        return
    place = case["target"] if case["target"] < 0 else int(own[: case["target"]].sum())
    expected = scores_of(call(case, mambascope.capture(model, **single), place))[0]
    found = scores[-1][..., own]
    found = found[own] if case["call"] in (*LAYER_MAPS, *MAPS) else found
    close(found, expected, "depends on the batch or padding", f"{case['call']} {case['model']} {case['padding']}")


def _read(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Return what the stock model puts out."""
    outputs = model(**inputs) if "pixel_values" in inputs else model(**inputs, use_cache=False)
    found: Tensor = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
    return found


def _smaller(case: Case) -> Iterable[Case]:
    simplest = {"mode": "plain", "dtype": "float32", "batch": 1, "padding": "none", "embeds": False, "length": 3}
    simplest |= {"layer": 0, "target": -1, "model": "mamba"}
    for name, value in simplest.items():
        if case[name] != value:
            yield case | {name: value}


def _drawn_trace(rng: Random) -> Case:
    case = _draw(rng)
    return case | {"call": "latim", "index": rng.choice((0, -1, 1, 2, -3))}


def _look(case: Case, folder: Path) -> None:
    """Use what a trace offers besides methods."""
    model, inputs, _ = inputs_of(case)
    mode = modes.MODES[case["mode"]]
    wrong = hostile.made(case["wrong"]["layer"]) if "layer" in case["wrong"] else case["index"]
    with contextlib.suppress(modes.HookError), mode(model) as used, left_as_it_was(used):
        check = {0: False, 1: "full"}.get(case["seed"] % 7, "projected")
        trace = mambascope.capture(used, **_fitting(inputs, used), check=check)
        for part in (trace, *trace.layers, *trace.branches, *trace.stages):
            require("\n" not in repr(part), "badly said", "repr of several lines")
        require(
            all(one == one or case["seed"] % 7 == 0 for one in trace.reconstruction_error), "NaN or infinity", "error"
        )
        operator = trace.operator(wrong)
        require(bool(operator.x.isfinite().all()), "NaN or infinity", "operator")
        readout = _readout(case, -1)
        value = readout(trace.outputs)
        require(case["dtype"] == "float16" or bool(value.isfinite().all()), "NaN or infinity", "readout")
        trace.gradients(readout)
        trace.logit_direction(readout)


TARGETS = [Target("methods", _draw, _check, _smaller), Target("traces", _drawn_trace, _look, _smaller)]
