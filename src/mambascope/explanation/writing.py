"""Maps of every position that go to a file as they are computed, for texts whose maps no memory holds."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.arguments import callback
from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.explanation.answering import Progress, answer, check_finite
from mambascope.explanation.options import check_options, check_precision
from mambascope.explanation.question import Question
from mambascope.explanation.runner import in_precision
from mambascope.explanation.subject import read_subject
from mambascope.files import check_place
from mambascope.growing_files import Band, bands_of, grow
from mambascope.methods.latim import Precision
from mambascope.methods.method import Method
from mambascope.methods.registry import find_method
from mambascope.numbering import LayersAsked, read_layers, shown
from mambascope.progress import told
from mambascope.results.plain import header
from mambascope.saved_results import COMPLETE, texts_of
from mambascope.trace import Trace
from mambascope.trace.private_copy import plain_model
from mambascope.trace.running import own_precision
from mambascope.verbs import path_of

#: Targets of a layer at which the error of another precision is measured.
MEASURED = 4

#: Numbers in a band (64 MiB), and the least rows: blocks of pairs are cut where a band ends.
BAND, LEAST_ROWS = 1 << 24, 64


@own_precision()
def write_maps(
    path: str | Path,
    model: nn.Module,
    processor: Any,
    source: Any,
    *,
    method: str = "latim",
    layer: LayersAsked = "all",
    precision: Precision = "own",
    facts: Mapping[str, str] | None = None,
    progress: Progress = None,
) -> Attribution:
    """Write a method's scores of every position to a file as they are computed, and return the result that reads them.

    The file is what `Attribution.save` writes, and holds the result of `explain(…, positions="all")`. Memory is needed
    for a capture and a band of rows alone, or for one layer's map if the method needs it whole; the disk takes 4 bytes
    for each layer, target and source. What an interruption leaves beside `path`, in `NAME.partial.safetensors`, is
    continued by the same call. The result's scores lie in the file: only the rows that are looked at are read.

    Args:
        path: The file, which ends in `.safetensors`.
        model: A stock model of a supported family, as in `explain`.
        processor: The model's tokenizer.
        source: A text, or the model's own inputs by name.
        method: A method that scores layers and reads no logit, see `methods.METHODS`.
        layer: The layers, as in `explain`.
        precision: As in `explain`; the error is measured at four targets of every layer.
        facts: Texts to keep among the evidence.
        progress: As in `explain`; one step for each band.

    Raises:
        InputError: as `explain`, if the method has no maps of layers, the source is a picture, or what an interruption
            left is of something else.
        OutputError: if the file cannot be written, as on a disk with too little room.
        UnsupportedModelError, ReconstructionError, MapTooLargeError: as `explain`.
    """
    if not isinstance(progress, bool):
        callback(progress, "progress")
    facts = facts if facts is None else _texts(facts)
    path, chosen = _place(path), find_method(method)
    if chosen.map is None:
        raise InputError(f"{method} has no maps of layers; choose a method that scores layers, such as latim")
    layers = read_layers(layer)
    check_options([chosen], layers, "published")
    check_precision([chosen], precision, every=True)
    subject = read_subject(plain_model(model), processor, source)
    started = time.perf_counter()
    with told(progress, f"writing {path}") as steps:
        (focused,) = answer(subject, [chosen], Question(), layer=layers, progress=False)
        if focused.grid is not None:
            raise InputError("the maps of a picture fit in memory; use explain with positions='all'")
        trace = subject.trace()
        measured = _products(trace, chosen, focused.axes["layer"], precision)
        result = _every_row(focused, dict(facts or {}) | measured)

        def compute(band: Band) -> Float[Tensor, "1 t L"]:
            return rows_of(trace, chosen, result.axes["layer"][band.maps.start], band.rows, precision)

        def texts() -> dict[str, str]:
            evidence = {**result.diagnostics, "seconds": time.perf_counter() - started}
            return texts_of(header(dataclasses.replace(result, diagnostics=evidence)))

        length = len(result.tokens)
        rows = length if chosen.band is None else max(LEAST_ROWS, BAND // length)
        shape = (len(result.axes["layer"]), length, length)
        grow(path, "scores", shape, _identity(result), bands_of(shape, rows), compute, texts, said=steps)
    return Attribution.load(path)


def _texts(facts: Any) -> dict[str, str]:
    """Return named texts; raises InputError for anything else."""
    if not isinstance(facts, Mapping) or any(type(one) is not str for pair in facts.items() for one in pair):
        raise InputError(f"facts must be texts by name, found {shown(facts)}")
    return dict(facts)


def _place(path: str | Path) -> Path:
    """Return the path of a file that can be written and holds a whole result."""
    path = path_of(path)
    if path.suffix.lower() != COMPLETE:
        raise InputError(f"{path} must end in {COMPLETE}, the only kind of file that maps are written to one by one")
    check_place(path)
    return path


def _products(trace: Trace, method: Method, layers: Sequence[int], precision: Precision) -> dict[str, Any]:
    """Return the evidence of products in another precision: their largest error at some targets of every layer."""
    if method.map_error is None or precision == "own":
        return {}
    length = trace.shape[1]
    places = {length - 1 - part * length // MEASURED for part in range(MEASURED)}
    bands = [slice(place, place + 1) for place in sorted(places)]
    errors = [
        float(method.map_error(trace, rows_of(trace, method, layer, band, precision), layer, targets=band))
        for layer in layers
        for band in bands
    ]
    return {"products": precision, "products_error": max(errors)}


def _every_row(focused: Attribution, facts: Mapping[str, Any]) -> Attribution:
    """Return the result of all positions, but for its scores, from that of the one in focus."""
    length = len(focused.tokens)
    return dataclasses.replace(
        focused,
        scores=torch.zeros(()).expand(len(focused.axes["layer"]), length, length),
        axes={**focused.axes, "target": tuple(range(length))},
        diagnostics={**focused.diagnostics, **facts},
    )


def _identity(result: Attribution) -> str:
    """Return what a result is of, without numbers that change from run to run."""
    facts, kept = header(result), result.diagnostics
    own = {"products": kept["products"]} if "products" in kept else {}
    return json.dumps({name: facts[name] for name in ("tokens", "method", "model", "axes")} | own)


def rows_of(
    trace: Trace, method: Method, layer: int, rows: slice, precision: Precision = "own"
) -> Float[Tensor, "1 t L"]:
    """Return some rows of one layer's map, from the whole of it if the method has no other form.

    Raises:
        InputError: if they hold NaN or infinity.
    """
    assert method.map is not None
    options = in_precision(precision)
    if method.band is None:
        found = method.map(trace, layer, **options)[:, rows]
    else:
        found = method.band(trace, layer, rows, **options)
    check_finite(method, found)
    return found
