"""Damaged files of saved results; of what can still be read, every verb is used."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from random import Random

from mambascope import Attribution

from .. import hostile, originals
from ..findings import Case
from ..properties import plain_numbers, require, verbs
from ..running import Target
from .files import target

FORMATS = ("html", "json", "graph.json", "csv", "npz", "safetensors")
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


#: Verbs with arguments, and which of these are wrong at times.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "matrix": ("layer",),
    "row": ("position", "layer"),
    "picture": ("position", "layer"),
    "top": ("k", "position", "layer"),
    "layer_mass": ("position",),
    "save": ("path", "gallery"),
    "to_html": ("another", "gallery"),
    "to_neuronpedia": ("position",),
    "words": ("sources", "targets"),
    "spans": ("spans", "sources", "targets"),
    "mean": ("results",),
    "__add__": ("other",),
    "load": ("path",),
}


def _draw_verb(rng: Random) -> Case:
    verb = rng.choice(sorted(ARGUMENTS))
    given = {name: hostile.any_value(rng) for name in ARGUMENTS[verb] if rng.random() < 0.6}
    return {"set": rng.choice(sorted(originals.attributions())), "verb": verb, "given": given}


def _verb(case: Case, folder: Path) -> None:
    path = folder / "result.safetensors"
    path.write_bytes(originals.attributions()[case["set"]]["result.safetensors"])
    result = Attribution.load(path)
    given = {name: hostile.made(value) for name, value in case["given"].items()}
    if case["verb"] == "to_html":
        result.to_html(given.get("another", result), gallery=given.get("gallery"))
        return
    if case["verb"] == "to_neuronpedia":
        plain_numbers(result.to_neuronpedia(**given), "to_neuronpedia")
        return
    if case["verb"] in ("save", "load"):
        with contextlib.chdir(folder):
            more = {"gallery": given["gallery"]} if "gallery" in given else {}
            getattr(result, case["verb"])(given.get("path", path), **more)
        return
    if case["verb"] in ("spans", "mean", "__add__"):
        usual = {"spans": ("spans", "lines"), "mean": ("results", [result, result]), "__add__": ("other", result)}
        given = dict([usual[case["verb"]]]) | given
    found = getattr(result, case["verb"])(**given)
    if isinstance(found, Attribution):
        found = found.matrix()
    scores = [one.score for one in found] if case["verb"] == "top" else found.flatten().tolist()
    require(all(map(math.isfinite, scores)), "NaN or infinity", case["verb"])


TARGETS = [
    target("saved results", originals.attributions, lambda name: True, _use, _asked),
    Target("verbs of results", _draw_verb, _verb),
]
