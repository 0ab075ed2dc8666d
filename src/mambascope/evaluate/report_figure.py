"""A figure of one metric of a task: a line per method, a mark per model, intervals as bars; readable in grey."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from mambascope.errors import InputError
from mambascope.evaluate.summary import Summary
from mambascope.numbering import shown

MARKS = "osD^vP*X"
SHADES = ("#000000", "#8a8a8a", "#4f4f4f", "#b4b4b4")
LETTERS = 8  # points


def summary_figure(summary: Summary, metric: str) -> Figure:
    """Return a matplotlib figure of a metric: every method's result with its bootstrap interval, for each model.

    The best mark of each model is filled, the others are hollow.

    Args:
        summary: The task's table.
        metric: The metric's name, with any variant.

    Raises:
        InputError: if the summary has no such metric.
    """
    columns = [column for column in summary.columns if column.metric.name == metric]
    if not columns:
        names = dict.fromkeys(column.metric.name for column in summary.columns)
        raise InputError(f"task {summary.task} has no metric {shown(metric)}; it has {', '.join(names)}")
    methods = [method for method in summary.methods if any((method, column) in summary.cells for column in columns)]
    room = len(methods) * (0.12 + 0.12 * len(columns))
    sheet = Figure(figsize=(5.6, max(2.0, 1.1 + room)), layout="constrained")
    axes = sheet.subplots()
    for number, column in enumerate(columns):
        shade, mark = SHADES[number % len(SHADES)], MARKS[number % len(MARKS)]
        axes.plot([], [], mark, color=shade, markersize=4.5, label=column.model)
        shift = (number - (len(columns) - 1) / 2) * 0.7 / len(columns)
        for line, method in enumerate(methods):
            cell = summary.cells.get((method, column))
            if cell is None or math.isnan(cell.interval.value):
                continue
            axes.plot([cell.interval.low, cell.interval.high], [line + shift] * 2, color=shade, linewidth=1.2, zorder=2)
            face = shade if cell.best else "#ffffff"
            axes.plot(
                cell.interval.value, line + shift, mark, color=shade, markerfacecolor=face, markersize=4.5, zorder=3
            )
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_yticks(range(len(methods)), methods, fontsize=LETTERS)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    known = columns[0].metric
    way = f" ({known.better} is better)" if known.better else ""
    axes.set_xlabel(f"{known.label}{way}", fontsize=LETTERS + 1, parse_math=False)
    axes.set_title(summary.task, fontsize=LETTERS + 1, loc="left", parse_math=False)
    axes.tick_params(labelsize=LETTERS)
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if len(columns) > 1:
        legend = sheet.legend(fontsize=LETTERS, frameon=False, loc="outside upper left", ncols=3)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return sheet


def save_summary_figure(summary: Summary, metric: str, path: str | Path) -> Path:
    """Write `summary_figure` to a .png, .pdf or .svg file, as `save_figure` does, and return its path.

    Raises:
        InputError: if the file has another ending or its folder does not exist; and see `summary_figure`.
        OutputError: if the disk is full or cannot be written to.
    """
    from mambascope.show.figure import save_sheet  # imported here because it brings the library of models with it

    return save_sheet(lambda: summary_figure(summary, metric), path)
