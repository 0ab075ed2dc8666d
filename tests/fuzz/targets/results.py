"""Damaged files of saved results; of what can still be read, every verb is used."""

from __future__ import annotations

from pathlib import Path
from random import Random

from mambascope import Attribution

from .. import originals
from ..findings import Case
from ..properties import require, verbs
from .files import target

FORMATS = ("html", "json", "csv", "npz", "safetensors")
DRAWN = ("png", "svg", "pdf")


def _asked(rng: Random) -> Case:
    draws = rng.random() < 0.03
    return {"formats": rng.sample(FORMATS, 2) + ([rng.choice(DRAWN)] if draws else []), "draw": draws}


def _use(folder: Path, name: str, case: Case) -> None:
    path = folder / "result.safetensors"
    result = Attribution.load(path)
    path.unlink()
    require(all(isinstance(one, str) for one in result.tokens), "shape or type", "tokens that are no texts")
    verbs(result, folder, formats=case["formats"], draw=case["draw"])


TARGETS = [target("saved results", originals.attributions, lambda name: True, _use, _asked)]
