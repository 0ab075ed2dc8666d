"""The manifest of a run: everything that its numbers depend on. Two runs with one manifest have the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mambascope.errors import InputError
from mambascope.evaluate.fingerprint import Fingerprint
from mambascope.files import whole_file

FORMAT = "mambascope-run-1"
FILE = "manifest.json"

#: Longest value that a message shows.
SHOWN = 40


@dataclass(frozen=True)
class Manifest:
    """What a run is.

    Attributes:
        task: Name of the task.
        data: Hash of its data.
        samples: How many samples it judges on each model, all shards together.
        models: Fingerprint of each model, by name, in order.
        methods: The methods judged, in order.
        seed: The run's seed.
        limit: How many samples were asked for; None for all.
        options: Whatever else was chosen, as values that JSON can hold.
        versions: Versions of the libraries.
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
        """Return it as values that JSON can hold."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}

    @property
    def run(self) -> str:
        """A hash of all of it, which every part of the run carries."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:32]

    def differences(self, found: Manifest) -> list[str]:
        """Return what differs in another manifest, each as words for a message."""
        here, there = _facts(self), _facts(found)
        return [
            f"{key} ({_shown(there.get(key))} there, {_shown(here.get(key))} here)"
            for key in dict.fromkeys([*here, *there])
            if here.get(key) != there.get(key)
        ]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a run's folder, whole or not at all, also while another shard does the same.

    Raises:
        OutputError: if the disk is full or refuses.
    """
    with whole_file(folder / FILE) as partial:
        partial.write_text(json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in a folder, or None if there is none.

    Raises:
        InputError: if there is one, and it is not a run's or cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            raise InputError(f"{path} is not the manifest of a run (no {FORMAT} mark); choose another folder")
        models = {name: Fingerprint(**marks) for name, marks in found.pop("models").items()}
        return Manifest(models=models, methods=tuple(found.pop("methods")), **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as the manifest of a run ({error}); choose another folder") from error


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as flat pairs, named as a message names them."""
    facts = manifest.to_dict()
    nested = {name: facts.pop(name) for name in ("models", "options", "versions")}
    facts["models"] = list(nested["models"])
    facts["data hash"] = facts.pop("data")
    for name, marks in nested["models"].items():
        facts |= {f"{what} hash of {name}": mark for what, mark in marks.items()}
    facts |= {f"option {name}": value for name, value in nested["options"].items()}
    facts |= {f"version of {name}": value for name, value in nested["versions"].items()}
    return facts


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
