"""Tensor files that are written band by band, for what no memory holds; what an interruption leaves is continued.

A file grows beside its place, under the name `NAME.partial.safetensors`. Its header says how many bands are complete:
a band's numbers are on the disk before it is counted. At the end the count leaves the header and the file takes its
place, as any other file of named tensors (`mambascope.tensor_files`), from which single rows can be read.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor, from_numpy

from mambascope.errors import InputError, OutputError
from mambascope.files import KEPT, check_place
from mambascope.memory import in_words

#: What comes before the count of complete bands in the header of a file that grows, and the digits of the count.
COUNT, DIGITS = b'"unfinished":"', 12

#: The alignment of the numbers, in bytes, and what the last header may take more than was said.
ALIGNED, SPARE = 64, 1024

#: The part of a band's largest number by which it may differ when it is computed again to continue a file: sums in
#: another order, on another number of threads, differ by less, and another text or model by more.
SAME = 1e-3


class Band(NamedTuple):
    """Rows of some of a tensor's matrices.

    Attributes:
        maps: Which matrices.
        rows: Which rows of each.
    """

    maps: slice
    rows: slice


def bands_of(shape: tuple[int, ...], rows: int, *, together: bool = False) -> list[Band]:
    """Return the bands of so many rows that make up a tensor, matrix after matrix, or of all matrices together."""
    count, length, _ = _in_maps(shape)
    maps = [slice(0, count)] if together else [slice(one, one + 1) for one in range(count)]
    return [Band(one, slice(first, min(first + rows, length))) for one in maps for first in range(0, length, rows)]


def grow(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    identity: str,
    bands: Sequence[Band],
    compute: Callable[[Band], Float[Tensor, "maps rows columns"]],
    texts: Callable[[], Mapping[str, str]],
    *,
    said: Callable[[int, int], None] | None = None,
) -> int:
    """Write a float32 tensor to a file band by band, and return how many bands an earlier run had left complete.

    Args:
        path: The file.
        name: The tensor's name in it.
        shape: The tensor's shape, (maps, rows, columns), or (rows, columns) of a single map.
        identity: What the tensor is of, by which what an interruption left is known again.
        bands: Its bands, in order.
        compute: Returns the numbers of a band.
        texts: Returns the texts of the header. They are written at the end, when they may be longer than at the start
            by `SPARE` bytes.
        said: Called with (bands done, bands in all) at the start and after each.

    Raises:
        InputError: if no file can be written there, another process writes it, or what an interruption left is of
            something else.
        OutputError: if the disk has too little room, or the file cannot be written.
    """
    place = check_place(path)
    partial = place.with_name(partial_name(place))
    lock, complete = FileLock(partial.with_suffix(".lock"), timeout=0), 1
    try:
        with lock:
            try:
                with _Growing.opened(partial, name, shape, identity, bands, texts()) as growing:
                    begun = complete = growing.begun(bands, compute)
                    for done in range(begun, len(bands)):
                        if said is not None:
                            said(done, len(bands))
                        growing.write(bands[done], compute(bands[done]))
                        growing.count(done + 1)
                        complete += 1
                    growing.finish(texts())
                partial.replace(place)
                if said is not None:
                    said(len(bands), len(bands))
                return begun
            finally:
                with suppress(OSError):
                    if not complete:  # there is nothing to go on with
                        partial.unlink(missing_ok=True)
                    Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise InputError(f"another process is writing {path}; wait until it ends, or choose another name") from error
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}; what is complete is kept in {partial}") from error


def partial_name(path: Path) -> str:
    """Return the name under which a file grows."""
    return f"{path.stem[:KEPT]}.partial{path.suffix}"


class _Growing:
    """An unfinished file: its header, of fixed length, and its numbers."""

    def __init__(self, file: BinaryIO, path: Path, name: str, shape: tuple[int, ...], header: bytes) -> None:
        self.file, self.path, self.name, self.shape, self.header = file, path, name, shape, header

    @classmethod
    def opened(
        cls,
        path: Path,
        name: str,
        shape: tuple[int, ...],
        identity: str,
        bands: Sequence[Band],
        texts: Mapping[str, str],
    ) -> _Growing:
        """Open what an interruption left, or make a new file with room for everything.

        Raises:
            InputError: if what is there is of something else.
            OutputError: if the disk has too little room.
        """
        own = {"unfinished": "0" * DIGITS, "bands": str(len(bands)), "identity": identity}
        header = _header(name, shape, own, len(_header(name, shape, texts)) + SPARE)
        if path.exists():
            file = path.open("r+b")
            found = file.read(8)
            found += file.read(int.from_bytes(found, "little") if len(found) == 8 else 0)
            if _said(found) != _said(header):
                file.close()
                raise InputError(
                    f"{path} is what an interruption left of something else: another text, model, method or version; "
                    "remove it, or choose another name"
                )
            return cls(file, path, name, shape, found)
        whole, free = len(header) + 4 * math.prod(shape), shutil.disk_usage(path.parent).free
        if whole > free:
            raise OutputError(f"{path} needs {in_words(whole)}, but the disk has only {in_words(free)} left")
        file = path.open("x+b")
        file.write(header)
        file.truncate(whole)
        return cls(file, path, name, shape, header)

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def begun(self, bands: Sequence[Band], compute: Callable[[Band], Tensor]) -> int:
        """Return how many bands are complete, once the last of them has been computed again and is the same.

        Raises:
            InputError: if it is not: a model of other weights left them.
        """
        self.file.seek(self._counter)
        done = int(self.file.read(DIGITS))
        if done:
            band = bands[done - 1]
            found, again = self.read(band), compute(band).float()
            if not (found - again).abs().max() <= SAME * again.abs().max():
                raise InputError(
                    f"{self.path} is what an interruption left of a model with other weights; remove it, or choose "
                    "another name"
                )
        return done

    def write(self, band: Band, values: Float[Tensor, "maps rows columns"]) -> None:
        """Write the numbers of a band and wait until they are on the disk."""
        numbers = np.ascontiguousarray(values.detach().float().cpu().numpy(), dtype="<f4")
        for one, rows in zip(self._starts(band), numbers, strict=True):
            self.file.seek(one)
            self.file.write(rows.data)
        self._settle()

    def read(self, band: Band) -> Float[Tensor, "maps rows columns"]:
        """Return the numbers of a band."""
        shape = (band.rows.stop - band.rows.start, self.shape[-1])
        parts = []
        for one in self._starts(band):
            self.file.seek(one)
            parts.append(np.frombuffer(self.file.read(4 * math.prod(shape)), dtype="<f4").reshape(shape))
        return from_numpy(np.stack(parts).astype(np.float32))

    def count(self, done: int) -> None:
        """Say in the header how many bands are complete."""
        self.file.seek(self._counter)
        self.file.write(f"{done:0{DIGITS}d}".encode())
        self._settle()

    def finish(self, texts: Mapping[str, str]) -> None:
        """Write the header of a complete file."""
        header = _header(self.name, self.shape, texts, len(self.header))
        assert len(header) == len(self.header), "the texts have grown"
        self.file.seek(0)
        self.file.write(header)
        self._settle()

    @property
    def _counter(self) -> int:
        return self.header.index(COUNT) + len(COUNT)

    def _starts(self, band: Band) -> list[int]:
        """Return where the rows of a band begin in the file, for each of its matrices."""
        _, rows, columns = _in_maps(self.shape)
        return [
            len(self.header) + 4 * columns * (rows * one + band.rows.start)
            for one in range(band.maps.start, band.maps.stop)
        ]

    def _settle(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


def _in_maps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])


def _header(name: str, shape: tuple[int, ...], texts: Mapping[str, str], length: int = 0) -> bytes:
    """Return the header of a file with one tensor, of this length at least: safetensors allows blanks at its end."""
    entry: dict[str, Any] = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * math.prod(shape)]}
    content = {"__metadata__": dict(sorted(texts.items())), name: entry}
    written = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    padded = -(-max(8 + len(written), length) // ALIGNED) * ALIGNED - 8
    return padded.to_bytes(8, "little") + written.ljust(padded)


def _said(header: bytes) -> bytes:
    """Return what an unfinished file's header says, without the count of bands that are complete."""
    said, start = header[8:].rstrip(), header.rfind(COUNT) - 8
    return said if start < 0 else said[:start] + said[start + len(COUNT) + DIGITS :]
