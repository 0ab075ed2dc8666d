"""The whole evaluation of the project's models: every task, every fast method, in one command.

    python -m benchmarks.evaluation [--out runs/evaluation] [--page docs/evaluation.md] [--limit N] [--workers 2]

Runs are stored in the folder `--out`, one for each task and model, and go on where they were stopped. Tasks with a
development part choose each method's best layer there. Models that are not there (a task model that has not been
trained yet) are left out, and the page says so. Needs the data folder (MAMBASCOPE_DATA) and `mambascope[evaluate]`.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import torch
import transformers

import mambascope
from mambascope.errors import MambascopeError
from mambascope.evaluate.layer_choice import at_layers, best_layers
from mambascope.evaluate.metrics.registry import declared_by_tasks
from mambascope.evaluate.report import markdown_table, write_report
from mambascope.evaluate.results import read_run
from mambascope.evaluate.run import run
from mambascope.evaluate.summary import long_table, summarise
from mambascope.evaluate.tasks import TASKS, find_task

SOURCES = "latim,latim-l1,latim-alti,alti-rollout,alti-logit,hidden-attention,raw-attention,rollout,implicit-attention"
FAST = f"{SOURCES},mamba-lrp,gradient-x-input"
PERTURBED = f"{FAST},mamba-attribution,integrated-gradients,smoothgrad,occlusion"

#: Task, methods, most samples, the development task and metric that choose layers, and the metrics shown.
PLAN: tuple[tuple[str, str, int | None, str | None, str | None, tuple[str, ...]], ...] = (
    ("induction", FAST, None, None, None, ("roc_auc", "average_precision", "recall_at_k")),
    ("copying", FAST, None, "copying-dev", "average_precision", ("roc_auc", "average_precision", "recall_at_k")),
    ("alignment", f"{SOURCES},mamba-lrp", None, "alignment-dev", "aer:predicts-target",
     ("aer:predicts-target", "aer:predicts-intersection", "aer:stands-target")),
    ("retrieval", FAST, 27, None, None, ("span_mass", "span_rank")),
    ("sentiment", PERTURBED, 200, None, None, ("flipping_gap", "insertion_gap")),
)  # fmt: skip

PAGE = """# Evaluation

Made by `{command}`; do not edit. Intervals are 95 % bootstrap intervals over samples; a star marks what
differs from the best of its column (paired bootstrap, p < 0.05 after Holm's correction). "Best layer" is chosen on
other samples.

{parts}
"""


def judge(out: Path, limit: int | None, work: tuple[str, str, str, int | None]) -> str:
    """Run one task on one model, and return what became of it."""
    task, model, methods, most = work
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    started, folder = time.perf_counter(), out / f"{task}-{model.replace('/', '-')}"
    samples = min((n for n in (limit, most) if n is not None), default=None)
    try:
        result = run(find_task(task), [model], methods.split(","), folder, limit=samples, resume=folder.exists())
    except MambascopeError as error:
        return f"{task}, {model}: {' '.join(str(error).split())}"
    del result
    return f"{task}, {model}: {time.perf_counter() - started:.0f} s"


def present(task: str) -> list[str]:
    """Return the models of a task that are there."""
    return [name for name in find_task(task).default_models if name in mambascope.bundled_models()]


def table_of(out: Path, task: str) -> tuple[Any, list[str]]:
    """Return the long table of a task's complete runs, or None, and the models that have none."""
    tables, missing = [], []
    for name in find_task(task).default_models:
        folder = out / f"{task}-{name.replace('/', '-')}"
        found = read_run(folder) if (folder / "manifest.json").exists() else None
        if found is None or found.missing or found.damaged:
            missing.append(name)
        else:
            tables.append(long_table(found.table))
    return (pandas.concat(tables, ignore_index=True) if tables else None), missing


def part_of_page(out: Path, task: str, dev: str | None, by: str | None, metrics: Sequence[str]) -> str:
    """Return the page's part about one task."""
    more = declared_by_tasks(metric for one in TASKS.values() for metric in one.metrics)
    table, missing = table_of(out, task)
    left_out = f"\n\nNot judged here: {', '.join(missing)}." if missing else ""
    if table is None:
        return f"## {task}{left_out}"
    choice = table_of(out, dev)[0] if dev else None
    if choice is not None:
        table = pandas.concat([table, at_layers(table, best_layers(choice, str(by), more))], ignore_index=True)
    write_report(table, out / f"report-{task}", title=task, more=more)
    text = (sys.modules[type(find_task(task)).__module__].__doc__ or "").strip()
    (summary,) = summarise(table, metrics=list(metrics), more=more)
    model_says = table[table["metric"].isin(("accuracy", "correct", "guessed"))]
    facts = "; ".join(f"{m}: {v:.1%}" for m, v in model_says.groupby("model")["value"].mean().items())
    return f"## {task}\n\n{text}\n\n{markdown_table(summary)}" + (
        f"\n\nThe model itself is right: {facts}." if facts else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--page", type=Path, help="write the page of the documentation here")
    parser.add_argument("--limit", type=int, help="most samples of a task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[row[0] for row in PLAN], help="these tasks")
    parser.add_argument("--redraw", action="store_true", help="run nothing, make the page of what is complete")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = [row for row in PLAN if row[0] in options.only]
    work = [
        (one, model, methods, most)
        for task, methods, most, dev, _, _ in plan
        for one in ((task,) if dev is None else (dev, task))
        for model in present(task)
    ]
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
        work = [] if options.redraw else work
        for line in pool.imap_unordered(functools.partial(judge, options.out, options.limit), work):
            print(line, flush=True)
    parts = [part_of_page(options.out, task, dev, by, metrics) for task, _, _, dev, by, metrics in plan]
    page = PAGE.format(command="python -m benchmarks.evaluation", parts="\n\n".join(parts))
    if options.page:
        options.page.write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main()
