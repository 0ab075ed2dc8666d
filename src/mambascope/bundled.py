"""The small trained models that come with the package, so that everything can be tried without a network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def bundled_models() -> dict[str, Path]:
    """Return the folder of every bundled model by its name, such as `tiny-mamba`, in alphabetical order.

    In a clone of the repository the models of its zoo are there too, such as `zoo/copying-mamba2`.
    """
    package = Path(str(files("mambascope")))
    weights = {config.parent.name: config.parent for config in sorted(package.glob("weights/*/config.json"))}
    repository = package.parents[1]
    zoo = sorted(repository.glob("zoo/*/config.json")) if (repository / "pyproject.toml").is_file() else []
    return weights | {f"zoo/{config.parent.name}": config.parent for config in zoo}


def bundled_names() -> str:
    """Return the names of the bundled models, for messages."""
    return ", ".join(bundled_models()) or "none in this installation"
