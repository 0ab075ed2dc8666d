"""Files that are written whole or not at all, and the state from which a run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mambascope.files import whole_file


@dataclass
class Progress:
    """How far a run is: everything else about its future follows from the settings and the step."""

    step: int = 0
    seconds: float = 0.0


def save(path: Path, progress: Progress, settings: dict[str, Any], **states: Any) -> None:
    """Write a checkpoint whole or not at all, so that an interruption leaves the one before."""
    with whole_file(path) as partial:
        torch.save({"progress": vars(progress), "settings": settings, **states}, partial)


def load(path: Path, settings: dict[str, Any], may_differ: tuple[str, ...] = ("steps", "decay")) -> dict[str, Any]:
    """Return a checkpoint, after making sure that it belongs to a run of the same settings.

    A run may be cut short or drawn out as long as it has not begun to decay.
    """
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    theirs = checkpoint["settings"]
    changed = {key for key in settings if key not in may_differ and settings[key] != theirs.get(key)}
    if changed:
        raise ValueError(
            f"{path} was written by a run with other settings ({', '.join(sorted(changed))}); choose another --out."
        )
    checkpoint["progress"] = Progress(**checkpoint["progress"])
    return checkpoint
