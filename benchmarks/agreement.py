"""Which fast score agrees with what interventions find? Rank correlation on held-out passages, for every method.

    python -m benchmarks.agreement [--models tiny-mamba tiny-mamba2] [--passages 200] [--tokens 64] [--out FILE.md]

Each passage is cut from a held-out novel. The number explained is the logit of the token that the model finds likeliest
after it. Two interventions say what each of its tokens did for that logit: `occlusion` sets the token's embedding to
zero, `knockout` removes what flows from the token's position to the last one from every scan. A method's scores are
compared with an intervention's over all tokens by Spearman's rank correlation, in size (|score| with |effect|) and, for
signed methods, with their sign. Methods that score layers are averaged over layers, as `explain` does. The table gives
the mean over passages with a bootstrap 95 % interval. Two baselines know nothing of the model: `recency` (later tokens
score higher) and `random`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

import mambascope
from mambascope.errors import InputError
from mambascope.explanation import explain
from mambascope.files import write_whole
from mambascope.methods.method import SCAN
from mambascope.methods.registry import METHODS
from mambascope.ranks import rank_correlation
from training.language.corpus import data_folder, read_novels, split_novels

INTERVENTIONS = ("occlusion", "knockout")
FAST = [m.name for m in METHODS.values() if m.needs != "interventions" and m.reads(SCAN)]
BASELINES = ("recency", "random")
RESAMPLES = 2000

PAGE = """# Which method agrees with interventions

Made by `{command}`; do not edit.

{about}

This is the third kind of evidence: where the truth is known it goes before, by construction
([constructed.md](constructed.md)) and in trained models whose answers come from one token
([trained_seeds.md](trained_seeds.md)). Interventions are no truth: the two here agree less with each other than
with some of the methods.

{tables}

{verdict}
"""


VERDICT = """## What follows

Means over models and both interventions. In size: {size}.

With their sign: {signed}.

`explain` answers what a prediction was drawn from by the first of the second list, `mamba-lrp`: there the sign matters.
The first of the first list, `latim`, shows single layers, every position, and models without a head. The two
interventions differ from each other too, since they ask different things: `occlusion` takes a token away from the whole
text, `knockout` only what flows straight from its position to the last."""


def passages(tokenizer: Any, count: int, tokens: int, seed: int) -> Iterator[list[int]]:
    """Yield token ids of passages that begin at a sentence of a held-out novel, drawn evenly from the novels."""
    _, held_out = split_novels(read_novels(data_folder(None)))
    generator = torch.Generator().manual_seed(seed)
    texts = list(held_out.values())
    for number in range(count):
        text = texts[number % len(texts)]
        while True:
            start = int(torch.randint(len(text) - 20 * tokens, (1,), generator=generator))
            start = text.find(". ", start) + 2
            ids = tokenizer(text[start : start + 12 * tokens])["input_ids"][:tokens]
            if start > 1 and len(ids) == tokens:
                yield ids
                break


def correlations(model: Any, ids: list[int], generator: torch.Generator) -> dict[str, dict[str, float]]:
    """Return, for every method and baseline, its correlations on one passage and the seconds that it took."""
    inputs = {"input_ids": torch.tensor([ids])}
    results = {r.method: r for r in explain(model, None, inputs, method=[*INTERVENTIONS, *FAST])}
    effects = {name: results[name].row() for name in INTERVENTIONS}
    scores = {name: (results[name].row(), METHODS[name].signed) for name in (*FAST, *INTERVENTIONS)}
    scores["recency"] = (torch.arange(1.0, len(ids) + 1), False)
    scores["random"] = (torch.rand(len(ids), generator=generator), False)
    found = {}
    for name, (score, signed) in scores.items():
        found[name] = {"seconds": results[name].diagnostics["seconds"]} if name in results else {}
        for kind, effect in effects.items():
            if name == kind:
                continue
            found[name][f"{kind} size"] = rank_correlation(score.abs(), effect.abs())
            if signed:
                found[name][f"{kind} signed"] = rank_correlation(score, effect)
    return found


def interval(values: torch.Tensor, generator: torch.Generator) -> tuple[float, float, float]:
    """Return the mean and the ends of its bootstrap 95 % interval."""
    picks = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    means = values[picks].mean(dim=1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype))
    return float(values.mean()), float(means[0]), float(means[1])


def mean(rows: list[dict[str, dict[str, float]]], method: str, column: str) -> float | None:
    """Return a method's mean correlation, or None where it has none."""
    values = [row[method][column] for row in rows if math.isfinite(row[method].get(column, math.nan))]
    return sum(values) / len(values) if values else None


def told(size: dict[str, float], signed: dict[str, float]) -> str:
    """Return what follows from the tables, best methods first."""
    lists = (", ".join(f"{m} {of[m]:.2f}" for m in sorted(of, key=lambda m: -of[m])) for of in (size, signed))
    return VERDICT.format(size=next(lists), signed=next(lists))


def table(rows: list[dict[str, dict[str, float]]]) -> str:
    """Return one model's table, best first by size over both interventions."""
    generator = torch.Generator().manual_seed(0)
    columns = [f"{kind} {how}" for how in ("size", "signed") for kind in INTERVENTIONS]
    cells: dict[str, dict[str, str]] = {}
    order: dict[str, float] = {}
    for name in rows[0]:
        cells[name] = {}
        for column in columns:
            values = torch.tensor([row[name].get(column, float("nan")) for row in rows], dtype=torch.float64)
            values = values[values.isfinite()]
            if len(values):
                mean, low, high = interval(values, generator)
                cells[name][column] = f"{mean:.2f} ({low:.2f}–{high:.2f})"
                if column.endswith("size"):
                    order.setdefault(name, 0.0)
                    order[name] += mean / len(INTERVENTIONS)
    lines = ["| method | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name in sorted(order, key=lambda name: -order[name] if name not in INTERVENTIONS else 1):
        lines.append(f"| {name} | " + " | ".join(cells[name].get(column, "–") for column in columns) + " |")
    return "\n".join(lines)


def measure(name: str, count: int, tokens: int, seed: int) -> list[dict[str, dict[str, float]]]:
    """Return the correlations of every passage for one model."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # models run side by side, and passages are short
    model, tokenizer = mambascope.load(name)
    generator = torch.Generator().manual_seed(seed)
    rows, started = [], time.perf_counter()
    for number, ids in enumerate(passages(tokenizer, count, tokens, seed), start=1):
        rows.append(correlations(model, ids, generator))
        if number % 20 == 0:
            print(f"{name}: {number} of {count} passages, {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny-mamba", "tiny-mamba2"])
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the page of the documentation here")
    parser.add_argument("--rows", type=Path, help="write every passage's figures to this .json file")
    parser.add_argument("--redraw", type=Path, help="make the page again from a file that --rows wrote")
    options = parser.parse_args()
    if options.passages < 2:
        raise InputError("intervals need at least two passages")
    transformers.logging.set_verbosity_error()
    tables = []
    overall: dict[str, dict[str, float]] = {"size": {}, "signed": {}}
    if options.redraw:
        kept = json.loads(options.redraw.read_text(encoding="utf-8"))
    else:
        with multiprocessing.get_context("spawn").Pool(len(options.models)) as pool:
            asked = [(name, options.passages, options.tokens, options.seed) for name in options.models]
            kept = dict(zip(options.models, pool.starmap(measure, asked), strict=True))
    for name, rows in kept.items():
        tables.append(f"## {name}\n\n{table(rows)}")
        for how, sums in overall.items():
            for method in FAST:
                means = [mean(rows, method, f"{kind} {how}") for kind in INTERVENTIONS]
                if None not in means:
                    sums[method] = sums.get(method, 0.0) + sum(means) / len(means) / len(kept)
    verdict = told(overall["size"], overall["signed"])
    command = f"python -m benchmarks.agreement --passages {options.passages} --tokens {options.tokens}"
    about = "\n".join((__doc__ or "").strip().split("\n\n")[i] for i in (0, 2))
    page = PAGE.format(command=command, about=about, tables="\n\n".join(tables), verdict=verdict)
    print(page)
    if options.out:
        write_whole(options.out, page)
    if options.rows:
        write_whole(options.rows, json.dumps(kept))


if __name__ == "__main__":
    main()
