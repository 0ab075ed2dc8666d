"""The small trained models that come with the package, so that everything can be tried offline."""

from __future__ import annotations

from pathlib import Path

from mambascope.loading.zoo import PREFIX, folder_of, place, zoo_models

WEIGHTS = Path(__file__).parents[1] / "weights"


def packaged_models() -> dict[str, Path]:
    """Return the folder of every model in the package by name, such as `tiny-mamba`, in alphabetical order."""
    return {config.parent.name: config.parent for config in sorted(WEIGHTS.glob("*/config.json"))}


def bundled_models() -> dict[str, Path]:
    """Return the folder of every model on this machine by name: the package's, then the zoo's.

    Models of the zoo, such as `zoo:copying-mamba2`, are on this machine in a clone of the repository, or once cached.
    """
    places = {name: place(name) for name in zoo_models()}
    return packaged_models() | {name: folder for name, folder in places.items() if folder is not None}


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a model of the package or the zoo, fetched if necessary; None for any other name.

    Raises:
        CheckpointError: if it is a name of the zoo, and the model cannot be found or fetched, or is damaged.
    """
    return folder_of(name) if name.startswith(PREFIX) else packaged_models().get(name)


def bundled_names() -> str:
    """Return the names of the bundled models, without the zoo's, for messages."""
    return ", ".join(packaged_models()) or "none in this installation"
