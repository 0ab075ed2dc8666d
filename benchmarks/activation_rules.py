"""Is exactness worth it? LaTIM's activation rules side by side: what each leaves unexplained, and what it finds.

    python -m benchmarks.activation_rules [--out runs/rules] [--limit N] [--page docs/activation_rules.md]

`latim` uses the secant, which leaves nothing; `latim-silu` is the paper's rule; `latim-identity` omits the SiLU. For
every model: the residual ‖y - ΣT - β‖ / ‖y‖ on random tokens, averaged over layers, and the tasks with known sources,
for the mean over layers and for each rule's best layer (chosen on the same samples, in the same way for all three).
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
from pathlib import Path

import pandas
import torch
import transformers

import mambascope
from benchmarks.evaluation import folder_of, judge, present
from mambascope.evaluate.by_layer import at_layers, best_layers
from mambascope.evaluate.report import markdown_table
from mambascope.evaluate.results import read_run
from mambascope.evaluate.summary import long_table, summarise
from mambascope.files import write_whole

RULES = {"latim": "secant", "latim-silu": "silu", "latim-identity": "identity"}
TASKS = (
    ("induction", "average_precision"),
    ("copying-dev", "average_precision"),
    ("alignment-dev", "aer:predicts-target"),
)


PAGE = """# Is exactness worth it?

Made by `python -m benchmarks.activation_rules`; do not edit.

{about}

{parts}
"""


def residuals(name: str) -> dict[str, float]:
    """Return what each rule leaves unexplained of the layers' outputs, on random tokens of the model's vocabulary."""
    model, _ = mambascope.load(name)
    ids = torch.randint(2, model.config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    trace = mambascope.capture(model, input_ids=ids)
    layers = range(len(trace.layers))
    return {m: sum(trace.operator(k).residual(rule) for k in layers) / len(layers) for m, rule in RULES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rules"))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--overwrite", action="store_true", help="replace stored runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", type=Path, help="write the page of the documentation here")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    options.out.mkdir(parents=True, exist_ok=True)
    work = [(task, name, ",".join(RULES), None) for task, _ in TASKS for name in present(task)]
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
        done = pool.map(functools.partial(judge, options.out, options.limit, options.overwrite), work, chunksize=1)
    print(*(line for _, line in done), sep="\n", flush=True)
    if not all(well for well, _ in done):
        raise SystemExit("some runs failed, so no page is written; what was stored is kept")
    parts = [part(options.out, task, metric) for task, metric in TASKS]
    page = PAGE.format(about=(__doc__ or "").strip().split("\n\n")[2], parts="\n\n".join(parts))
    print(page)
    if options.page:
        write_whole(options.page, page)


def part(out: Path, task: str, metric: str) -> str:
    """Return the results of one task on its models."""
    tables, told = [], []
    for name in present(task):
        tables.append(long_table(read_run(folder_of(out, task, name)).table).assign(model=name))
        told.append(f"{name}: " + ", ".join(f"{method} {value:.2g}" for method, value in residuals(name).items()))
    table = pandas.concat(tables, ignore_index=True)
    both = pandas.concat([table, at_layers(table, best_layers(table, metric))], ignore_index=True)
    (summary,) = summarise(both, metrics=[metric])
    return f"## {task}\n\n{markdown_table(summary)}\n\nResiduals. {'; '.join(told)}."


if __name__ == "__main__":
    main()
