"""The best layer of each method, chosen on one set of samples and used on another.

A layer chosen on the very samples that it is judged by looks better than it is: choose on development samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mambascope.errors import InputError
from mambascope.evaluate.by_layer import KEYS, values_by_layer
from mambascope.evaluate.metrics.registry import Measure, find_metric
from mambascope.evaluate.packages import package
from mambascope.evaluate.summary import ALL_LAYERS, better_first, long_table

if TYPE_CHECKING:
    import pandas

BEST_LAYER = "{}, best layer"


def best_layers(table: Any, metric: str, more: Mapping[str, Measure] | None = None) -> pandas.DataFrame:
    """Return the best layer of every task, model and method: columns `task, model, method, layer, value`.

    Args:
        table: The long table, see `mambascope.evaluate.summary`; rows of whole models take no part.
        metric: The metric to choose by, with any variant; a derived one is computed over all samples.
        more: Metrics beside those of the registry, by name.

    Raises:
        InputError: if the metric is not ranked, no layer has a value of it, or the table cannot be used.
    """
    known = find_metric(metric, more)
    if known.better is None:
        raise InputError(
            f"{metric!r} has no direction, higher or lower, so no layer is best by it; choose another metric, or in "
            "Python give it one in `more`"
        )
    lines = []
    for keys, rows in values_by_layer(table, metric, more).groupby(KEYS, sort=False):
        values = {int(layer): float(value) for layer, value in zip(rows["layer"], rows["value"], strict=True)}
        best = min(values, key=lambda layer: (better_first(known, values[layer]), layer))
        if not np.isnan(values[best]):
            lines.append((*keys, best, values[best]))
    if not lines:
        raise InputError(f"the table of results has no value of {metric!r} for single layers")
    return package("pandas").DataFrame(lines, columns=[*KEYS, "layer", "value"])


def at_layers(table: Any, chosen: pandas.DataFrame) -> pandas.DataFrame:
    """Return the table's rows of the chosen layers as methods of their own, `… , best layer`, of the whole model.

    Append them to the whole models' rows to see both in one summary.

    Args:
        table: The long table.
        chosen: What `best_layers` returned, of this table or of another with the same models and methods; if it has
            several tasks, a layer is used for its own task alone, else for every task of the table.

    Raises:
        InputError: if the table cannot be used.
    """
    frame = long_table(table)
    keys = [*KEYS, "layer"] if chosen["task"].nunique() > 1 else [*KEYS[1:], "layer"]
    found = frame.merge(chosen[keys], on=keys)
    return found.assign(method=found["method"].map(BEST_LAYER.format), layer=ALL_LAYERS)
