"""The table at the end of `mambascope evaluate`: means over samples, one line per method, plain text of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mambascope.evaluate.layer_choice import at_layers, best_layers
from mambascope.evaluate.metrics.registry import declared_by_tasks
from mambascope.evaluate.results import StoredRun
from mambascope.evaluate.summary import ALL_LAYERS, Column, Summary, long_table, summarise
from mambascope.evaluate.task import Task

WIDTH = 80

#: Longest label of a metric; one with a longer label goes by its name.
LABEL = 20

ARROWS = {"higher": "↑", "lower": "↓", None: ""}

#: The table shows no intervals, so few resamples do.
RESAMPLES = 100


@dataclass(frozen=True)
class Averages:
    """Means of a run.

    Attributes:
        summary: They, as reports have them.
        at_best_layer: Whether they are of each method's best layer, as the task judges no whole models.
    """

    summary: Summary
    at_best_layer: bool = False

    @property
    def means(self) -> list[dict[str, Any]]:
        """One value per model, method and metric, as plain values."""
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
    more = declared_by_tasks(task.metrics)
    frame = long_table(stored.table)
    if (frame["layer"] == ALL_LAYERS).any():
        return Averages(summarise(frame, more=more, resamples=RESAMPLES)[0])
    best = at_layers(frame, best_layers(frame, task.metrics[0].name, more))
    return Averages(summarise(best, more=more, resamples=RESAMPLES)[0], at_best_layer=True)


def means_table(averages: Averages) -> str:
    """Return the means as lines of at most 80 columns: a block per model, the best of each metric with a star."""
    summary = averages.summary
    lines = []
    for model in summary.models:
        lines += [model[-WIDTH:], ""]
        columns = [column for column in summary.columns if column.model == model]
        for block in _blocks(columns, WIDTH - _margin(summary)):
            lines.append(_line("method", [_head(column) for column in block], summary, block))
            lines += [
                _line(method, [_value(summary, method, column) for column in block], summary, block)
                for method in summary.methods
            ]
            lines.append("")
    note = "* best of its column"
    if averages.at_best_layer:
        note += "; at the layer that is best for each method on these samples"
    return "\n".join([*lines, note])


def _blocks(columns: list[Column], room: int) -> Iterator[list[Column]]:
    """Yield columns in groups that fit side by side."""
    block: list[Column] = []
    for column in columns:
        if block and sum(map(_width, [*block, column])) > room:
            yield block
            block = []
        block.append(column)
    yield block


def _line(first: str, entries: list[str], summary: Summary, block: list[Column]) -> str:
    written = [entry.rjust(_width(column)) for entry, column in zip(entries, block, strict=True)]
    return (first.ljust(_margin(summary)) + "".join(written)).rstrip()


def _head(column: Column) -> str:
    label = column.metric.label if len(column.metric.label) <= LABEL else column.metric.name
    return f"{label[:LABEL]} {ARROWS[column.metric.better]}".strip() + " "


def _value(summary: Summary, method: str, column: Column) -> str:
    cell = summary.cells.get((method, column))
    if cell is None or math.isnan(cell.interval.value):
        return "– "
    return f"{cell.interval.value:.4g}" + ("*" if cell.best else " ")


def _width(column: Column) -> int:
    return max(len(_head(column)), 11) + 1


def _margin(summary: Summary) -> int:
    return max(map(len, ("method", *summary.methods))) + 1
