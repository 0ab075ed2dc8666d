"""Writing a result to a file, in the format of the file's ending."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.files import check_place, whole_file
from mambascope.results import tables
from mambascope.results.neuronpedia import to_neuronpedia
from mambascope.results.plain import header
from mambascope.saved_results import COMPLETE
from mambascope.show.figure import SUFFIXES as FIGURES
from mambascope.show.figure import save_figure
from mambascope.show.page import html_page
from mambascope.theory.gallery import Gallery

#: The ending of Neuronpedia's attribution graphs.
GRAPH = ".graph.json"


def save(attribution: Attribution, path: Path, *others: Attribution, gallery: Gallery | None = None) -> None:
    """Write a result in the format of the file's ending, whole or not at all, see `Attribution.save`.

    Raises:
        InputError: if the ending is unknown, or the folder does not exist.
        OutputError: if the file cannot be written, as on a full disk.
    """
    check_file(path)
    suffix = ending(path)
    if suffix in FIGURES:
        save_figure(attribution, path)
        return
    with whole_file(path) as partial:
        WRITERS[suffix](attribution, partial, others, gallery)


def ending(path: Path) -> str:
    """Return what says the format of a file: its suffix in small letters, or both of `.graph.json`."""
    return GRAPH if path.name.lower().endswith(GRAPH) else path.suffix.lower()


def check_file(path: Path, formats: Sequence[str] | None = None, name: str = "") -> None:
    """Raise InputError if a file has an unknown ending, or its folder cannot be written to.

    Args:
        path: The file.
        formats: The endings allowed; by default `FORMATS`.
        name: The option that gave it, such as `--out`, for the message.
    """
    formats = FORMATS if formats is None else formats
    if ending(path) not in formats:
        called = f"{name} {path}".strip()
        found = "an unknown ending" if path.suffix else "no ending"
        raise InputError(f"{called} has {found}; choose one of {', '.join(formats)}")
    check_place(path)


def _page(attribution: Attribution, path: Path, others: Sequence[Attribution], gallery: Gallery | None) -> None:
    path.write_text(html_page(attribution, *others, gallery=gallery), encoding="utf-8")


def _object(attribution: Attribution, path: Path, *_: Any) -> None:
    _write_json(path, attribution.to_dict())


def _graph(attribution: Attribution, path: Path, *_: Any) -> None:
    _write_json(path, to_neuronpedia(attribution))


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    written = json.dumps(facts, ensure_ascii=False)
    path.write_text(written + "\n", encoding="utf-8", errors="backslashreplace")  # a command may contain any bytes


def _table(attribution: Attribution, path: Path, *_: Any) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        tables.write_csv(attribution, file)


def _arrays(attribution: Attribution, path: Path, *_: Any) -> None:
    tensors = {"scores": attribution.scores, "image": attribution.image, "pixels": attribution.pixels}
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}
    arrays |= {name: np.array(values) for name, values in attribution.axes.items()}
    arrays |= {"tokens": np.array(attribution.tokens), "facts": np.array(json.dumps(header(attribution)))}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


#: What writes each kind of file, except figures, and the complete result, which `Attribution.save` writes.
WRITERS: dict[str, Callable[[Attribution, Path, Sequence[Attribution], Gallery | None], None]] = {
    ".html": _page,
    ".json": _object,
    GRAPH: _graph,
    ".csv": _table,
    ".npz": _arrays,
}

#: The endings of files that results are written to.
FORMATS = (".html", ".png", ".pdf", ".svg", ".json", GRAPH, ".csv", ".npz", COMPLETE)
