"""Time and memory of every method against the length of the text, with fitted exponents, as a page and one plot.

    OMP_NUM_THREADS=1 python -m benchmarks.method_growth [--family mamba] [--seconds 4] [--longest 65536]
        [--page FILE.md] [--out FILE.png] [NAME …]

A model of 4 layers and width 256 with random weights and a vocabulary of 1,024; one target, the last token: all layers
of methods that score layers, one logit of the others. Each method starts at 256 tokens, and the text doubles until a
run takes more than `--seconds`. Every length has a process of its own, which has captured the text (the first line
is the capture itself, with its self-check) and explained a short one; seconds are those of one run, memory is how far
the process grows in it. The exponent p of cost ~ L^p is fitted by least squares on logarithms, to the last four
lengths: of shorter texts most of the time is Python's. Variants of other methods are left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import mambascope
from mambascope import readouts
from mambascope.bench.measuring import measured
from mambascope.bench.run import processor
from mambascope.bench.settings import FAMILIES, Shape, build
from mambascope.errors import MambascopeError
from mambascope.files import whole_file, write_whole
from mambascope.methods.registry import METHODS

LAYERS, WIDTH, VOCABULARY = 4, 256, 1024
SHORTEST, WARM, FITTED = 256, 64, 4
CAPTURE = "capture"


@dataclass(frozen=True)
class Cost:
    """What one run of a method costs.

    Attributes:
        length: Tokens.
        seconds: Its time.
        mib: How far the process grew.
    """

    length: int
    seconds: float
    mib: float


def calls(family: str, name: str, length: int) -> Callable[[], Any]:
    """Return one explanation of a random text by a method, or its capture."""
    model = build(Shape(family, LAYERS, WIDTH, VOCABULARY), "cpu")
    ids = torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0))
    if name == CAPTURE:
        return lambda: mambascope.capture(model, input_ids=ids)
    method, last = METHODS[name], length - 1
    trace = mambascope.capture(model, input_ids=ids, check=False)
    if method.score is not None:
        score = method.score
        return lambda: score(trace, readouts.token(last, 7), "published")
    row, whole = method.row, method.map
    assert whole is not None
    layers = range(len(trace.layers))
    return lambda: [whole(trace, n)[:, last] if row is None else row(trace, n, last) for n in layers]


def cost(family: str, name: str, length: int, threads: int) -> Cost:
    """Return the cost of one method at one length, in this process."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    calls(family, name, WARM)()
    _, seconds, grown = measured(calls(family, name, length))
    return Cost(length, seconds, grown / 2**20)


def grown(family: str, name: str, seconds: float, longest: int) -> list[Cost]:
    """Return the costs of a method from the shortest text on, until a run takes too long."""
    found, length = [], SHORTEST
    while length <= longest and (not found or found[-1].seconds <= seconds):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found.append(pool.apply(cost, (family, name, length, torch.get_num_threads())))
        length *= 2
    return found


def exponent(costs: Sequence[Cost], what: str) -> float:
    """Return p of the best fit cost ~ L^p to the longest texts; NaN if it does not grow measurably."""
    least = 1.0 if what == "mib" else 0.0
    last = [one for one in costs[-FITTED:] if getattr(one, what) > least]
    if len(last) < 2:
        return float("nan")
    lengths, values = [one.length for one in last], [getattr(one, what) for one in last]
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def line(name: str, costs: Sequence[Cost]) -> tuple[str, ...]:
    """Return the cells of one method."""
    last = costs[-1]
    exponents = (exponent(costs, what) for what in ("seconds", "mib"))
    told = ("–" if one != one else f"{one:z.2f}" for one in exponents)
    return (name, *told, f"{last.length:,}", f"{last.seconds:.2g}", f"{last.mib:,.0f}")


PAGE = """# Growth with the text

Made by `{command}`; do not edit. Measured on {processor}, {threads} thread(s), torch {torch}.

One target of a text of random tokens, from its capture: all layers of methods that score layers, one logit of the
others, in a model of 4 layers and width 256 with random weights ({family}). The text doubled from 256 tokens until one
run took more than {seconds:g} s. The exponents p of cost ~ L^p are fitted to the last four lengths; memory is how far a
fresh process grows after its capture, whose freed memory is used again, and has no exponent where that is less than a
mebibyte. Longer texts: [Cost](cost.md).

![Seconds and memory of every method against the length of the text](method_growth.png)

| method | exponent of time | of memory | tokens at most | seconds there | MiB there |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}
"""


def draw(costs: dict[str, list[Cost]], title: str, out: Path) -> None:
    """Write the figure: seconds and memory against length, both on logarithmic axes."""
    import matplotlib.pyplot as plt

    colours, styles = plt.get_cmap("tab10").colors, ("-", "--", ":")  # type: ignore[attr-defined]
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 5.2), layout="constrained")
    for number, (name, found) in enumerate(costs.items()):
        for panel, what in zip(panels, ("seconds", "mib"), strict=True):
            points = [(one.length, getattr(one, what)) for one in found if getattr(one, what) > 0]
            if points:
                style = {"color": colours[number % 10], "ls": styles[number // 10 % 3], "marker": "o", "ms": 2.5}
                panel.loglog(*zip(*points, strict=True), lw=1.2, label=name, **style)
    for panel, label in zip(panels, ("seconds", "MiB beyond the capture"), strict=True):
        panel.set(xlabel="tokens L", ylabel=label)
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].set_ylim(bottom=1)
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, fontsize=7, frameon=False, loc="outside right center")
    figure.suptitle(title, fontsize=9)
    with whole_file(out) as partial:
        figure.savefig(partial, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods (default: all that read the model)")
    parser.add_argument("--family", choices=FAMILIES, default="mamba")
    parser.add_argument("--seconds", type=float, default=4.0, help="no longer text after a run that took longer")
    parser.add_argument("--longest", type=int, default=65536, help="tokens at most")
    parser.add_argument("--page", type=Path, help="write the table to this .md file")
    parser.add_argument("--out", type=Path, help="draw the figure")
    given = parser.parse_args()
    own = [one.name for one in METHODS.values() if one.offered and one.reads({"scan"})]
    if unknown := [name for name in given.names if name not in (*METHODS, CAPTURE)]:
        parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join((CAPTURE, *own))}")
    costs = {}
    for name in given.names or (CAPTURE, *own):
        try:
            costs[name] = grown(given.family, name, given.seconds, given.longest)
        except MambascopeError as refused:
            print(f"{name}: {refused}", flush=True)
            continue
        print("  ".join(line(name, costs[name])), flush=True)
    if given.page is not None:
        rows = "\n".join("| " + " | ".join(line(name, found)) + " |" for name, found in costs.items())
        threads = torch.get_num_threads()
        command = f"OMP_NUM_THREADS={threads} python -m benchmarks.method_growth --family {given.family}"
        page = PAGE.format(
            command=command, processor=processor(), threads=threads, torch=torch.__version__.partition("+")[0],
            family=given.family, seconds=given.seconds, rows=rows,
        )  # fmt: skip
        write_whole(given.page, page)
    if given.out is not None:
        draw(costs, f"{given.family}, {LAYERS} layers, width {WIDTH}: one target, all sources", given.out)


if __name__ == "__main__":
    main()
