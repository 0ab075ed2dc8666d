"""Time and memory of one target's explanation through all layers, as the text grows.

    python -m benchmarks.linear_cost [--family mamba] [--shortest 256] [--longest 16384] [--longest-alti 16384]
        [--longest-quadratic 16384] [--methods capture knockout …] [--out FILE.png]

A model of 4 layers and width 256 with random weights and a vocabulary of 1,024. Every length and method has a process
of its own, warmed up on a short text: seconds are the best of up to three runs, memory is how far the process grows in
the first. The methods start from a capture, whose own cost is the first line (without the self-check), and
which keeps the mixers' inputs alone (`keep="inputs"`), but for ALTI-Logit, which needs the stream. `--longest 131072`
goes beyond 100,000 tokens. Rollout is one reversed scan per layer; MambaLRP one differentiable forward and one backward
pass, of a long text piece by piece; the knockout removes three spans of 16 tokens, each as a whole. Mamba-Attribution
takes the positive part of a matrix and ALTI-Logit a vector's norm for every pair of tokens: by nature both are
quadratic in time. The exponent p of cost ~ L^p is fitted by least squares on logarithms, for the time that passes and
for the processor's, which other processes disturb less. `--methods` measures some of them.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import mambascope
from mambascope import readouts
from mambascope.bench.measuring import measured
from mambascope.bench.settings import FAMILIES, Shape
from mambascope.files import whole_file, write_whole
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.interventions import knockout
from mambascope.methods.latim import latim_row
from mambascope.methods.mamba_attribution import mamba_attribution
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.rollout import rollout_row

LAYERS, WIDTH, VOCABULARY = 4, 256, 1024
MARKS = {
    "capture": "k:s", "rollout": "C0-o", "latim": "C4-D", "mamba-lrp": "C1-^", "knockout": "C5-v",
    "mamba-attribution": "C2--v", "alti-logit": "C3--D",
}  # fmt: skip
#: The times that are fitted: the seconds that pass, and those of the processor.
TIMES = ("seconds", "processor")


def calls(model: Any, trace: Any, ids: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name."""
    last = ids.shape[1] - 1
    readout = readouts.token(last, 7)
    spans = [(place, place + 16) for place in (last // 16, last // 2, last - 24)]
    return {
        "rollout": lambda: rollout_row(trace, last),
        "latim": lambda: [latim_row(trace, layer, last) for layer in range(len(trace.layers))],
        "mamba-lrp": lambda: mamba_lrp(trace, readout),
        "knockout": lambda: knockout(trace, readout, spans=spans),
        "mamba-attribution": lambda: mamba_attribution(trace, readout),
        "alti-logit": lambda: alti_logit(trace, readout),
    }


def cost(family: str, length: int, name: str, threads: int) -> dict[str, Any]:
    """Return seconds and growth of memory of one method at one length."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = Shape(family, LAYERS, WIDTH, VOCABULARY).config()
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for tokens in (64, length):  # the first warms up
        ids = torch.randint(0, VOCABULARY, (1, tokens))
        keep = "all" if name == "alti-logit" else "inputs"
        call = partial(mambascope.capture, model, input_ids=ids, check=False, keep=keep)
        if name != "capture":
            call = calls(model, call(), ids)[name]
        runs = [taken(call)]
    while len(runs) < 3 and sum(seconds for seconds, _, _ in runs) < 10:
        runs.append(taken(call))
    seconds, processor, grown = zip(*runs, strict=True)
    best = {"seconds": min(seconds), "processor": min(processor), "mib": grown[0] / 2**20}
    return {"length": length, "method": name, **best}


def taken(call: Callable[[], Any]) -> tuple[float, float, int]:
    """Return a call's seconds, those of the processor, and how far the process grew."""
    before = time.process_time()
    _, seconds, grown = measured(call)
    return seconds, time.process_time() - before, grown


def exponent(lengths: list[int], costs: list[float]) -> float:
    """Return p of the best fit cost ~ L^p."""
    return float(np.polyfit(np.log(lengths), np.log(costs), 1)[0])


def draw(rows: list[dict[str, Any]], fits: dict[str, dict[str, float]], title: str, out: Path) -> None:
    """Write the figure: seconds and memory against length, both on logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(7.0, 3.6), layout="constrained")
    for panel, key, label in zip(panels, ("seconds", "mib"), ("seconds", "MiB beyond the model"), strict=True):
        for name in fits:
            points = [(row["length"], row[key]) for row in rows if row["method"] == name and row[key] > 0]
            panel.loglog(*zip(*points, strict=True), MARKS[name], ms=4, lw=1.2, label=f"{name} {fits[name][key]:.2f}")
        panel.set(xlabel="tokens L", ylabel=label)
        if key == "mib":
            panel.set_ylim(bottom=1)
        panel.xaxis.set_major_locator(plt.FixedLocator(sorted({row["length"] for row in rows})))
        panel.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        panel.xaxis.set_minor_locator(plt.NullLocator())
        panel.tick_params(axis="x", labelrotation=45, labelsize=7)
        panel.legend(
            fontsize=7, title="exponent of L", title_fontsize=7, frameon=False, loc="lower center",
            bbox_to_anchor=(0.5, 1.0), ncols=2,
        )  # fmt: skip
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    with whole_file(out) as partial:
        figure.savefig(partial, dpi=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="mamba")
    parser.add_argument("--shortest", type=int, default=256, help="tokens; every length is twice the one before")
    parser.add_argument("--longest", type=int, default=16384)
    parser.add_argument("--longest-alti", type=int, default=16384)
    parser.add_argument("--longest-quadratic", type=int, default=16384, help="of Mamba-Attribution")
    parser.add_argument("--methods", nargs="+", choices=MARKS, default=list(MARKS))
    parser.add_argument("--out", type=Path, help="also draw the figure")
    parser.add_argument("--rows", type=Path, help="write the figures to this .json file")
    parser.add_argument("--redraw", type=Path, help="draw again from a file that --rows wrote")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.redraw.read_text("utf-8")) if options.redraw else []
    doublings = int(math.log2(options.longest / options.shortest))
    lengths = [options.shortest * 2**k for k in range(doublings + 1)]
    for length in lengths if not options.redraw else ():
        for name in options.methods:
            most = {"alti-logit": options.longest_alti, "mamba-attribution": options.longest_quadratic}
            if length > most.get(name, length):
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(cost, (options.family, length, name, torch.get_num_threads())))
            print(json.dumps(rows[-1]), flush=True)
    fits = {}
    print("\n| method | exponent of time | of the processor's | exponent of memory | seconds at the longest |")
    print("| --- | --- | --- | --- | --- |")
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        grown, grows = [row for row in own if row["mib"] > 1], own[-1]["mib"] > 1
        fits[name] = {
            **{key: exponent([row["length"] for row in own], [row[key] for row in own]) for key in TIMES},
            "mib": exponent([r["length"] for r in grown], [r["mib"] for r in grown]) if grown[1:] and grows else 0.0,
        }
        times = " | ".join(f"{fits[name][key]:.2f}" for key in TIMES)
        print(f"| {name} | {times} | {fits[name]['mib']:.2f} | {own[-1]['seconds']:.2f} |")
    if options.rows:
        write_whole(options.rows, json.dumps(rows))
    if options.out:
        draw(rows, fits, f"{options.family}, {LAYERS} layers, width {WIDTH}: one target, all sources", options.out)


if __name__ == "__main__":
    main()
