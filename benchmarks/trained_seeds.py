"""Which method names the true source in trained models? Every method, on models of several seeds.

    python -m benchmarks.trained_seeds [--seeds 5] [--texts 8] [--runs runs/trained_seeds] [--out docs/trained_seeds.md]

For each seed, task and architecture a model of two layers is trained until it answers nearly all questions
(`training.known_sources`); one that does not get to 99 % is named and left out. Then every method explains the logit of
the answer in texts that no model has seen, the same ones for all. Symbols, keys and values are drawn independently, so
an answer can come from one token alone: its source. A run that was broken off goes on from the models that it has
judged. Forty models take half an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import transformers

from benchmarks.constructed import markdown
from mambascope.evaluate.task import NO_LAYER
from mambascope.evaluate.tasks.constructed import judge
from mambascope.files import write_whole
from mambascope.methods.registry import METHODS
from mambascope.models.constructed import Case
from training.known_sources import ARCHITECTURES, LONG, TASKS, KnownSources, train
from training.running.allocator import keep_pages

#: The share of right answers below which a model is left out.
LEAST = 0.99
#: What others found in a two-layer Mamba trained on induction: how often the true source has the highest score.
PUBLISHED = {"rollout": 1.00, "hidden-attention": 0.99, "latim": 0.87, "mamba-lrp": 0.58}

PAGE = """# Which method names the true source in trained models

Made by `make seeds`; do not edit.

Models of two layers (stock Mamba, Mamba-2, Qwen3.5 of gated delta nets alone, and Llama; width 48) were trained from
{seeds} seeds each on two tasks, until they answered nearly all questions on texts that they had not seen. A text has
{length} tokens and a question. In `induction` the tokens are different symbols, and the question is one of them: what
followed it? In `recall` they are assignments of different keys among fillers: what is the value of this key? Symbols,
keys and values are drawn independently of each other, so the answer can come from one token alone. That token is the
source; guides (the question, and in induction the symbol before the source) say where to look, but nothing of the
answer. Every method explained the logit of the answer in the same {texts} texts.

{left_out}

A cell has how often the source has the highest score: the mean over seeds, the lowest and the highest seed in brackets,
and after them the source's share of all |score| in percent. `all` is the mean over all models that a method reads.
Scores of single layers are averaged over layers, as `explain` does. {seeds} seeds of {texts} texts tell 0.6 from 0.9,
not 0.9 from 0.95.

## The source has the highest score, guides left out

{first}

## The source has the highest score of all tokens, the guides too

{of_all}

Published for a two-layer Mamba that others trained on induction:
{published}.

## What follows

Hidden attention, rollout, value zeroing and knockout look at the places where a mixer reads. A trained model may have
carried the source's content on before, through the convolution or in its first layer; then they name the place that it
was carried to, such as two tokens after the source. Whether a model does so depends on its seed, so that one model
alone can show 0 or 1 for them. Methods that go back through the convolution (LaTIM, ALTI, MambaLRP) need not fail
there, and those that go back through all layers (ALTI-Logit, MambaLRP) not where the first layer carried it.

MambaLRP and occlusion give much to guides: without the question there is no answer. Leave out the token that is
predicted from, and known cues, before you look for the source; the second table shows what happens otherwise.

This is the second kind of evidence: models whose weights were written down ([constructed.md](constructed.md)) come
before, and interventions on models of real text ([agreement.md](agreement.md)) after.

## The models

{models}
"""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many models of each kind")
    parser.add_argument("--texts", type=int, default=8, help="texts that each model is judged on")
    parser.add_argument("--runs", type=Path, default=Path("runs/trained_seeds"), help="where results are kept")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, help="write the page of the documentation here")
    options = parser.parse_args()
    keep_pages("benchmarks.trained_seeds")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    options.runs.mkdir(parents=True, exist_ok=True)
    found = [
        _kept(options.runs, TASKS[task], architecture, seed, options.texts)
        for seed in range(options.seeds)
        for task in options.tasks
        for architecture in options.architectures
    ]
    page = written(found, options.seeds, options.texts)
    print(page)
    if options.out:
        write_whole(options.out, page)


def _kept(runs: Path, task: KnownSources, architecture: str, seed: int, texts: int) -> dict[str, Any]:
    """Return what was found of one model, from its file if there is one."""
    path = runs / f"{task.name}-{architecture}-{seed}-{texts}.json"
    if not path.exists():
        write_whole(path, json.dumps(of_one_model(task, architecture, seed, texts)))
    known: dict[str, Any] = json.loads(path.read_text())
    return known


def of_one_model(task: KnownSources, architecture: str, seed: int, texts: int) -> dict[str, Any]:
    """Return one trained model's accuracy, and a row for each text, method and metric."""
    trained = train(task, architecture, seed)
    began, rows = time.process_time(), []
    if trained.accuracy >= LEAST:
        for ids, case in cases(task, texts):
            judged = judge(trained.model, ids[:-1], ids[-1], case, list(METHODS))
            rows += [(row.method, row.metric, row.value) for row in judged if row.layer == NO_LAYER]
    print(
        f"{task.name} {architecture} seed {seed}: {trained.accuracy:.1%} right after {trained.steps} steps, "
        f"{trained.seconds:.0f} s; judged in {time.process_time() - began:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return {
        "task": task.name,
        "architecture": architecture,
        "seed": seed,
        "accuracy": trained.accuracy,
        "steps": trained.steps,
        "rows": rows,
    }


def cases(task: KnownSources, count: int) -> list[tuple[list[int], Case]]:
    """Return texts with their answers at the end, and what is known of each; the same for every model."""
    texts = task.texts(np.random.default_rng(99), count, LONG, 1)
    found = []
    for row, sources, guides in zip(texts.rows.tolist(), texts.sources.tolist(), texts.guides.tolist(), strict=True):
        names = tuple(map(str, row[:-1]))
        leads = frozenset({len(names) - 1, *(place for place in guides if place >= 0)})
        found.append((row, Case(names, str(row[-1]), {sources[0]: 1}, leads, ())))
    return found


def written(found: Sequence[dict[str, Any]], seeds: int, texts: int) -> str:
    """Return the page of what was found of each model."""
    able = [one for one in found if one["accuracy"] >= LEAST]
    table = pandas.DataFrame(
        [
            (f"{one['task']}, {one['architecture']}", one["seed"], *row)
            for one in sorted(able, key=lambda one: list(TASKS).index(one["task"]))
            for row in one["rows"]
        ],
        columns=["model", "seed", "method", "metric", "value"],
    )
    ranks = table[table["metric"] == "span_rank"]
    firsts = ranks.assign(metric="first", value=(ranks["value"] <= 1).astype(float))
    table = pandas.concat([table, firsts])
    absent = [
        f"{one['task']}, {one['architecture']}, seed {one['seed']} ({_percent(one['accuracy'])})"
        for one in found
        if one["accuracy"] < LEAST
    ]
    return PAGE.format(
        seeds=seeds,
        texts=texts,
        length=LONG,
        left_out=f"Left out, as they did not get to {100 * LEAST:.0f} %: {'; '.join(absent)}."
        if absent
        else f"All {len(found)} models got to {100 * LEAST:.0f} %.",
        first=markdown(_cells(table, "recall_at_k", share=True)),
        of_all=markdown(_cells(table, "first", share=False)),
        published=", ".join(f"{method} {value:.2f}" for method, value in PUBLISHED.items()),
        models=markdown(_models(found), "model"),
    )


def _cells(table: pandas.DataFrame, metric: str, *, share: bool) -> pandas.DataFrame:
    """Return the mean and the range over seeds of a metric, a line per method and a column per kind of model."""
    each = table.pivot_table(
        index="method", columns=["metric", "model"], values="value", aggfunc="mean", sort=False, observed=True
    )
    by_seed = table[table["metric"] == metric].groupby(["method", "model", "seed"], sort=False)["value"].mean()
    spread = by_seed.groupby(level=["method", "model"], sort=False).agg(["mean", "min", "max"])
    of_all = table[table["metric"] == metric].groupby("method", sort=False)["value"].mean()
    lines = {"all": [f"{of_all[method]:.2f}" for method in each.index]}
    for model in dict.fromkeys(table["model"]):
        column = []
        for method in each.index:
            if (method, model) not in spread.index:
                column.append("–")
                continue
            mean, least, most = spread.loc[(method, model)]
            said = f"{mean:.2f} ({least:.2f}–{most:.2f})"
            column.append(f"{said} {100 * each.loc[method, ('span_mass', model)]:.0f} %" if share else said)
        lines[model] = column
    return pandas.DataFrame(lines, index=each.index)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _models(found: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """Return the accuracies and steps of all models, a line per kind."""
    kinds = dict.fromkeys((one["task"], one["architecture"]) for one in found)
    lines = {}
    for task in TASKS:
        for kind in kinds:
            if kind[0] == task:
                mine = [one for one in found if (one["task"], one["architecture"]) == kind]
                right, steps = ([one[what] for one in mine] for what in ("accuracy", "steps"))
                lines[", ".join(kind)] = (
                    f"{_percent(min(right))} to {_percent(max(right))}",
                    f"{min(steps)} to {max(steps)}",
                )
    return pandas.DataFrame(lines, index=["right answers", "steps"]).T


if __name__ == "__main__":
    main()
