"""Files in the form that training code saves: tensors with an optimiser's state, and with a wrapper's prefix."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mambascope.loading.checkpoint import read_file, unpickled

#: Suffixes of files that may hold tensors.
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".tar")

#: Keys under which a file may keep its tensors; the average over training steps, if there is one, is the published one.
HOLDERS = ("state_dict_ema", "model_ema", "state_dict", "model")

#: Prefixes that wrappers add to every name.
PREFIXES = ("module.", "model.")


def released_tensors(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors by name, without a prefix that all of them share.

    Args:
        path: A `.safetensors` file, or one made by torch.save: a dict of tensors, or one with such a dict (`HOLDERS`).

    Raises:
        CheckpointError: if the file is damaged or would need code to be read.
    """
    if path.suffix == ".safetensors":
        tensors: Mapping[Any, Any] = read_file(path)
    else:
        found = unpickled(path, allowed=(argparse.Namespace,))
        tensors = next((found[key] for key in HOLDERS if isinstance(found.get(key), Mapping)), found)
    named = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    prefix = _prefix(named)
    return {name.removeprefix(prefix): value for name, value in named.items()}


def released_names(path: Path) -> frozenset[str]:
    """Return the names of the tensors in a file as `released_tensors` returns them; none if it is no such file.

    Raises:
        CheckpointError: if it is a damaged pickle.
    """
    if not path.is_file() or path.suffix not in SUFFIXES:
        return frozenset()
    if path.suffix != ".safetensors":
        return frozenset(released_tensors(path))
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError):
        return frozenset()
    prefix = _prefix(names)
    return frozenset(name.removeprefix(prefix) for name in names)


def _prefix(names: Iterable[str]) -> str:
    held = list(names)
    return next((prefix for prefix in PREFIXES if held and all(name.startswith(prefix) for name in held)), "")
