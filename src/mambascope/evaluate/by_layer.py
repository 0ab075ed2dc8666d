"""Each method's result in each layer, without the whole model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mambascope.evaluate import bootstrap
from mambascope.evaluate.metrics.registry import Measure, find_metric
from mambascope.evaluate.packages import package
from mambascope.evaluate.summary import ALL_LAYERS, better_first, long_table, per_sample

if TYPE_CHECKING:
    import pandas

KEYS = ["task", "model", "method"]


def values_by_layer(table: Any, metric: str, more: Mapping[str, Measure] | None = None) -> pandas.DataFrame:
    """Return one line per task, model, method and layer: columns `task, model, method, layer, value`.

    Args:
        table: The long table, see `mambascope.evaluate.summary`; rows of whole models take no part.
        metric: The metric, with any variant; a derived one is computed over all samples, others are means.
        more: Metrics beside those of the registry, by name.

    Raises:
        InputError: if the table cannot be used.
    """
    known = find_metric(metric, more)
    frame = long_table(table)
    frame = frame[(frame["layer"] != ALL_LAYERS) & frame["metric"].isin(known.counts or (known.name,))]
    lines = [(*keys, _value(rows, known)) for keys, rows in frame.groupby([*KEYS, "layer"], sort=False)]
    return package("pandas").DataFrame(lines, columns=[*KEYS, "layer", "value"])


def layers_tables(table: Any, metric: str, more: Mapping[str, Measure] | None = None) -> Iterator[tuple[str, str]]:
    """Yield, for every model with layers, its name and a Markdown table: a line per method, a column per layer.

    The best layer of each method is bold, where the metric has better and worse.

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


def _written(value: float | None, best: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _value(rows: pandas.DataFrame, metric: Measure) -> float:
    wide = per_sample(rows, metric)
    if metric.formula is not None:
        return bootstrap.corpus_value(metric.formula, wide.to_numpy(dtype=float))
    return float(wide[metric.name].mean())
