"""The small trained models that come with the package, so that everything can be tried without a network."""

from __future__ import annotations

from pathlib import Path

from mambascope.loading.zoo import PREFIX, folder_of, place, zoo_models

WEIGHTS = Path(__file__).parents[1] / "weights"


def packaged_models() -> dict[str, Path]:
    """Return the folder of every model in the package by its name, such as `tiny-mamba`, in alphabetical order."""
    return {config.parent.name: config.parent for config in sorted(WEIGHTS.glob("*/config.json"))}


def bundled_models() -> dict[str, Path]:
    """Return the folder of every model that is here by its name: the package's, and then the zoo's.

    Those of the zoo, such as `zoo:copying-mamba2`, are here in a clone of the repository, and where the cache has them.
    """
    places = {name: place(name) for name in zoo_models()}
    return packaged_models() | {name: folder for name, folder in places.items() if folder is not None}


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a bundled model or of one of the zoo, fetched if need be; None for any other name.

    Raises:
        CheckpointError: if the name is of the zoo, and the model is neither here nor to be fetched, or is damaged.
    """
    return folder_of(name) if name.startswith(PREFIX) else packaged_models().get(name)


def bundled_names() -> str:
    """Return the names of the bundled models, without the zoo's, for messages."""
    return ", ".join(packaged_models()) or "none in this installation"
