"""Results layer by layer, and the best layer of each method, to be chosen on other samples.

A layer that is chosen on the samples it is evaluated on looks better than it is, so choose it on development samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mambascope.errors import InputError
from mambascope.evaluate import bootstrap
from mambascope.evaluate.metrics.registry import Metric, find_metric
from mambascope.evaluate.packages import package
from mambascope.evaluate.summary import ALL_LAYERS, better_first, long_table, per_sample
from mambascope.numbering import shown

if TYPE_CHECKING:
    import pandas

KEYS = ["task", "model", "method"]
BEST_LAYER = "{}, best layer"


def values_by_layer(table: Any, metric: str, more: Mapping[str, Metric] | None = None) -> pandas.DataFrame:
    """Return one line per task, model, method and layer: columns `task, model, method, layer, value`.

    Args:
        table: The long table, see `mambascope.evaluate.summary`; rows of whole models are ignored.
        metric: The metric's name, with any variant; derived metrics are computed over all samples, others are means.
        more: Metrics beside those of the registry, by name.

    Raises:
        InputError: if the table cannot be used.
    """
    known = find_metric(metric, more)
    frame = long_table(table)
    frame = frame[(frame["layer"] != ALL_LAYERS) & frame["metric"].isin(known.counts or (known.name,))]
    lines = [(*keys, _value(rows, known)) for keys, rows in frame.groupby([*KEYS, "layer"], sort=False)]
    return package("pandas").DataFrame(lines, columns=[*KEYS, "layer", "value"])


def layers_tables(table: Any, metric: str, more: Mapping[str, Metric] | None = None) -> Iterator[tuple[str, str]]:
    """Yield, for every model with layers, its name and a Markdown table: a line per method, a column per layer.

    The best layer of each method is bold, unless the metric is not ranked.

    Raises:
        InputError: if the table cannot be used.
    """
    known, found = find_metric(metric, more), values_by_layer(table, metric, more)
    for model, rows in found.groupby("model", sort=False):
        layers = sorted(rows["layer"].unique())
        lines = [["method", *map(str, layers)], ["---", *["---:"] * len(layers)]]
        for method, of_method in rows.groupby("method", sort=False):
            values = of_method.set_index("layer")["value"]
            best = min(values, key=lambda value: better_first(known, value)) if known.better else None
            lines.append([str(method), *(_written(values.get(layer), best) for layer in layers)])
        yield str(model), "\n".join("| " + " | ".join(line) + " |" for line in lines)


def best_layers(table: Any, metric: str, more: Mapping[str, Metric] | None = None) -> pandas.DataFrame:
    """Return the best layer for every task, model and method: columns `task, model, method, layer, value`.

    Args:
        table: The long table, see `mambascope.evaluate.summary`; rows of whole models are ignored.
        metric: The metric to choose by, with any variant; a derived one is computed over all samples.
        more: Metrics beside those of the registry, by name.

    Raises:
        InputError: if the metric is not ranked, no layer has a value of it, or the table cannot be used.
    """
    known = find_metric(metric, more)
    if known.better is None:
        raise InputError(
            f"{shown(metric)} is not ranked, so no layer is best by it; choose another metric, or in Python say in "
            "`more` which way is better"
        )
    lines = []
    for keys, rows in values_by_layer(table, metric, more).groupby(KEYS, sort=False):
        values = {int(layer): float(value) for layer, value in zip(rows["layer"], rows["value"], strict=True)}
        best = min(values, key=lambda layer: (better_first(known, values[layer]), layer))
        if not np.isnan(values[best]):
            lines.append((*keys, best, values[best]))
    if not lines:
        raise InputError(f"the table of results has no value of {shown(metric)} for single layers")
    return package("pandas").DataFrame(lines, columns=[*KEYS, "layer", "value"])


def at_layers(table: Any, chosen: pandas.DataFrame) -> pandas.DataFrame:
    """Return the table's rows of the chosen layers as rows of the whole model, for methods called `… , best layer`.

    Append them to the whole models' rows to see both in one summary.

    Args:
        table: The long table.
        chosen: What `best_layers` returned for this table or another one with the same models and methods. If it has
            several tasks, each layer is used only for its own task; otherwise for every task in the table.

    Raises:
        InputError: if the table cannot be used.
    """
    frame = long_table(table)
    keys = [*KEYS, "layer"] if chosen["task"].nunique() > 1 else [*KEYS[1:], "layer"]
    found = frame.merge(chosen[keys], on=keys)
    return found.assign(method=found["method"].map(BEST_LAYER.format), layer=ALL_LAYERS)


def _written(value: float | None, best: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _value(rows: pandas.DataFrame, metric: Metric) -> float:
    wide = per_sample(rows, metric)
    if metric.formula is not None:
        return bootstrap.corpus_value(metric.formula, wide.to_numpy(dtype=float))
    return float(wide[metric.name].mean())
