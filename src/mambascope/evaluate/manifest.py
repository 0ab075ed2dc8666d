"""The manifest of a run: all that its results depend on. Two runs with the same manifest have the same results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from mambascope.errors import InputError
from mambascope.evaluate.fingerprint import Fingerprint
from mambascope.files import write_whole
from mambascope.schemas import DamagedError, checked, read_json

FORMAT = "mambascope-run-1"
FILE = "manifest.json"

#: The longest value shown in a message, in characters.
SHOWN = 40


@dataclass(frozen=True)
class Manifest:
    """Everything that the results of a run depend on.

    Attributes:
        task: The task's name.
        data: A hash of its data.
        samples: The number of samples for each model, over all subsets.
        models: The fingerprint of each model, by name, in order.
        methods: The methods, in order.
        seed: The run's seed.
        limit: The limit on the number of samples; None for all.
        options: Other choices, as values that JSON can hold.
        versions: The versions of the libraries.
    """

    task: str
    data: str
    samples: int
    models: Mapping[str, Fingerprint]
    methods: tuple[str, ...]
    seed: int = 0
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as values that JSON can hold."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}

    @property
    def run(self) -> str:
        """A hash of the whole manifest; every result shard of the run contains it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:32]

    def differences(self, found: Manifest) -> list[str]:
        """Return what is different in another manifest, worded for a message."""
        here, there = _facts(self), _facts(found)
        return [
            f"{key} ({_shown(there.get(key))} there, {_shown(here.get(key))} here)"
            for key in dict.fromkeys([*here, *there])
            if here.get(key) != there.get(key)
        ]


class _Stored(BaseModel):
    """The manifest as it is stored, in which an entry of another version would make another run."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["mambascope-run-1"]
    task: str
    data: str
    samples: NonNegativeInt
    models: dict[str, Fingerprint]
    methods: tuple[str, ...]
    seed: int = 0
    limit: PositiveInt | None = None
    options: dict[str, Any] = {}
    versions: dict[str, str] = {}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest to a run's folder, whole or not at all; other processes may do so at the same time.

    Raises:
        OutputError: if the disk is full or cannot be written to.
    """
    write_whole(folder / FILE, json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in a folder, or None if there is none.

    Raises:
        InputError: if there is one, but it is not a run's manifest or cannot be read.
    """
    path = folder / FILE
    try:
        if not os.path.exists(path):
            return None
        if not os.path.isfile(path):
            raise DamagedError("it is not a file")
        stored = dict(checked(_Stored, read_json(path.read_bytes())))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as the manifest of a run ({error}); choose another folder") from error
    del stored["format"]
    return Manifest(**stored)


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as flat pairs, with the names used in messages."""
    facts = manifest.to_dict()
    nested = {name: facts.pop(name) for name in ("models", "options", "versions")}
    facts["models"] = list(nested["models"])
    facts["data hash"] = facts.pop("data")
    for name, hashes in nested["models"].items():
        facts |= {f"{what} hash of {name}": value for what, value in hashes.items()}
    facts |= {f"option {name}": value for name, value in nested["options"].items()}
    facts |= {f"version of {name}": value for name, value in nested["versions"].items()}
    return facts


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
