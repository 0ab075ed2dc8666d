"""`explain`, `load`, `read_picture` and `readouts`: all options on all models, most valid, some as nobody should."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import mambascope
from mambascope import readouts
from mambascope.methods import METHODS

from .. import hostile, originals
from ..findings import Case
from ..properties import close, left_as_it_was, require, sound, verbs
from ..running import RANDOM, Target
from . import modes
from .results import DRAWN, FORMATS

TEXTS = ("The cat sat", "a", "when mary and john went", "é 日本語 😀", "The cat sat on the mat. " * 3, "x")

#: The most numbers of an array that is made as a picture.
LARGEST = 10**7


def _choices(rng: Random, picture: bool) -> Case:
    """Return a random choice of valid values of some options."""
    valid: Case = {
        "method": rng.choice((*METHODS, *METHODS, None)),
        "target": rng.choice((0, 1, 2, "a", " t", "rocket", "1", None)),
        "foil": rng.choice((3, 4, "b", "9")),
        "position": rng.choice((0, 1, -1, -2)),
        "positions": rng.choice(("all", [0, 1], "0:2", [-1], "1:")),
        "patch": rng.choice(([0, 0], [1, 2], [3, 3])),
        "continuation": rng.choice((" a", "b c", "é")),
        "generate": rng.choice((1, 2, 3)),
        "layer": rng.choice((0, 1, -1, "all", "0:1", [0, 1], "1:")),
        "stage": rng.choice((0, 1, -1)),
        "variant": rng.choice(("published", "reference-code")),
        "keep_size": True,
        "views": True,
        "progress": False,
    }
    names = [name for name in valid if picture or name not in ("patch", "stage", "keep_size") or rng.random() < 0.05]
    chosen = {name: valid[name] for name in rng.sample(names, rng.choice((0, 0, 1, 1, 1, 2, 3)))}
    if rng.random() < 0.5:
        chosen["method"] = valid["method"]
    if rng.random() < 0.05:
        chosen["method"] = rng.sample(sorted(METHODS), 2)
    return chosen


def _draw(rng: Random) -> Case:
    name = rng.choice((*originals.TEXT, *originals.PICTURE))
    picture = name in originals.PICTURE
    case: Case = {
        "model": name,
        "source": "pixels" if picture else rng.choice((*TEXTS, "ids", "left", "right")),
        "options": _choices(rng, picture),
        "mode": modes.drawn(rng) if rng.random() < 0.4 else "plain",
        "formats": rng.sample(FORMATS, 1) + ([rng.choice(DRAWN)] if rng.random() < 0.04 else []),
        "draw": rng.random() < 0.03,
        "wrong": {},
        "seed": rng.randrange(10**6),
    }
    if rng.random() < 0.2:
        at = rng.choice((*inspect.signature(mambascope.explain).parameters,))
        case["wrong"] = {at: hostile.any_value(rng)}
    elif rng.random() < 0.1 and not picture:
        case["source"] = rng.choice(hostile.TEXTS)
    return case


def _source(case: Case) -> tuple[Any, list[int]]:
    """Return what the model reads, and the positions of padding in it."""
    if case["source"] == "pixels":
        return originals.pixels(), []
    if case["source"] not in ("ids", "left", "right"):
        return case["source"], []
    draw = torch.Generator().manual_seed(case["seed"])
    ids = torch.randint(3, 13 if case["model"] == "bert" else 250, (1, 7), generator=draw)
    mask = torch.ones_like(ids)
    padded = {"ids": [], "left": [0, 1], "right": [5, 6]}[case["source"]]
    ids[0, padded], mask[0, padded] = 0, 0
    return {"input_ids": ids} | ({"attention_mask": mask} if padded else {}), padded


def _check(case: Case, folder: Path) -> None:
    model, processor = originals.model(case["model"])
    source, padded = _source(case)
    options = {name: tuple(value) if name == "patch" else value for name, value in case["options"].items()}
    wrong = {name: hostile.made(value) for name, value in case["wrong"].items()}

    def explained(used: Any) -> Any:
        given = {"model": used, "processor": processor, "source": source} | options | wrong
        return mambascope.explain(given.pop("model"), given.pop("processor"), given.pop("source"), **given)

    results: list[Any] = []
    draws = torch.random.fork_rng() if "random" in str(options.get("method")) else contextlib.nullcontext()
    with contextlib.suppress(modes.HookError), draws, modes.MODES[case["mode"]](model) as used, left_as_it_was(used):
        found = explained(used)
        results = found if isinstance(found, list) else [found]
    if not results:
        return
    causal = case["model"] in originals.CAUSAL or case["model"] == "mamba without head"
    precise = torch.float16 if case["mode"] in ("half", "bfloat16", "autocast") else torch.float32
    padding = () if "source" in wrong else padded
    for result in results:
        sound(result, causal=causal, padded=padding, dtype=precise)
    verbs(results[0], folder, formats=case["formats"], draw=case["draw"])
    if case["mode"] in modes.SAME and case["mode"] != "plain" and results[0].method != "random":
        plain = explained(model)
        plain = plain[0] if isinstance(plain, list) else plain
        close(results[0].scores, plain.scores, "another result in a mode", f"{plain.method} {case['mode']}")


def _smaller(case: Case) -> Iterable[Case]:
    for name in case["options"]:
        yield case | {"options": {key: value for key, value in case["options"].items() if key != name}}
    simplest = {"mode": "plain", "draw": False, "formats": [], "model": "mamba", "source": "The cat sat"}
    for name, value in simplest.items():
        if case[name] != value and not (name == "source" and case["model"] in originals.PICTURE):
            yield case | {name: value}


def _draw_load(rng: Random) -> Case:
    at = rng.choice(("name", "dtype", "device", "tokenizer", "trust_remote_code"))
    return {"at": at, "value": hostile.any_value(rng), "model": rng.choice(originals.TEXT + originals.PICTURE)}


def _load(case: Case, folder: Path) -> None:
    place = folder / "model"
    for name, content in originals.checkpoint(case["model"]).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    value = hostile.made(case["value"])
    given = {"name": place, case["at"]: value}
    model, _ = mambascope.load(given.pop("name"), **given)
    require(isinstance(model, torch.nn.Module), "shape or type", "load")


#: Calls of `readouts`, and valid arguments.
READOUTS: dict[str, Case] = {
    "token": {"position": -1, "token": 5, "foil": 6},
    "class_": {"label": 1, "foil": 2, "positions": [0]},
    "features": {"position": 0, "direction": None, "name": "x"},
    "continuation": {"start": 1, "tokens": [5, 6], "text": "x"},
}


def _draw_readout(rng: Random) -> Case:
    name = rng.choice(sorted(READOUTS))
    arguments = {key: {"is": value} for key, value in READOUTS[name].items()}
    if rng.random() < 0.8:
        arguments[rng.choice(sorted(arguments))] = hostile.any_value(rng)
    return {"call": name, "arguments": arguments, "model": rng.choice((*originals.TEXT, *originals.PICTURE))}


def _readout(case: Case, folder: Path) -> None:
    arguments = {name: hostile.made(value) for name, value in case["arguments"].items()}
    readout = getattr(readouts, case["call"])(**arguments)
    model, _ = originals.model(case["model"])
    inputs = {"input_ids": torch.tensor([[3, 4, 5]])}
    if case["model"] in originals.PICTURE:
        inputs = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    trace = mambascope.capture(model, **inputs)
    require(readout(trace.outputs).shape == (1,), "shape or type", f"readouts.{case['call']} of {case['model']}")
    trace.gradients(readout)


def _draw_picture(rng: Random) -> Case:
    shape = [rng.choice((0, 1, 2, 3, 7, 40, 300)) for _ in range(rng.choice((1, 2, 3, 3, 3, 4)))]
    if rng.random() < 0.7:
        shape[-1:] = [3]
    while math.prod(shape) > LARGEST:
        shape[shape.index(max(shape))] = 3
    kind = rng.choice(("uint8", "uint8", "uint8", "float32", "int64", "bool", "uint16", "complex64", "object"))
    wrong = hostile.any_value(rng) if rng.random() < 0.3 else None
    at = rng.choice(("source", "model", "processor", "keep_size"))
    return {
        "shape": shape, "dtype": kind, "model": rng.choice(originals.PICTURE), "keep_size": rng.random() < 0.3,
        "wrong": wrong, "at": at,
    }  # fmt: skip


def _read_picture(case: Case, folder: Path) -> None:
    model, _ = originals.model(case["model"])
    pixels = np.zeros(case["shape"], dtype=case["dtype"])
    given = {"source": pixels, "model": model, "processor": None, "keep_size": case["keep_size"]}
    if case["wrong"] is not None:
        given[case["at"]] = hostile.made(case["wrong"])
    read = mambascope.read_picture(given["source"], given["model"], given["processor"], keep_size=given["keep_size"])
    require(bool(read.pixel_values.isfinite().all()), "NaN or infinity", "read_picture")


TARGETS = [
    Target("explain", _draw, _check, _smaller),
    Target("load", _draw_load, _load, may_change=RANDOM),
    Target("readouts", _draw_readout, _readout),
    Target("read_picture", _draw_picture, _read_picture),
]
