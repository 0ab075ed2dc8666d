"""Reports: results as tables in Markdown, LaTeX and CSV, one line per method, and as figures, in one folder."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mambascope.errors import InputError
from mambascope.evaluate.bootstrap import Interval
from mambascope.evaluate.by_layer import layers_tables
from mambascope.evaluate.metrics.registry import Metric
from mambascope.evaluate.report_figure import save_summary_figure
from mambascope.evaluate.summary import Cell, Column, Summary, long_table, summarise
from mambascope.files import make_folder, write_whole

ABSENT = "–"
ARROWS = {"higher": "↑", "lower": "↓", None: ""}
LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", None: ""}
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"$\Delta$",
    "ρ": r"$\rho$",
    "ℓ": r"$\ell$",
    "[": "{[}",  # LaTeX would read it as a length after the end of a line
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}


def write_report(
    table: Any, folder: str | Path, *, title: str = "Results", figures: str = ".png", **options: Any
) -> Path:
    """Write every task's table and figures to a folder, and return the path of `report.md`, which shows them all.

    The folder also gets `<task>.tex` and `<task>.csv` for each task, and a figure `<task>-<metric>` for each metric.

    Args:
        table: The long table of results.
        folder: The folder to write to; its parent must exist.
        title: The heading of the report.
        figures: The figures' file type: `.png`, `.pdf` or `.svg`.
        options: Options of `summarise`.

    Raises:
        InputError: see `summarise`; or if the folder's parent does not exist, or two tasks would write the same file.
        OutputError: if a file could not be written.
    """
    summaries = summarise(table, **options)
    stems = [file_stem(summary.task) for summary in summaries]
    if len(set(stems)) < len(stems):
        raise InputError(f"two tasks of {', '.join(s.task for s in summaries)} would write the same file; rename one")
    folder = Path(folder)
    if not os.path.isdir(folder.parent) or (os.path.exists(folder) and not os.path.isdir(folder)):
        raise InputError(f"{folder} cannot be created: {folder.parent} is not a folder, or a file has that name")
    make_folder(folder)
    blocks = [f"# {title}"]
    for summary, stem in zip(summaries, stems, strict=True):
        _write(folder / f"{stem}.tex", latex_table(summary))
        _write(folder / f"{stem}.csv", csv_table(summary))
        blocks += [f"## {summary.task}", markdown_table(summary), summary.note().replace("*", r"\*")]
        for metric in dict.fromkeys(column.metric for column in summary.columns):
            name = f"{stem}-{file_stem(metric.name)}{figures}"
            save_summary_figure(summary, metric.name, folder / name)
            blocks.append(f"![{summary.task}: {metric.label}]({name})")
        blocks += _layers(table, summary, options.get("more"))
    return _write(folder / "report.md", "\n\n".join(blocks) + "\n")


def markdown_table(summary: Summary) -> str:
    """Return a summary as a Markdown table: values with intervals, the best in bold, a star where one differs."""

    def written(cell: Cell, decimals: int) -> str:
        value = f"{cell.interval.value:.{decimals}f}"
        return (f"**{value}**" if cell.best else value) + (r"\*" if cell.differs else "") + _ends(cell, decimals)

    heads = [
        f"{column.model}<br>{column.metric.label} {ARROWS[column.metric.better]}".strip() for column in summary.columns
    ]
    lines = [["method", *heads], ["---", *["---:"] * len(heads)], *_lines(summary, written)]
    return "\n".join("| " + " | ".join(_one_line(entry).replace("|", r"\|") for entry in line) + " |" for line in lines)


def latex_table(summary: Summary) -> str:
    """Return a summary as a LaTeX `tabular` that needs the package booktabs, to be put into a `table`.

    Names are escaped; the note comes before it as a comment.
    """

    def written(cell: Cell, decimals: int) -> str:
        value = f"{cell.interval.value:.{decimals}f}"
        value = rf"\textbf{{{value}}}" if cell.best else value
        ends = _ends(cell, decimals)
        return value + ("$^{*}$" if cell.differs else "") + (rf"~{{\scriptsize{ends}}}" if ends else "")

    counts = [sum(column.model == model for column in summary.columns) for model in summary.models]
    models = [rf"\multicolumn{{{n}}}{{c}}{{{latex(m)}}}" for m, n in zip(summary.models, counts, strict=True)]
    metrics = [f"{latex(c.metric.label)} {LATEX_ARROWS[c.metric.better]}".strip() for c in summary.columns]
    body = [" & ".join([latex(method), *cells]) + r" \\" for method, *cells in _lines(summary, written)]
    ends = [1 + sum(counts[: k + 1]) for k in range(len(counts))]
    rules = " ".join(rf"\cmidrule(lr){{{end - n + 1}-{end}}}" for end, n in zip(ends, counts, strict=True))
    return "\n".join(
        [
            f"% {_one_line(summary.task)}: {_one_line(summary.note())}",
            rf"\begin{{tabular}}{{l{'r' * len(summary.columns)}}}",
            r"\toprule",
            " & ".join(["", *models]) + r" \\",
            rules,
            " & ".join(["method", *metrics]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def csv_table(summary: Summary) -> str:
    """Return a summary as CSV with full precision, for programs.

    Each model and metric has a column `<model> <metric>` and further ones with the same beginning: `low`, `high`,
    `samples`, `undefined`, `best` (1 or 0), and the p-values against the best, `p_bootstrap`, `p_holm`, `p_wilcoxon`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("", " low", " high", " samples", " undefined", " best", " p_bootstrap", " p_holm", " p_wilcoxon")
    writer.writerow(["method", *(f"{c.model} {c.metric.name}{field}" for c in summary.columns for field in fields)])
    for method in summary.methods:
        line: list[object] = [method]
        for column in summary.columns:
            cell = summary.cells.get((method, column))
            line += _csv_fields(cell) if cell is not None else [""] * len(fields)
        writer.writerow(line)
    return text.getvalue()


def latex(text: str) -> str:
    """Return a text with the characters escaped that have a meaning in LaTeX."""
    return "".join(LATEX_SPECIAL.get(letter, letter) for letter in _one_line(text))


def file_stem(name: str) -> str:
    """Return a name that is valid in any file system: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"


def _csv_fields(cell: Cell) -> list[object]:
    interval, test = cell.interval, cell.against_best
    p_values = (test.p_bootstrap, cell.p_adjusted, test.p_wilcoxon) if test else (None, None, None)
    numbers = (interval.value, interval.low, interval.high)
    written = ["" if p is None or math.isnan(p) else repr(float(p)) for p in (*numbers, *p_values)]
    return [*written[:3], interval.count, interval.undefined, int(cell.best), *written[3:]]


def _lines(summary: Summary, written: Callable[[Cell, int], str]) -> list[list[str]]:
    decimals = {column: _decimals(summary, column) for column in summary.columns}
    found = [[summary.cells.get((method, column)) for column in summary.columns] for method in summary.methods]
    return [
        [
            method,
            *(
                ABSENT if cell is None or math.isnan(cell.interval.value) else written(cell, decimals[column])
                for cell, column in zip(cells, summary.columns, strict=True)
            ),
        ]
        for method, cells in zip(summary.methods, found, strict=True)
    ]


def _decimals(summary: Summary, column: Column) -> int:
    """Return the number of decimals of a column: three below 10, fewer above, more for very small values."""
    intervals = [cell.interval for (_, c), cell in summary.cells.items() if c == column]
    largest = max((abs(i.value) for i in intervals if not math.isnan(i.value)), default=0.0)
    if largest == 0 or largest >= 0.01:
        return 3 if largest < 10 else 2 if largest < 100 else 1
    return min(2 - math.floor(math.log10(largest)), 12)


def _ends(cell: Cell, decimals: int) -> str:
    interval: Interval = cell.interval
    return "" if math.isnan(interval.low) else f" [{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]"


def _layers(table: Any, summary: Summary, more: Mapping[str, Metric] | None) -> list[str]:
    """Return tables of a task's first metric layer by layer, each with a heading."""
    frame = long_table(table)
    metric = summary.columns[0].metric
    found = layers_tables(frame[frame["task"] == summary.task], metric.name, more)
    return [block for model, text in found for block in (f"### {model}: {metric.label} of each layer", text)]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _write(path: Path, text: str) -> Path:
    write_whole(path, text)
    return path
