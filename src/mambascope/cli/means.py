"""The tables at the end of `mambascope evaluate`: means over samples, one line per method, plain text of 80 columns.

The task's main metrics come first; the others follow on request.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mambascope.evaluate.by_layer import at_layers, best_layers
from mambascope.evaluate.metrics.registry import Metric, listed_metrics
from mambascope.evaluate.results import StoredRun
from mambascope.evaluate.summary import ALL_LAYERS, Column, Summary, long_table, summarise
from mambascope.evaluate.task import Task

WIDTH = 80

#: Longest label at the head of a column; a metric with a longer one goes by its name.
LABEL = 20

ARROWS = {"higher": "↑", "lower": "↓", None: ""}

#: The table shows no intervals, so few resamples are enough.
RESAMPLES = 100


@dataclass(frozen=True)
class Averages:
    """Means of a run.

    Attributes:
        summary: The means, as reports use them.
        at_best_layer: Whether they are those of each method's best layer, as the task does not judge whole models.
    """

    summary: Summary
    at_best_layer: bool = False

    @property
    def means(self) -> list[dict[str, Any]]:
        """One entry per model, method and metric, in plain values."""
        return [
            {
                "model": column.model,
                "method": method,
                "metric": column.metric.name,
                "mean": None if math.isnan(cell.interval.value) else cell.interval.value,
                "samples": cell.interval.count,
                "best": cell.best,
            }
            for (method, column), cell in self.summary.cells.items()
        ]


def averages(task: Task, stored: StoredRun) -> Averages | None:
    """Return the means of a run; None while it holds no rows."""
    if not stored.table.num_rows:
        return None
    more = listed_metrics(task.metrics)
    frame = long_table(stored.table)
    if (frame["layer"] == ALL_LAYERS).any():
        return Averages(summarise(frame, more=more, resamples=RESAMPLES)[0])
    best = at_layers(frame, best_layers(frame, next(iter(more)), more))
    return Averages(summarise(best, more=more, resamples=RESAMPLES)[0], at_best_layer=True)


def means_table(averages: Averages, task: Task, *, all_metrics: bool = False) -> str:
    """Return the means as lines of 80 columns: for each model the task's tables, with a star at each metric's best.

    Args:
        averages: The means.
        task: Their task.
        all_metrics: Whether to add the metrics that are not among the task's main ones.
    """
    summary = averages.summary
    lines: list[str] = []
    shown: set[str] = set()
    legend: dict[str, str] = {}
    starred = False
    for model in summary.models:
        lines += [model, ""]
        columns = {column.metric.name: column for column in summary.columns if column.model == model}
        for about, names in _tables(list(columns), task, all_metrics):
            table = _Table(summary, [columns[name] for name in names])
            lines += [about] if about else []
            for block in table.blocks():
                lines += [*block, ""]
            shown |= set(names)
            legend |= table.legend()
            starred = starred or table.starred
    notes = []
    if starred:
        notes.append("* best of its column")
    if averages.at_best_layer:
        notes.append("at the layer that is best for each method on these samples")
    hidden = len({column.metric.name for column in summary.columns} - shown)
    if hidden:
        notes.append(f"{hidden} more metrics with --all-metrics, or in `mambascope report`")
    return "\n".join([*lines, *_wrapped(legend), *notes])


def _tables(names: list[str], task: Task, all_metrics: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield what each table is about, and the names of its metrics that have values."""
    left = names
    for table in task.main:
        found = [name for name in table.metrics if name in left]
        if found:
            yield table.about, found
            left = [name for name in left if name not in found]
    if not left or not (all_metrics or len(left) == len(names)):
        return
    variants: dict[str, list[str]] = {"": []}
    for name in left:
        variants.setdefault(name.partition(":")[2], []).append(name)
    # a variant that has a single metric needs no table of its own: its name says it
    plain = [name for name in left if name in variants[""] or len(variants[name.partition(":")[2]]) == 1]
    if plain:
        yield ("other metrics" if len(left) < len(names) else ""), plain
    yield from ((variant, found) for variant, found in variants.items() if variant and len(found) > 1)


class _Table:
    """Metrics side by side, in blocks that fit on a line."""

    def __init__(self, summary: Summary, columns: list[Column]) -> None:
        self._cells = summary.cells
        self._columns = columns
        # a method that has a value for none of the metrics gets no line
        self._methods = [m for m in summary.methods if any((m, column) in summary.cells for column in columns)]
        self._margin = max(map(len, ("method", *self._methods))) + 1
        alike = len({column.metric.name.partition(":")[2] for column in columns}) == 1 and len(columns) > 1
        self._labels = [_label(column.metric, alike) for column in columns]
        self._heads = [
            f"{label} {ARROWS[column.metric.better]}".strip() + " "
            for label, column in zip(self._labels, columns, strict=True)
        ]
        self._widths = [max(len(head), 11) + 1 for head in self._heads]
        self._stars = [self._has_best(column) for column in columns]

    @property
    def starred(self) -> bool:
        """Whether one method is better than another in some column."""
        return any(self._stars)

    def legend(self) -> dict[str, str]:
        """Return the titles of the metrics that have one, by their labels here."""
        metrics = [column.metric for column in self._columns]
        return {label: metric.title for label, metric in zip(self._labels, metrics, strict=True) if metric.title}

    def blocks(self) -> Iterator[list[str]]:
        """Yield the lines of each block."""
        block: list[int] = []
        for number in range(len(self._columns)):
            if block and self._margin + sum(self._widths[k] for k in [*block, number]) > WIDTH:
                yield self._lines(block)
                block = []
            block.append(number)
        yield self._lines(block)

    def _lines(self, block: list[int]) -> list[str]:
        lines = [self._line("method", [self._heads[k] for k in block], block)]
        return lines + [self._line(m, [self._value(m, k) for k in block], block) for m in self._methods]

    def _line(self, first: str, entries: list[str], block: list[int]) -> str:
        written = [entry.rjust(self._widths[k]) for entry, k in zip(entries, block, strict=True)]
        return (first.ljust(self._margin) + "".join(written)).rstrip()

    def _value(self, method: str, number: int) -> str:
        cell = self._cells.get((method, self._columns[number]))
        if cell is None or math.isnan(cell.interval.value):
            return "– "
        return f"{cell.interval.value:.4g}" + ("*" if cell.best and self._stars[number] else " ")

    def _has_best(self, column: Column) -> bool:
        """Return whether one method is better than another; a value that all share, as accuracy, has no best."""
        cells = [self._cells[method, column] for method in self._methods if (method, column) in self._cells]
        return any(cell.best for cell in cells) and not all(cell.best for cell in cells)


def _wrapped(legend: dict[str, str]) -> list[str]:
    """Return each metric's title, on a line or two."""
    margin = max(map(len, legend), default=0) + 2
    lines = []
    for label, title in legend.items():
        lines += textwrap.wrap(title, WIDTH, initial_indent=label.ljust(margin), subsequent_indent=" " * margin)
    return [*lines, ""] if lines else []


def _label(metric: Metric, alike: bool) -> str:
    """Return a metric's label, or its name if the label is too long, without a variant that all of them share."""
    name, _, variant = metric.name.partition(":")
    if not alike or not variant:
        return metric.label if len(metric.label) <= LABEL else metric.name
    label = metric.label.removesuffix(f" ({variant})")
    return label if len(label) <= LABEL else name
