"""Writing a file whole or not at all."""

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
            f"{path} cannot be written: the folder {path.parent} does not exist; make it first or choose another place"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a place beside `path` to write to; it takes the name `path` at the end of the block, or is removed.

    What stood at `path` before stays as it was until the new file is complete. Two processes may write one file at the
    same time: each has a place of its own, and the last to end is the one that is kept.

    Raises:
        InputError: if nothing can be written at `path`, see `check_place`.
        OutputError: if the disk is full or refuses.
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
