"""Writing files and folders: whole or not at all, at the end of links, with the permissions that the user expects."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from mambascope.errors import InputError, OutputError

#: How many characters of a file's name begin the name of its temporary file, so that this one is not too long.
KEPT = 40


def check_place(path: Path) -> Path:
    """Return where a file at `path` lies or would lie: at the end of its links.

    Raises:
        InputError: if no file can be written there: the folder does not exist or is protected, the name is too long or
            holds a null character, links lead in a circle, or a folder or device has that name.
    """
    try:
        found = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)!r} cannot be written ({reason}); choose another name") from error
    place = Path(os.path.realpath(path))
    if not os.path.isdir(place.parent):
        raise InputError(
            f"{path} cannot be written: the folder {place.parent} does not exist; create it or choose another folder"
        )
    if found is not None and stat.S_ISDIR(found):
        raise InputError(f"{path} is a folder; name a file in it")
    if found is not None and not stat.S_ISREG(found):
        raise InputError(f"{path} is a device, pipe or socket; name a file")
    if not os.access(place.parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(f"{path} cannot be written: the folder {place.parent} is protected; choose another folder")
    return place


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder to write to; it is renamed to `path` at the end, or removed on errors.

    If `path` is a link, the file that it leads to is written. An existing file is unchanged until the new one is
    complete, and passes on its permissions and, where that is allowed, its owner; a new file gets those that the umask
    leaves. Before it is renamed its content is on the disk, so that no crash of the machine leaves half of it. Two
    processes may write one file at the same time: each has its own temporary path, and the last to finish is kept.

    Raises:
        InputError: if nothing can be written at `path`; see `check_place`.
        OutputError: if the file cannot be written, for example because the disk is full.
    """
    place = check_place(path)
    partial = place.with_name(f"{place.stem[:KEPT]}.{secrets.token_hex(8)}.partial{place.suffix}")
    try:
        former = place.stat() if os.path.exists(place) else None
        created = _create(partial, private=former is not None)
        try:
            yield partial
            _finish(partial, former or created)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} could not be written: {error}") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text, in UTF-8, or bytes to a file, as `whole_file` does.

    Raises:
        InputError, OutputError: as `whole_file`.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def make_folder(path: Path) -> None:
    """Create a folder, and those above it, unless it exists.

    Raises:
        OutputError: if it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"the folder {path} could not be created: {error}") from error


def _create(partial: Path, *, private: bool) -> os.stat_result:
    """Create a file where nothing is, not even a link, and return its state; only its owner reads a private one."""
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600 if private else 0o666)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _finish(partial: Path, like: os.stat_result) -> None:
    """Give the written file, which a library may have put in place of the created one, its owner and permissions."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        with suppress(PermissionError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
