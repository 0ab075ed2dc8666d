"""A result as a table with a line for every layer, target and source: a data frame, a CSV."""

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

#: The columns of a table.
COLUMNS = ("method", "layer", "target", "target_token", "source", "source_token", "score", "share")


def shares(result: Attribution) -> Float[np.ndarray, "layer target source"]:
    """Return each score's share of its row's absolute scores, (layer, target, source); 0 in empty rows."""
    with np.errstate(invalid="ignore"):  # scores from a file may be infinite or any NaN, and have no shares
        sizes = result.scores.numpy().astype(np.float64)
        np.abs(sizes, out=sizes)
        totals = sizes.sum(axis=-1, keepdims=True)
        return np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)


def lines(result: Attribution) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of the table; scores and shares with the fewest digits that give them back."""
    axes = result.axes
    tokens = dict(zip(axes["source"], piece_names(result.tokens), strict=True))
    with np.errstate(invalid="ignore"):
        parts = shares(result).astype(np.float32)
    for layer, targets, of_targets in zip(axes["layer"], result.scores.numpy(), parts, strict=True):
        for target, row, share in zip(axes["target"], targets, of_targets, strict=True):
            for source, score, part in zip(axes["source"], row.astype(str), share.astype(str), strict=True):
                yield result.method, layer, target, tokens[target], source, tokens[source], score, part


def to_csv(result: Attribution, *others: Attribution) -> str:
    """Return the table as comma-separated values, with a line of column names first; see `to_dataframe`."""
    written = io.StringIO(newline="")
    write_csv(result, written, *others)
    return written.getvalue()


def write_csv(result: Attribution, file: io.TextIOBase, *others: Attribution) -> None:
    """Write the table to an open file."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("result", *COLUMNS) if others else COLUMNS)
    for number, one in enumerate((result, *others)):
        writer.writerows((number, *line) if others else line for line in lines(one))


def to_dataframe(result: Attribution, *others: Attribution) -> pandas.DataFrame:
    """Return the table as a pandas data frame; of several results, with their numbers in a first column, `result`.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise InputError("data frames need pandas, which is not installed: pip install pandas") from None
    frames = [_frame(one) for one in (result, *others)]
    if not others:
        return frames[0]
    joined = pandas.concat(frames, keys=range(len(frames)), names=["result", None])
    return joined.reset_index(level="result").reset_index(drop=True)


def _frame(result: Attribution) -> pandas.DataFrame:
    import pandas

    layers, targets, sources = (list(result.axes[name]) for name in ("layer", "target", "source"))
    tokens = {source: writable(name) for source, name in zip(sources, piece_names(result.tokens), strict=True)}
    index = pandas.MultiIndex.from_product([layers, targets, sources], names=["layer", "target", "source"])
    frame = index.to_frame(index=False)
    frame.insert(0, "method", writable(result.method))
    frame.insert(3, "target_token", frame["target"].map(tokens))
    frame.insert(5, "source_token", frame["source"].map(tokens))
    frame["score"] = result.scores.numpy().reshape(-1)
    frame["share"] = shares(result).reshape(-1)
    return frame


def writable(text: str) -> str:
    """Return a text that UTF-8 can write: half a character becomes its escape, as in files."""
    return text.encode("utf-8", "backslashreplace").decode()
