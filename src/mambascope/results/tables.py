"""A result as a table with a line for every layer, target and source: a data frame, a CSV, an xarray."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mambascope.attribution import Attribution
from mambascope.characters import piece_names
from mambascope.errors import InputError

if TYPE_CHECKING:
    import pandas
    import xarray

#: The columns of a table.
COLUMNS = ("method", "layer", "target", "target_token", "source", "source_token", "score", "share")


def shares(result: Attribution) -> Float[np.ndarray, "layer target source"]:
    """Return each score's share of its row's absolute scores, (layer, target, source); 0 in empty rows."""
    sizes = result.scores.numpy().astype(np.float64)
    np.abs(sizes, out=sizes)
    totals = sizes.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # scores read from a file may be infinite, and have no shares
        return np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)


def lines(result: Attribution) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of the table; scores and shares with the fewest digits that give them back."""
    axes = result.axes
    tokens = dict(zip(axes["source"], piece_names(result.tokens), strict=True))
    parts = shares(result).astype(np.float32)
    for layer, targets, of_targets in zip(axes["layer"], result.scores.numpy(), parts, strict=True):
        for target, row, share in zip(axes["target"], targets, of_targets, strict=True):
            for source, score, part in zip(axes["source"], row.astype(str), share.astype(str), strict=True):
                yield result.method, layer, target, tokens[target], source, tokens[source], score, part


def to_csv(result: Attribution) -> str:
    """Return the table as comma-separated values, with a line of column names first."""
    written = io.StringIO(newline="")
    write_csv(result, written)
    return written.getvalue()


def write_csv(result: Attribution, file: io.TextIOBase) -> None:
    """Write the table to an open file."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(lines(result))


def to_dataframe(result: Attribution) -> pandas.DataFrame:
    """Return the table as a pandas data frame.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise InputError("data frames need pandas, which is not installed: pip install pandas") from None
    layers, targets, sources = (list(result.axes[name]) for name in ("layer", "target", "source"))
    tokens = {source: _writable(name) for source, name in zip(sources, piece_names(result.tokens), strict=True)}
    index = pandas.MultiIndex.from_product([layers, targets, sources], names=["layer", "target", "source"])
    frame = index.to_frame(index=False)
    frame.insert(0, "method", _writable(result.method))
    frame.insert(3, "target_token", frame["target"].map(tokens))
    frame.insert(5, "source_token", frame["source"].map(tokens))
    frame["score"] = result.scores.numpy().reshape(-1)
    frame["share"] = shares(result).reshape(-1)
    return frame


def _writable(text: str) -> str:
    """Return a text that UTF-8 can write: half a character becomes its escape, as in files."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_xarray(result: Attribution) -> xarray.DataArray:
    """Return the scores as an `xarray.DataArray` with named axes and the token texts as a coordinate.

    Raises:
        InputError: if xarray is not installed.
    """
    try:
        import xarray
    except ImportError:
        raise InputError("this needs xarray, which is not installed: pip install mambascope[xarray]") from None
    coordinates: dict[str, Any] = {name: list(values) for name, values in result.axes.items()}
    coordinates["token"] = ("source", list(result.tokens))
    dims = ("layer", "target", "source")
    return xarray.DataArray(result.scores.numpy(), dims=dims, coords=coordinates, name=result.method)
