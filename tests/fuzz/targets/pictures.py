"""Damaged pictures; what can still be read is explained."""

from __future__ import annotations

from pathlib import Path
from random import Random

import mambascope

from .. import originals
from ..findings import Case
from ..originals import Files
from ..properties import require, sound
from .files import target


def _files() -> dict[str, Files]:
    return {name: {name: content} for name, content in originals.picture_files().items()}


def _asked(rng: Random) -> Case:
    return {"model": rng.choice(originals.PICTURE), "keep_size": rng.random() < 0.2, "explain": rng.random() < 0.4}


def _use(folder: Path, name: str, case: Case) -> None:
    model, _ = originals.model(case["model"])
    read = mambascope.read_picture(folder / name, model, keep_size=case["keep_size"])
    require(bool(read.pixel_values.isfinite().all()), "NaN or infinity", "pixels that were read")
    require(max(read.image.shape[:2]) <= 640, "shape or type", "the copy for display is too large")
    if case["explain"] and read.pixel_values.numel() < 20_000:
        sound(mambascope.explain(model, None, folder / name, keep_size=case["keep_size"], method="latim"), causal=False)


TARGETS = [target("pictures", _files, lambda name: True, _use, _asked)]
