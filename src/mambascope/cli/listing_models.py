"""`mambascope models`: the models that come with the package. Nothing here imports torch, so it answers at once."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mambascope.errors import CheckpointError
from mambascope.loading.bundled import packaged_models
from mambascope.loading.zoo import how_to_get, place, zoo_models

CONSTRUCTED = (
    "Models known by construction are named constructed:MECHANISM-ARCHITECTURE, such as constructed:recall-mamba; "
    "docs/constructed.md lists them, and `mambascope info constructed:recall-mamba` gives a text to try."
)


def print_models() -> None:
    """Print the bundled models with their families and sizes, and the zoo's with their tasks and sizes."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "family", "layers", "width", "parameters", "file"):
        table.add_column(column)
    for name, folder in packaged_models().items():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        file = folder / "model.safetensors"
        table.add_row(
            name,
            config["model_type"],
            str(config["num_hidden_layers"]),
            str(config["hidden_size"]),
            f"{parameters(file) / 1e6:.2f} M",
            f"{file.stat().st_size / 1e6:.1f} MB",
        )
    console.print(table, "")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("task")
    table.add_column("files", no_wrap=True)
    for name, model in zoo_models().items():
        table.add_row(name, model.task, f"{model.size / 1e6:.1f} MB")
    console.print(table)
    absent = [model for name, model in zoo_models().items() if model.address is None and place(name) is None]
    if absent:
        console.print(f"\n{len(absent)} of these are not here: {how_to_get('the folders of the models')}")
    console.print(f"\n{CONSTRUCTED}")


def parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds, from its header: its length in 8 bytes, then JSON.

    Raises:
        CheckpointError: if it is not a complete safetensors file.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > file.stat().st_size:
                raise ValueError("this is another kind of file: its first bytes are not a length")
            header = json.loads(opened.read(length))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not a complete safetensors file; copy or download it again") from error
