"""Results as one `xarray.DataArray`, whose coordinates say what each number is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.explained import WHOLE_MODEL
from mambascope.memory import require_room
from mambascope.results.tables import writable

if TYPE_CHECKING:
    import xarray

DIMS = ("layer", "target", "source")


def to_xarray(result: Attribution, *others: Attribution) -> xarray.DataArray:
    """Return the scores of one or several results as an array; see `Attribution.to_xarray`.

    Raises:
        InputError: if xarray is not installed, or some results are of pictures and some of texts.
        MapTooLargeError: if several results' array would not fit in memory.
    """
    try:
        import xarray
    except ImportError:
        raise InputError("this needs xarray, which is not installed: pip install mambascope[xarray]") from None
    results = (result, *others)
    if len({one.grid is None for one in results}) > 1:
        raise InputError("results of texts and of pictures make no array together; make one of each")
    axes = {name: list(dict.fromkeys(chain(*(one.axes[name] for one in results)))) for name in DIMS}
    shape = (len(results), *map(len, axes.values()))
    require_room(shape, torch.empty(0, dtype=torch.float32), "put fewer results into one array")
    index = {name: {value: place for place, value in enumerate(values)} for name, values in axes.items()}
    places = [{name: [index[name][value] for value in one.axes[name]] for name in DIMS} for one in results]
    scores = np.full(shape, np.nan, dtype=np.float32)
    for one, own, into in zip(results, places, scores, strict=True):
        into[np.ix_(*own.values())] = one.scores.numpy()
    methods = [one.method for one in results]
    coordinates: dict[str, Any] = {
        **axes,
        "layer": np.array(axes["layer"], dtype=object if WHOLE_MODEL in axes["layer"] else int),  # numbers stay numbers
        "method": ("result", methods),
        "model": ("result", [writable(one.model.name) for one in results]),
        "over_layers": ("result", [one.over_layers for one in results]),
    }
    for name, (dim, each, absent) in _along(results).items():
        filled = np.full((len(results), len(axes[dim])), absent, dtype=object)
        for own, into, values in zip(places, filled, each, strict=True):
            into[own[dim]] = values
        coordinates[name] = (("result", dim), filled.astype(type(absent)))
    name = methods[0] if len(set(methods)) == 1 else "score"
    array = xarray.DataArray(scores, dims=("result", *DIMS), coords=coordinates, name=name)
    return array if others else array.isel(result=0)


def _along(results: Sequence[Attribution]) -> dict[str, tuple[str, list[Any], Any]]:
    """Return coordinates by name: the dimension each lies along, every result's values, and what stands for none."""
    found: dict[str, tuple[str, list[Any], Any]] = {
        "token": ("source", [list(map(writable, one.tokens)) for one in results], ""),
        "target_token": ("target", [[writable(one.tokens[k]) for k in one.axes["target"]] for one in results], ""),
    }
    rows = [one.targets or ((one.target,) if len(one.axes["target"]) == 1 else ()) for one in results]
    lengths = [len(one.axes["target"]) for one in results]
    if any(target.asked for own in rows for target in own):
        asked = [[writable(target.asked) for target in own] for own in rows]
        values = [[np.nan if target.value is None else target.value for target in own] for own in rows]
        found["asked"] = ("target", _padded(asked, lengths, ""), "")
        found["value"] = ("target", _padded(values, lengths, np.nan), np.nan)
    if any(target.generated is not None for own in rows for target in own):
        written = [[-1 if target.generated is None else target.generated for target in own] for own in rows]
        found["generated"] = ("target", _padded(written, lengths, -1), -1)
    if results[0].grid is not None:
        cells = [[one.grid.place(k) or (-1, -1) for k in one.axes["source"]] for one in results if one.grid is not None]
        found["row"], found["column"] = (("source", [[cell[k] for cell in own] for own in cells], -1) for k in (0, 1))
    return found


def _padded(rows: list[list[Any]], lengths: Sequence[int], absent: Any) -> list[list[Any]]:
    """Return rows of which those that are empty, because nothing is known of their targets, hold what stands for it."""
    return [row or [absent] * length for row, length in zip(rows, lengths, strict=True)]
