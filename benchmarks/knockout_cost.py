"""Time and memory of a knockout of one target, all sources: one position alone, or the whole text for every source.

    python -m benchmarks.knockout_cost [--lengths 50 100 200] [--vocabulary 50280] [--skip-whole]

A Mamba of the 130M size (24 layers, width 768) with random weights, and the bundled `tiny-mamba`, on random tokens; the
target is the last token, in all layers. Each figure is one run after a short one. Seconds are those of the processor,
which other processes do not lengthen; `OMP_NUM_THREADS=1` makes them those of one thread. Memory is how far the process
grows beyond the model and its capture. A forward pass is that of the model with our scan in place of its slow one, the
best of three. Both forms are compared: the largest difference of a score, over the largest score.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import transformers

import mambascope
from mambascope import readouts
from mambascope.bench.measuring import measured
from mambascope.bench.settings import build, shape_of
from mambascope.methods import interventions, knockout
from mambascope.trace.intervene import intervening
from mambascope.trace.running import running


def taken(call: Callable[[], Any]) -> tuple[Any, float, int]:
    """Return a call's result, its seconds of the processor, and the growth of the process's memory while it ran."""
    before = time.process_time()
    result, _, grown = measured(call)
    return result, time.process_time() - before, grown


def cost(model: Any, length: int, whole: bool) -> dict[str, float]:
    """Return seconds, growth of memory in MiB and the difference of the two forms, for a text of random tokens."""
    vocabulary = model.config.vocab_size
    ids = torch.randint(1, vocabulary, (1, length), generator=torch.Generator().manual_seed(length))
    readout = readouts.token(length - 1, 7 % vocabulary)
    trace = mambascope.capture(model, input_ids=ids, check=False)
    with running(model) as own, intervening(own, None):
        one = min(taken(lambda: own(input_ids=ids, use_cache=False))[1] for _ in range(3))
    alone, seconds, grown = taken(lambda: knockout(trace, readout))
    assert alone.alone is not None, "the position does not run alone"
    found = {"pass": one, "alone": seconds, "alone MiB": grown / 2**20, "apart": float("nan")}
    if whole:
        gc.collect()
        with mock.patch.object(interventions, "single_position", return_value=None):
            slow, seconds, grown = taken(lambda: knockout(trace, readout))
        apart = float((alone.scores - slow.scores).abs().max() / slow.scores.abs().max())
        found |= {"whole": seconds, "whole MiB": grown / 2**20, "apart": apart}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--vocabulary", type=int, default=50280)
    parser.add_argument("--skip-whole", action="store_true", help="measure one position alone only")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    shape = replace(shape_of("mamba", "130m"), vocabulary=options.vocabulary)
    models = {"tiny-mamba": mambascope.load("tiny-mamba")[0], "130M": build(shape, "cpu")}
    print("| model | tokens | a pass | alone | in passes | MiB | whole texts | in passes | MiB | times | apart |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, model in models.items():
        cost(model, 8, not options.skip_whole)  # warms up
        for length in options.lengths:
            found = cost(model, length, not options.skip_whole)
            slow = found.get("whole", float("nan"))
            print(
                f"| {name} | {length} | {found['pass']:.2f} s | {found['alone']:.2f} s | "
                f"{found['alone'] / found['pass']:.1f} | {found['alone MiB']:.0f} | {slow:.1f} s | "
                f"{slow / found['pass']:.0f} | {found.get('whole MiB', float('nan')):.0f} | "
                f"{slow / found['alone']:.0f} | {found['apart']:.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
