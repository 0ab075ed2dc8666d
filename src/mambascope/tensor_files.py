"""Files of named tensors with texts beside them (safetensors): the same content always makes the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from mambascope.files import whole_file

#: The ending of such files.
ENDING = ".safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors and the texts of the header to a `.safetensors` file, whole or not at all.

    Raises:
        InputError, OutputError: as `whole_file`.
    """
    with whole_file(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, dict(texts))
        _sort_header(partial)


def _sort_header(path: Path) -> None:
    """Sort the texts in a file's header, which safetensors writes in a different order each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8").ljust(length))
