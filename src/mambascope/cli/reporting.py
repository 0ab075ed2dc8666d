"""`mambascope report`: tables and figures of stored runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambascope.errors import InputError
from mambascope.evaluate.by_layer import at_layers, best_layers
from mambascope.evaluate.metrics.registry import listed_metrics
from mambascope.evaluate.packages import package
from mambascope.evaluate.report import write_report
from mambascope.evaluate.results import StoredRun, read_run
from mambascope.evaluate.summary import long_table
from mambascope.evaluate.tasks import TASKS


def report(
    folders: Sequence[Path], *, out: Path | None, layers_from: Path | None, layers_by: str | None, figures: str
) -> None:
    """Write the report of one or several runs and say where it is and what it leaves out."""
    if (layers_from is None) != (layers_by is None):
        raise InputError(
            "give both --layers-from, the run to choose layers on, and --layers-by, the metric to choose by"
        )
    pandas = package("pandas")
    runs = [_read(folder) for folder in folders]
    metrics = listed_metrics(metric for task in TASKS.values() for metric in task.metrics)
    tables = [long_table(run.table) for run in runs]
    if layers_from is not None:
        chosen = best_layers(_read(layers_from).table, str(layers_by), metrics)
        tables += [at_layers(table, chosen) for table in tables]
    title = "Results: " + ", ".join(dict.fromkeys(run.manifest.task for run in runs))
    path = write_report(
        pandas.concat(tables, ignore_index=True),
        out or folders[0] / "report",
        title=title,
        figures=figures,
        more=metrics,
    )
    print(path.read_text(encoding="utf-8"))
    print(f"written   {path}, with LaTeX, CSV and figures beside it")


def _read(folder: Path) -> StoredRun:
    found = read_run(folder)
    for damaged in found.damaged:
        print(f"mambascope: {folder}: result shard {damaged.shard} is left out: {damaged.reason}")
    return found
