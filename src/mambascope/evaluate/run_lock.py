"""One process at a time for the same samples of a run: a lock in the run's folder, which dies with its process."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mambascope.errors import InputError, OutputError
from mambascope.files import make_folder, write_whole

#: The folder of a run's locks, in the run's folder.
LOCKS = "locks"

#: How long to wait for other processes that are just looking which subsets are taken, in seconds.
PATIENCE = 60.0


@contextmanager
def locked(folder: Path, subset: tuple[int, int]) -> Iterator[None]:
    """Hold a folder's lock for one subset of the samples, or for all of them, (0, 1).

    Processes of different subsets, of the same number of subsets, may hold theirs at the same time. The system gives a
    lock back when its process ends, however it ends; on network drives this is as reliable as their locks are.

    Args:
        folder: The folder of the locks; it is created if it does not exist.
        subset: (k, n) for the k-th of n subsets.

    Raises:
        InputError: if another process holds a lock on any of these samples; the message says which.
        OutputError: if the folder cannot be written to, or its drive has no locks.
    """
    make_folder(folder)
    path = _path(folder, subset)
    own = FileLock(path, timeout=0)
    try:
        with FileLock(folder / "locks.lock", timeout=PATIENCE):
            for other in sorted(folder.glob("*-of-*.lock")):
                if other == path or _number(other) != subset[1]:
                    with FileLock(other, timeout=0):
                        pass
            own.acquire()
    except Timeout as error:
        holder = Path(error.lock_file).with_suffix(".process")
        said = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise InputError(
            f"{folder.parent} is in use: {said} is still writing results to it; wait until it ends, or choose another "
            f"folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"{folder} could not be locked: {error}") from error
    try:
        write_whole(path.with_suffix(".process"), f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        with suppress(OSError):
            path.with_suffix(".process").unlink(missing_ok=True)
        own.release()


def _path(folder: Path, subset: tuple[int, int]) -> Path:
    return folder / f"{subset[0]}-of-{subset[1]}.lock"


def _number(path: Path) -> int | None:
    """Return how many subsets there are, from the name of a lock; None if it is not one of ours."""
    count = path.stem.rpartition("-")[2]
    return int(count) if count.isdecimal() else None
