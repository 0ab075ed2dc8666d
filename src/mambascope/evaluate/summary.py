"""Summaries of a long table of results, as in a paper: means, intervals, the best, and the methods that differ from it.

The long table has one row per number, with the columns `task, model, method, layer, sample, metric, value`. `layer` is
`ALL_LAYERS` (-1) for the whole model. Derived metrics have one row per count and sample, see
`mambascope.evaluate.metrics.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mambascope.errors import InputError
from mambascope.evaluate import bootstrap
from mambascope.evaluate.bootstrap import Interval, PairedTest
from mambascope.evaluate.metrics.registry import Metric, results_of
from mambascope.evaluate.packages import package
from mambascope.numbering import shown
from mambascope.trust import caution

if TYPE_CHECKING:
    import pandas

COLUMNS = ("task", "model", "method", "layer", "sample", "metric", "value")
ALL_LAYERS = -1
#: Differences from the best are marked below this p-value, after correction for the number of methods (Holm 1979).
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Cell:
    """One method's result for one model and metric.

    Attributes:
        interval: The mean over samples, or the corpus-level statistic, with its bootstrap interval.
        best: Whether it is the best of its column, or ties with it.
        against_best: The test of this method against the best one; None for the best and for metrics not ranked.
        p_adjusted: That test's bootstrap p-value after Holm's correction over the column.
    """

    interval: Interval
    best: bool = False
    against_best: PairedTest | None = None
    p_adjusted: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the method differs significantly from the best."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT


@dataclass(frozen=True)
class Column:
    """A column of the table: one metric on one model."""

    model: str
    metric: Metric


@dataclass(frozen=True)
class Summary:
    """A task's table.

    Attributes:
        task: The task's name.
        methods: The lines, in the order of the long table.
        columns: The metrics of each model, models in that order too.
        cells: The results, by method and column; a method without results for a column has no cell there.
        level: The level of the intervals.
        resamples: The number of resamples.
    """

    task: str
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], Cell]
    level: float
    resamples: int

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in order."""
        return tuple(dict.fromkeys(column.model for column in self.columns))

    def note(self) -> str:
        """Return a note for readers of the table, a few sentences long."""
        intervals = [cell.interval for cell in self.cells.values()]
        fewest, most = (f([i.count for i in intervals]) for f in (min, max))
        undefined = sum(i.undefined for i in intervals)
        samples = f"{most:,} samples" if fewest == most else f"{fewest:,} to {most:,} samples"
        text = (
            f"{samples} per cell; in brackets, {self.level:.0%} percentile bootstrap intervals over samples "
            f"({self.resamples:,} resamples). Bold: best of its column. *: differs from the best "
            f"(paired bootstrap, p < {SIGNIFICANT}, Holm's correction over the column's methods)."
        )
        if undefined:
            text += f" {undefined:,} values were undefined and left out of their means."
        if any(column.metric.better is None for column in self.columns):
            text += " Metrics without an arrow are not ranked."
        for (method, column), cell in self.cells.items():
            if not math.isnan(cell.interval.value) and (words := caution({column.metric.name: cell.interval.value})):
                text += f" {method} on {column.model}: {words}."
        return text


def summarise(
    table: Any,
    *,
    layer: int = ALL_LAYERS,
    metrics: Sequence[str] | None = None,
    more: Mapping[str, Metric] | None = None,
    level: float = bootstrap.LEVEL,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> list[Summary]:
    """Return one summary per task.

    Args:
        table: The long table, a pandas DataFrame or a pyarrow Table.
        layer: Show the results of this layer; by default those of the whole model. For best layers see `by_layer`.
        metrics: The names of the metrics wanted, with any variant, in this order; None for all. A derived metric is
            shown instead of its counts.
        more: Metrics beside those of the registry, by name.
        level, resamples, seed: Settings of the bootstrap, see `mean_interval`.

    Raises:
        InputError: if a column is missing, the table has a number twice, a value is infinite, a metric is not in the
            table, no row is of that layer, or pandas is not installed.
    """
    frame = long_table(table)
    frame = frame[frame["layer"] == layer]
    if not len(frame):
        what = "the whole model (layer -1)" if layer == ALL_LAYERS else f"layer {layer}"
        raise InputError(f"the table of results has no row of {what}; choose another layer, or best layers")
    options = {"level": level, "resamples": resamples, "seed": seed}
    return [_task(str(task), rows, metrics, more, options) for task, rows in frame.groupby("task", sort=False)]


def long_table(table: Any) -> pandas.DataFrame:
    """Return a table of results as a pandas DataFrame with the seven columns, checked.

    Raises:
        InputError: see `summarise`.
    """
    pandas = package("pandas")
    frame = table.to_pandas() if hasattr(table, "to_pandas") else table
    if not isinstance(frame, pandas.DataFrame):
        raise InputError(f"results are a pandas DataFrame or a pyarrow Table, not {type(table).__name__}")
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"the table of results lacks {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    texts = dict.fromkeys(("task", "model", "method", "sample", "metric"), str)
    frame = frame.loc[:, list(COLUMNS)].astype({**texts, "layer": int, "value": float})
    twice = frame.duplicated(list(COLUMNS[:-1]))
    if twice.any():
        first = frame.loc[twice].iloc[0]
        where = ", ".join(f"{name} {first[name]}" for name in COLUMNS[:-1])
        raise InputError(f"the table of results has two values for {where}; keep one run of each")
    return frame


def per_sample(rows: pandas.DataFrame, metric: Metric) -> pandas.DataFrame:
    """Return one method's values of a metric, or the counts of a derived one, one line per sample.

    Raises:
        InputError: if a sample has only some of a derived metric's counts.
    """
    names = list(metric.counts) or [metric.name]
    rows = rows[rows["metric"].isin(names)]
    wide = rows.pivot(index="sample", columns="metric", values="value").reindex(columns=names)
    if metric.counts and wide.isna().any(axis=None):
        sample = wide.index[wide.isna().any(axis=1)][0]
        raise InputError(f"sample {sample} does not have all counts of {metric.name}: {', '.join(names)}")
    return wide


def interval_of(wide: pandas.DataFrame, metric: Metric, **options: Any) -> Interval:
    """Return the result of what `per_sample` returned; options as in `mean_interval`."""
    if metric.formula is not None:
        return bootstrap.statistic_interval(wide.to_numpy(dtype=float), metric.formula, **options)
    return bootstrap.mean_interval(wide[metric.name].to_numpy(dtype=float), **options)


def better_first(metric: Metric, value: float) -> float:
    """Return a key that sorts values from best to worst, NaN last."""
    if np.isnan(value):
        return float("inf")
    return -value if metric.better == "higher" else value


def _task(
    task: str,
    rows: pandas.DataFrame,
    names: Sequence[str] | None,
    more: Mapping[str, Metric] | None,
    options: dict[str, Any],
) -> Summary:
    found = results_of(rows["metric"].unique(), more)
    by_name = {metric.name: metric for metric in found}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise InputError(f"task {task} has no metric {shown(unknown[0])}; it has {', '.join(by_name)}")
    wanted = found if names is None else [by_name[name] for name in names]
    columns, cells = [], {}
    for model, of_model in rows.groupby("model", sort=False):
        for metric in wanted:
            filled = _column(of_model, metric, options)
            if filled:
                column = Column(str(model), metric)
                columns.append(column)
                cells.update({(method, column): cell for method, cell in filled.items()})
    methods = tuple(str(method) for method in rows["method"].unique() if any((method, c) in cells for c in columns))
    return Summary(task, methods, tuple(columns), cells, options["level"], options["resamples"])


def _column(rows: pandas.DataFrame, metric: Metric, options: dict[str, Any]) -> dict[str, Cell]:
    samples = {str(method): per_sample(of_method, metric) for method, of_method in rows.groupby("method", sort=False)}
    samples = {method: wide for method, wide in samples.items() if len(wide)}
    cells = {method: Cell(interval_of(wide, metric, **options)) for method, wide in samples.items()}
    values = {method: cell.interval.value for method, cell in cells.items() if not np.isnan(cell.interval.value)}
    if metric.better is None or not values:
        return cells
    best = min(values, key=lambda method: better_first(metric, values[method]))
    for method in cells:
        if values.get(method) == values[best]:
            cells[method] = replace(cells[method], best=True)
        else:
            test = _test(samples[method], samples[best], metric, options)
            cells[method] = replace(cells[method], against_best=test)
    return _adjusted(cells)


def _test(first: pandas.DataFrame, second: pandas.DataFrame, metric: Metric, options: dict[str, Any]) -> PairedTest:
    shared = first.index.intersection(second.index)
    a, b = (wide.loc[shared].to_numpy(dtype=float) for wide in (first, second))
    if metric.formula is not None:
        return bootstrap.paired_statistic_test(a, b, metric.formula, **options)
    return bootstrap.paired_test(a[:, 0], b[:, 0], **options)


def _adjusted(cells: dict[str, Cell]) -> dict[str, Cell]:
    """Return the cells with Holm's p-values: in rising order, each times the number of tests left, never falling."""
    tested = {m: c.against_best.p_bootstrap for m, c in cells.items() if c.against_best is not None}
    order = sorted((m for m in tested if not np.isnan(tested[m])), key=tested.__getitem__)
    largest = 0.0
    for passed, method in enumerate(order):
        largest = max(largest, min(1.0, tested[method] * (len(order) - passed)))
        cells[method] = replace(cells[method], p_adjusted=largest)
    return cells
