"""The whole evaluation of the project's models: every task, every fast method, in one command.

    python -m benchmarks.evaluation [--of texts|pictures] [--out runs/evaluation] [--page FILE] [--limit N]

Runs are stored in the folder `--out`, one for each task and model, and resume where they were stopped. Tasks with a
development part choose each method's best layer there. Models that are missing (a task model that has not been
trained yet) are left out, and the page says so. Needs the data folder (MAMBASCOPE_DATA) and `mambascope[evaluate]`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch
import transformers

import mambascope
from benchmarks.published import published_table
from mambascope.errors import MambascopeError, UnsupportedModelError
from mambascope.evaluate.by_layer import at_layers, best_layers, layers_tables
from mambascope.evaluate.metrics.registry import find_metric, listed_metrics
from mambascope.evaluate.report import markdown_table, write_report
from mambascope.evaluate.results import read_run
from mambascope.evaluate.run import run
from mambascope.evaluate.summary import ALL_LAYERS, long_table, summarise
from mambascope.evaluate.tasks import TASKS, find_task
from mambascope.files import write_whole

SOURCES = "latim,latim-l1,latim-alti,alti-rollout,alti-logit,hidden-attention,raw-attention,rollout,implicit-attention"
FAST = f"{SOURCES},mamba-lrp,gradient-x-input,random"
PERTURBED = f"{FAST},mamba-attribution,integrated-gradients,smoothgrad,occlusion"
PICTURES = (
    "raw-attention,raw-attention:reference-code,rollout,rollout:reference-code,rollout-normalised,mamba-attribution,"
    "mamba-attribution:reference-code,transformer-attribution,hidden-attention,implicit-attention,norm-based,latim,latim-alti,"
    "alti-rollout,alti-logit,mamba-lrp,gradient-x-input,integrated-gradients,smoothgrad,occlusion,random"
)
#: Without those that go through the model dozens of times for every class: a road scene has half a dozen.
SCENES = PICTURES.replace("integrated-gradients,smoothgrad,", "")


@dataclass(frozen=True)
class Planned:
    """What is judged in one task.

    Attributes:
        task: Its name.
        methods: The methods, separated by commas.
        metrics: The metrics shown.
        detail: The one of them that is also shown layer by layer.
        most: The most samples to judge.
        dev: The development task on which each method's best layer is chosen, and the metric to choose it by.
        swept: What a sample's name begins with, part by part: the detail is shown for each of these as well.
    """

    task: str
    methods: str
    metrics: tuple[str, ...]
    detail: str
    most: int | None = None
    dev: tuple[str, str] | None = None
    swept: tuple[str, ...] = ()


ROWS = ("roc_auc", "average_precision", "recall_at_k")
#: Metrics of the model itself, the same for every method.
SELF = ("accuracy", "correct", "guessed")
SIGNS = ("positive", "negative")
AER = ("aer:predicts-target", "aer:predicts-intersection", "aer:stands-target")
SPAN = ("span_mass", "span_rank")
MARKED = ("pixel_accuracy", "average_precision", "mean_iou", "mask_auc:others", "pointing_game")
ERASED = tuple(f"perturbation_{sign}_area:{answer}" for answer in ("predicted", "target") for sign in SIGNS)
FLIPPED = ("flipping_gap", "flipping_area_most_first", "flipping_area_least_first")
PLAN: tuple[Planned, ...] = (
    Planned("induction", FAST, ROWS, "average_precision"),
    Planned("copying", FAST, ROWS, "average_precision", dev=("copying-dev", "average_precision"), swept=("letters",)),
    Planned("alignment", f"{SOURCES},mamba-lrp,random", AER, AER[0], dev=("alignment-dev", "aer:predicts-target")),
    Planned("alignment-de-en", f"{SOURCES},mamba-lrp,random", AER, AER[0]),
    Planned("retrieval", FAST, SPAN, "span_mass", 36, swept=("tokens", "needles")),
    Planned("passkey", FAST, SPAN, "span_mass", 18, swept=("tokens",)),
    Planned("frequent-words", FAST, SPAN, "span_mass", 24, swept=("tokens", "words")),
    Planned("sentiment", PERTURBED, FLIPPED, "flipping_gap", 200),
    Planned("sentiment-long", FAST, FLIPPED, "flipping_gap", 12),
)
PICTURE_PLAN: tuple[Planned, ...] = (
    Planned("perturbation", PICTURES, ERASED, ERASED[0], 60),
    Planned("segmentation", PICTURES, MARKED, "mask_auc:others", 100),
    Planned("perturbation-cifar10", PICTURES, ERASED, ERASED[0], 60),
    Planned("segmentation-camvid", SCENES, MARKED, "mask_auc:others", 40),
)

PLANS = {"texts": PLAN, "pictures": PICTURE_PLAN}

PAGE = """# Evaluation: {of}

Made by `{command}`; do not edit. Intervals are 95 % bootstrap intervals over samples; a star marks what
differs from the best in its column (paired bootstrap, p < 0.05 after Holm's correction). "Best layer" is chosen on
other samples.

{parts}
"""


def judge(out: Path, limit: int | None, overwrite: bool, work: tuple[str, str, str, int | None]) -> tuple[bool, str]:
    """Run one task on one model, and return whether it succeeded, and a line about it."""
    task, model, methods, most = work
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    started, folder = time.perf_counter(), folder_of(out, task, model)
    samples = min((n for n in (limit, most) if n is not None), default=None)
    try:
        run(
            find_task(task),
            [model],
            readable(task, model, methods.split(",")),
            folder,
            limit=samples,
            resume=folder.exists() and not overwrite,
            overwrite=overwrite,
        )
    except MambascopeError as error:
        return False, f"{task}, {model}: {' '.join(str(error).split())}"
    return True, f"{task}, {model}: {time.perf_counter() - started:.0f} s"


def readable(task: str, model: str, methods: Sequence[str]) -> list[str]:
    """Return the methods that can be judged on a model."""
    loaded, able = mambascope.load(model), []
    for name in methods:
        with contextlib.suppress(UnsupportedModelError):
            find_task(task).check(loaded, [name])
            able.append(name)
    return able


def present(task: str) -> list[str]:
    """Return the models of a task that are available: shipped, or trained here."""
    shipped = mambascope.bundled_models()
    return [name for name in find_task(task).default_models if name in shipped or Path(name).is_dir()]


def folder_of(out: Path, task: str, model: str) -> Path:
    """Return where the run of a task on a model is stored, the same for zoo:NAME as for zoo/NAME."""
    return out / f"{task}-{model.replace('/', '-').replace(':', '-')}"


def table_of(out: Path, task: str) -> tuple[Any, list[str]]:
    """Return the long table of a task's complete runs, or None, and the models that have none."""
    tables, missing = [], []
    for name in find_task(task).default_models:
        folder = folder_of(out, task, name)
        found = read_run(folder) if (folder / "manifest.json").exists() else None
        if found is None or found.missing or found.damaged:
            missing.append(name)
        else:
            tables.append(long_table(found.table).assign(model=name))  # older runs have zoo/NAME for zoo:NAME
    return (pandas.concat(tables, ignore_index=True) if tables else None), missing


def part_of_page(out: Path, planned: Planned) -> str:
    """Return the page's part about one task."""
    task, more = planned.task, listed_metrics(metric for one in TASKS.values() for metric in one.metrics)
    table, missing = table_of(out, task)
    left_out = f"\n\nNot judged here: {', '.join(missing)}." if missing else ""
    if table is None:
        return f"## {task}{left_out}"
    per_layer = table
    choice = table_of(out, planned.dev[0])[0] if planned.dev else None
    if planned.dev and choice is not None:
        table = pandas.concat([table, at_layers(table, best_layers(choice, planned.dev[1], more))], ignore_index=True)
    write_report(table, out / f"report-{task}", title=task, more=more)
    text = (sys.modules[type(find_task(task)).__module__].__doc__ or "").strip()
    (summary,) = summarise(table, metrics=list(planned.metrics), more=more)
    label = find_metric(planned.detail, more).label
    model_says = table[table["metric"].isin(SELF)]
    facts = "; ".join(f"{m}: {v:.1%}" for m, v in model_says.groupby("model")["value"].mean().items())
    parts = [f"## {task}", text, markdown_table(summary)]
    parts += [f"The model itself is right: {facts}."] if facts else []
    parts += [
        part
        for model, lines in layers_tables(per_layer, planned.detail, more)
        for part in (f"{label} of each layer, {model}:", lines)
    ]
    parts += sweep_tables(per_layer, planned, label)
    published = published_table(task)
    parts += ["What papers report on models of their own:", published] if published else []
    return "\n\n".join(parts) + left_out


def sweep_tables(table: Any, planned: Planned, label: str) -> list[str]:
    """Return, for every model, the detail of whole models by what samples' names begin with, with a heading."""
    if not planned.swept:
        return []
    rows = table[(table["layer"] == ALL_LAYERS) & table["metric"].isin((planned.detail, *SELF))]
    kinds = rows["sample"].str.split("-").str[: len(planned.swept)].map(lambda parts: tuple(map(int, parts)))
    rows = rows.assign(kind=kinds, method=rows["method"].where(~rows["metric"].isin(SELF), "the model itself is right"))
    parts = []
    for model, of_model in rows.groupby("model", sort=False):
        means = of_model.groupby(["method", "kind"], sort=False)["value"].mean().unstack().sort_index(axis=1)
        heads = [", ".join(f"{word} {n}" for n, word in zip(kind, planned.swept, strict=True)) for kind in means]
        lines = [["method", *heads], ["---", *["---:"] * len(heads)]]
        lines += [[str(method), *(f"{value:.3f}" for value in values)] for method, *values in means.itertuples()]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts += [f"{label} by {' and '.join(planned.swept)}, {model}:", text]
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--page", type=Path, help="write the page of the documentation here")
    parser.add_argument("--limit", type=int, help="most samples of a task")
    parser.add_argument("--overwrite", action="store_true", help="replace stored runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--of", choices=PLANS, default="texts", help="the tasks on texts, or those on pictures")
    parser.add_argument("--only", nargs="+", help="only these tasks")
    parser.add_argument("--redraw", action="store_true", help="run nothing; make the page from the complete runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = [one for one in PLANS[options.of] if options.only is None or one.task in options.only]
    work = [  # from the plan's end, where the long ones are, so that no worker is left with one of them
        (task, model, one.methods, one.most)
        for one in reversed(plan)
        for task in (*((one.dev[0],) if one.dev else ()), one.task)
        for model in present(task)
    ]
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
        work = [] if options.redraw else work
        failed = 0
        judged = functools.partial(judge, options.out, options.limit, options.overwrite)
        for done, line in pool.imap_unordered(judged, work):
            print(line, flush=True)
            failed += not done
    if failed:
        raise SystemExit(f"{failed} of {len(work)} runs failed, so no page is written; what was stored is kept")
    parts = [part_of_page(options.out, one) for one in plan]
    page = PAGE.format(
        command=f"python -m benchmarks.evaluation --of {options.of}", of=options.of, parts="\n\n".join(parts)
    )
    if options.page:
        write_whole(options.page, page)
    else:
        print(page)


if __name__ == "__main__":
    main()
