"""Read what torch.save wrote, without unpickling it: no class is imported and no function called.

A pickle is a program for a small stack machine, and `pickle_machine` runs it on inert values. Values of tensors are
mapped from the file when a record is turned into a tensor, and only if the record fits its storage.

Formats: torch's zip archive (since 1.6) and the sequence of pickles before it; see torch/serialization.py.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambascope.errors import CheckpointError
from mambascope.loading.json_files import one_line
from mambascope.loading.pickle_machine import Machine, Record
from mambascope.numbering import shown

#: What the old format begins with, and its version.
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001

#: What a zip archive begins with.
ZIP = b"PK\x03\x04"


#: How many axes a tensor may have.
MOST_AXES = 8


@dataclass(frozen=True, eq=False)
class Pickled:
    """What a file made by torch.save holds.

    Attributes:
        path: The file.
        found: The object in it, of plain values, `Record` and `Stranger`.
        places: First byte and number of bytes of each storage, by key.
    """

    path: Path
    found: Any
    places: Mapping[str, tuple[int, int]]
    _mapped: mmap.mmap

    def tensor(self, name: str, record: Record) -> Tensor:
        """Return the tensor that a record describes, on the file's own bytes.

        Raises:
            CheckpointError: if the storage is not in the file, or the tensor reaches beyond it or overlaps itself.
        """
        try:
            return self._tensor(name, record)
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # such as types without a place in memory
            raise CheckpointError(f"{self.path}: {shown(name)} cannot be read ({one_line(error)})") from error

    def _tensor(self, name: str, record: Record) -> Tensor:
        start, size = self._place(name, record)
        width, count = record.dtype.itemsize, size // record.dtype.itemsize
        shape, stride, offset = record.shape, record.stride, record.offset
        sizes = (*shape, *stride, offset) if isinstance(shape, tuple) and isinstance(stride, tuple) else (-1,)
        if (
            any(type(value) is not int or not 0 <= value < 2**63 for value in sizes)
            or len(shape) != len(stride)
            or len(shape) > MOST_AXES
        ):
            raise CheckpointError(f"{self.path}: {shown(name)} has no usable shape; copy or download it again")
        if 0 in shape:
            raise CheckpointError(f"{self.path}: {shown(name)} has shape {shown(shape)}, without any values")
        reach = 0  # the last value of the axes so far, from the innermost; the next axis must step beyond it
        for step, length in sorted(zip(stride, shape, strict=True)):
            if length > 1 and step <= reach:
                raise CheckpointError(
                    f"{self.path}: {shown(name)} has shape {shown(shape)} but repeats values of its storage (strides "
                    f"{shown(stride)}); save a copy of it, tensor.clone()"
                )
            reach += (length - 1) * step
        if offset + reach >= count:
            raise CheckpointError(
                f"{self.path}: {shown(name)} has shape {shown(shape)}, more than the {count:,} values that the file "
                "has for it; it is damaged: copy or download it again"
            )
        flat = torch.frombuffer(self._mapped, dtype=record.dtype, count=count, offset=start)
        return (flat.clone() if start % width else flat).as_strided(shape, stride, offset)

    def _place(self, name: str, record: Record) -> tuple[int, int]:
        storage = record.storage
        start, size = self.places.get(storage.key, (0, -1))
        if size != storage.count * storage.dtype.itemsize or start + size > len(self._mapped):
            raise CheckpointError(
                f"{self.path} is damaged: the values of {shown(name)} are not all in it; copy or download it again"
            )
        return start + storage.skipped * storage.dtype.itemsize, size - storage.skipped * storage.dtype.itemsize


def read_pickled(path: Path) -> Pickled:
    """Return what is in a file made by torch.save; none of its values is read yet, and none of its code run.

    Raises:
        CheckpointError: if the file is damaged, compressed, of another format, or made to run code.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return (_from_zip if mapped[:4] == ZIP else _from_sequence)(path, mapped)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever the parsers of zip archives and pickles raise on bytes that are neither
        raise CheckpointError(
            f"{path} is damaged or half-written, or torch.save did not write it ({one_line(error)}); copy or download "
            "it again"
        ) from error


def _from_zip(path: Path, mapped: mmap.mmap) -> Pickled:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") <= 1 and name.endswith("data.pkl")]
    if any(name.endswith("/constants.pkl") for name in entries):
        raise CheckpointError(f"{path} is a TorchScript program; save the model's state_dict() instead")
    if len(roots) != 1:
        raise ValueError("it is a zip archive without data.pkl")
    root, data = roots[0], f"{roots[0]}data/"
    places = {
        name.removeprefix(data): _stored(entry, mapped, path)
        for name, entry in entries.items()
        if name.startswith(data)
    }
    if f"{root}byteorder" in entries:
        start, size = _stored(entries[f"{root}byteorder"], mapped, path)
        if mapped[start : start + size] != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine; save it again on a little-endian one")
    start, size = _stored(entries[f"{root}data.pkl"], mapped, path)
    found = Machine(path).run(BytesIO(mapped[start : start + size]))
    return Pickled(path, found, places, mapped)


def _stored(entry: zipfile.ZipInfo, mapped: mmap.mmap, path: Path) -> tuple[int, int]:
    """Return the place of a file in an archive, which must be stored as it is."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
        raise CheckpointError(
            f"{path} is a compressed archive ({shown(entry.filename)} would become {entry.file_size:,} bytes), which "
            "torch.save does not write; save it again"
        )
    header = mapped[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != ZIP:
        raise ValueError("a file of the archive is not where its directory says")
    start = entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if start + entry.file_size > len(mapped):
        raise ValueError("a file of the archive reaches beyond its end")
    return start, entry.file_size


def _from_sequence(path: Path, mapped: mmap.mmap) -> Pickled:
    if Machine(path).run(mapped) != MAGIC:
        raise ValueError("it does not begin as a file of torch.save does")
    if Machine(path).run(mapped) != VERSION:
        raise ValueError("it has an unknown version")
    about = Machine(path).run(mapped)
    if not isinstance(about, dict) or not about.get("little_endian", True):
        raise CheckpointError(f"{path} was written on a big-endian machine; save it again on a little-endian one")
    machine = Machine(path)
    found = machine.run(mapped)
    places = {}
    for key in Machine(path).run(mapped):
        count = int.from_bytes(mapped.read(8), "little")
        size = count * machine.storages[key].dtype.itemsize
        places[key] = (mapped.tell(), size)
        mapped.seek(mapped.tell() + size)
    return Pickled(path, found, places, mapped)
