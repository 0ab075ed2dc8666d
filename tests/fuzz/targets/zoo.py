"""Damaged archives of the zoo: the files in the cache are those that were released, or there are none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random
from unittest import mock

import mambascope
from mambascope.loading import zoo

from .. import originals
from ..findings import Case
from ..mutation import changed, difference, mutated
from ..properties import require
from ..running import RANDOM, Target

NAME = f"{zoo.PREFIX}fuzzed"


def _draw(rng: Random) -> Case:
    good = originals.archive()
    return {"change": difference(good, mutated(rng, "archive.zip", good)), "twice": rng.random() < 0.1}


def _check(case: Case, folder: Path) -> None:
    released = originals.checkpoint("mamba")
    (folder / "archive.zip").write_bytes(changed(originals.archive(), case["change"]))
    model = zoo.ZooModel(
        name="fuzzed",
        task="is fuzzed",
        size=sum(map(len, released.values())),
        folder="zoo/fuzzed",
        address=(folder / "archive.zip").as_uri(),
        files={name: hashlib.sha256(content).hexdigest() for name, content in released.items()},
    )
    cache = {"MAMBASCOPE_CACHE": str(folder / "cache")}
    with (
        mock.patch.object(zoo, "zoo_models", return_value={NAME: model}),
        mock.patch.object(zoo, "CLONE", folder),
        mock.patch.dict("os.environ", cache),
    ):
        try:
            mambascope.load(NAME)
            if case["twice"]:
                mambascope.load(NAME)
        finally:
            held = originals.contents(folder / "cache") if (folder / "cache").exists() else {}
            require(
                all(released.get(Path(name).name) == content for name, content in held.items() if ".lock" not in name),
                "wrong file",
                "the cache holds what was not released",
            )


TARGETS = [Target("zoo archive", _draw, _check, may_change=RANDOM)]
