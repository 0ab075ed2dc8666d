"""What a sketch saves of LaTIM's ℓ2 map, and what of the map it keeps.

    python -m benchmarks.sketched_latim [--families mamba mamba2] [--size 130m] [--lengths 512 1024]
        [--models tiny-mamba tiny-mamba2] [--sketches 32 64 128] [--repeats 3]

One layer of a Mamba and a Mamba-2 of a published size with random weights, on random tokens; and all layers of models
that are trained, the bundled ones unless others are named, on as many tokens as the shortest length. Both ways take
turns; each figure is the median of their seconds of the processor, which other processes do not lengthen, in all layers
that are measured. `OMP_NUM_THREADS=1` makes them those of one thread. *Exact* is how many pairs of a target were
multiplied out, *missed* how many of the 8 true top sources of all targets were not, *error* the root mean square of the
estimates' relative error beside what is said of it, among values whose squares float32 can hold.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers

import mambascope
from mambascope.bench.settings import FAMILIES, SIZES, build, shape_of
from mambascope.methods import latim, sketched_latim
from mambascope.trace import Trace

TOP = 8
#: The text of trained models, repeated.
TEXT = "Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. Every day Mr. Bolton went to town. "
#: The least number whose square is a normal number of float32.
LEAST = 1.1e-19


def taken(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return a call's result and its seconds of the processor."""
    before = time.process_time()
    return call(), time.process_time() - before


def row(name: str, trace: Trace, sketch: int, repeats: int) -> str:
    """Return a row of the table."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):  # the first warms up
        whole, slow = taken(lambda: latim(trace))
        found, fast = taken(lambda: sketched_latim(trace, sketch=sketch, exact=TOP))
        if turn:
            seconds[0].append(slow)
            seconds[1].append(fast)
    values, places = whole.topk(TOP)
    missed = int((~found.exact.gather(-1, places) & (values > 0)).sum())
    estimated = ~found.exact & (whole > LEAST)
    error = float((found.maps[estimated] / whole[estimated] - 1).square().mean().sqrt())
    exact = float((found.exact & (whole > 0)).sum()) / values[..., 0].numel()
    slow, fast = (statistics.median(one) for one in seconds)
    return (
        f"| {name} | {trace.shape[1]:,} | {sketch} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.1f} | {exact:.0f} | "
        f"{missed} | {error:.3f} ({found.error:.3f}) |"
    )


def traces(families: list[str], size: str, lengths: list[int], models: list[str]) -> Iterator[tuple[str, Trace]]:
    """Yield the captures to measure, with their names."""
    for length in lengths:
        for family in families:
            shape = shape_of(family, size, layers=1)
            ids = torch.randint(1, shape.vocabulary, (1, length), generator=torch.Generator().manual_seed(length))
            yield f"{family}, {shape.width} wide", mambascope.capture(build(shape, "cpu"), input_ids=ids, check=False)
    for name in models:
        model, tokenizer = mambascope.load(name)
        ids = tokenizer(TEXT * 100, return_tensors="pt").input_ids[:, : min(lengths)]
        yield f"{name}, {model.config.hidden_size} wide", mambascope.capture(model, input_ids=ids, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--size", choices=SIZES, default="130m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--models", nargs="*", default=["tiny-mamba", "tiny-mamba2"])
    parser.add_argument("--sketches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    print("| layer | tokens | k | latim | sketched | times | exact | missed | error (said) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, trace in traces(options.families, options.size, options.lengths, options.models):
        for sketch in options.sketches:
            print(row(name, trace, sketch, options.repeats), flush=True)


if __name__ == "__main__":
    main()
