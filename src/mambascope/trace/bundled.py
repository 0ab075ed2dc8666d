"""The small trained models that come with the package, so that everything can be tried without a network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def bundled_models() -> dict[str, Path]:
    """Return the folder of every bundled model by its name, such as `tiny-mamba`, in alphabetical order."""
    weights = Path(str(files("mambascope") / "weights"))
    return {config.parent.name: config.parent for config in sorted(weights.glob("*/config.json"))}


def bundled_names() -> str:
    """Return the names of the bundled models, for messages."""
    return ", ".join(bundled_models()) or "none in this installation"
