"""Writing a file completely or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mambascope.errors import InputError, OutputError


def check_place(path: Path) -> None:
    """Raise InputError if a file could not be written there: its folder does not exist, or it is a folder itself."""
    if not path.parent.is_dir():
        raise InputError(
            f"{path} cannot be written: the folder {path.parent} does not exist; create it or choose another folder"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder to write to; it is renamed to `path` at the end, or removed on errors.

    An existing file at `path` is unchanged until the new one is complete. Two processes may write one file at the same
    time: each has its own temporary path, and the last to finish is kept.

    Raises:
        InputError: if nothing can be written at `path`; see `check_place`.
        OutputError: if the file cannot be written, for example because the disk is full.
    """
    check_place(path)
    partial = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
