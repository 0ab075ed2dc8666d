"""Packages that only the evaluation needs, imported when they are first used."""

from __future__ import annotations

import importlib
from types import ModuleType

from mambascope.errors import InputError


def package(name: str) -> ModuleType:
    """Return a package of the extra `evaluate`.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"evaluation needs {name.partition('.')[0]}, which is not installed: pip install mambascope[evaluate]"
        ) from error
