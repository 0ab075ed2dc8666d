"""Damaged checkpoints: each file of a folder, and the files that authors release. What still loads is explained."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch

import mambascope

from .. import originals
from ..findings import Case
from ..originals import Files
from ..properties import require, sound
from ..running import RANDOM
from .files import target

TEXTS = ("The cat sat", "é 日本", "cafe, when")
ASKED: tuple[Case, ...] = (
    {},
    {"method": "latim"},
    {"method": "rollout"},
    {"method": "mamba-lrp"},
    {"method": "hidden-attention", "positions": "all"},
    {"generate": 2},
    {"continuation": " a"},
    {"method": "random"},
)


def _asked(rng: Random) -> Case:
    return {"text": rng.choice(TEXTS), "options": rng.choice(ASKED)}


def use(path: Path, name: str, case: Case) -> None:
    """Load a checkpoint and explain something with it."""
    model, tokenizer = mambascope.load(path)
    reads_pictures = getattr(model, "main_input_name", "") == "pixel_values"
    require(not model.training, "model left changed", "load returned a model in training mode")
    for key, value in model.state_dict().items():
        require(not value.is_floating_point() or bool(value.isfinite().all()), "NaN or infinity", f"weights: {key}")
    options: dict[str, Any] = dict(case["options"])
    if reads_pictures:
        options = {key: value for key, value in options.items() if key == "method"}
        result = mambascope.explain(model, None, originals.pixels(), **options, keep_size="." in path.name)
    elif tokenizer is None:
        ids = torch.tensor([[5, 6, 7]])
        options.pop("continuation", None)
        result = mambascope.explain(model, None, {"input_ids": ids}, **options)
    else:
        result = mambascope.explain(model, tokenizer, case["text"], **options)
    sound(result, causal=name in originals.CAUSAL)


def _folders() -> dict[str, Files]:
    return {name: originals.checkpoint(name) for name in (*originals.TEXT, *originals.PICTURE)}


def _in_folder(name: str, sets: Any, file: str) -> Any:
    return target(name, sets, lambda found: found == file, use, _asked, RANDOM)


def _with(file: str) -> dict[str, Files]:
    return {name: files for name, files in _folders().items() if file in files}


def _released(name: str) -> Any:
    file = f"{name}.pth"
    return target(
        file,
        lambda: {name: originals.released()[name]},
        lambda found: True,
        lambda folder, chosen, case: use(folder / file, chosen, case),
        _asked,
        RANDOM,
    )


TARGETS = [
    _in_folder("config.json", _folders, "config.json"),
    _in_folder("model.safetensors", _folders, "model.safetensors"),
    _in_folder("index.json", lambda: {"mamba": originals.sharded()}, "model.safetensors.index.json"),
    _in_folder("pytorch_model.bin", lambda: {"mamba": originals.pickled_checkpoint()}, "pytorch_model.bin"),
    target(
        "mamba_ssm",
        lambda: {"mamba": originals.mamba_ssm()},
        lambda found: not found.startswith("tokenizer"),
        use,
        _asked,
        RANDOM,
    ),
    _released("vim"),
    _released("vmamba"),
    _released("mambavision"),
    _in_folder("tokenizer.json", lambda: _with("tokenizer.json"), "tokenizer.json"),
    _in_folder("tokenizer_config.json", lambda: _with("tokenizer_config.json"), "tokenizer_config.json"),
    _in_folder("preprocessor_config.json", lambda: _with("preprocessor_config.json"), "preprocessor_config.json"),
]
