"""Does the number explained lose what scores predict? Top sources are removed, on 100 passages and every bundled model.

    python -m benchmarks.removals [--passages 100] [--tokens 64] [--page docs/removals.md] [--out docs/removals.png]

Each passage is cut from a held-out novel. The number explained is the logit of the token that the model finds likeliest
after it. The 8 top sources of each method are removed, one at a time, as `explain(verify=8)` does: *cut*, so that the
mixers pass nothing from them to the last position, and *zeroed*, with an embedding of zero. The table gives the mean
over passages of Spearman's rank correlation of scores and drops over those sources, with a bootstrap 95 % interval; for
methods with a sign, how many drops have the sign that the score predicts; and for methods whose scores add up to the
number, the slope of the drops against the scores (1 if each source did what its score says).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import transformers

import mambascope
from benchmarks.agreement import interval, passages
from mambascope.files import write_whole
from mambascope.methods.registry import METHODS

MODELS = ("tiny-mamba", "tiny-mamba2", "tiny-hybrid", "tiny-delta-hybrid")
METHODS_SHOWN = ("mamba-lrp", "alti-logit", "gradient-x-input", "latim")
DRAWN = "mamba-lrp"
#: Methods whose scores add up to the number explained.
ADD_UP = ("mamba-lrp", "alti-logit")
REMOVALS = {"knockout": "cut", "occlusion": "zeroed"}
REMOVED = 8

PAGE = """# What scores predict, and what is lost

Made by `{command}`; do not edit.

{about}

![Scores of mamba-lrp against what is lost without each source](removals.png)

{tables}

All methods are judged on the same sources: the top ones of each of them. A cut source still stands in the text for all
other positions, and what the last position has of its own in the residual stream is not cut. A zeroed source is gone
for every position. The page of one explanation shows the same numbers for its own sources.
"""


def removals(name: str, count: int, tokens: int) -> list[dict[str, Any]]:
    """Return what was measured for every passage, by method: the entries of `diagnostics["verified"]`."""
    model, tokenizer = mambascope.load(name)
    found = []
    for ids in passages(tokenizer, count, tokens, 0):
        inputs = {"input_ids": torch.tensor([ids])}
        results = mambascope.explain(model, None, inputs, method=list(METHODS_SHOWN), verify=REMOVED)
        found.append({one.method: one.diagnostics["verified"][0] for one in results})
    return found


def line(found: list[dict[str, Any]], method: str) -> str:
    """Return one method's line of a model's table."""
    cells, draw = [method], torch.Generator().manual_seed(0)
    for removal in REMOVALS:
        entries = [one[method] for one in found]
        values = [one["rank_correlation"][removal] for one in entries]
        known = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
        mean, low, high = interval(known, draw)
        cells.append(f"{mean:.2f} ({low:.2f}–{high:.2f})")
        scores, drops = (torch.tensor([v for one in entries for v in one[key]]).double() for key in ("scores", removal))
        signed = METHODS[method].signed
        cells.append(f"{100 * float((scores.sign() == drops.sign()).double().mean()):.0f} %" if signed else "–")
        cells.append(f"{float(scores @ drops / (scores @ scores)):.2f}" if method in ADD_UP else "–")
    return "| " + " | ".join(cells) + " |"


def table(name: str, found: list[dict[str, Any]]) -> str:
    """Return a model's table."""
    heads = [f"{how}: {what}" for how in REMOVALS.values() for what in ("rank correlation", "right sign", "slope")]
    lines = ["| method | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    return "\n".join([f"## {name}", "", *lines, *(line(found, method) for method in METHODS_SHOWN)])


def draw(every: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the scores of one method against what was lost, a column for each model."""
    figure, axes = plt.subplots(2, len(every), figsize=(3 * len(every), 6), squeeze=False, layout="constrained")
    for (row, (removal, says)), (column, (name, found)) in itertools.product(
        enumerate(REMOVALS.items()), enumerate(every.items())
    ):
        pane = axes[row][column]
        scores, drops = ([v for one in found for v in one[DRAWN][key]] for key in ("scores", removal))
        pane.scatter(scores, drops, s=6, alpha=0.4, linewidths=0)
        ends = min(0.0, *scores), max(0.0, *scores)
        pane.plot(ends, ends, color="black", linewidth=0.8)
        pane.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        pane.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        pane.set_title(name if row == 0 else "")
        pane.set_xlabel(f"score ({DRAWN})" if row else "")
        pane.set_ylabel(f"lost when {says}" if column == 0 else "")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--passages", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--page", type=Path, help="write the page of the documentation here")
    parser.add_argument("--out", type=Path, help="write the figure here")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    every = {name: removals(name, options.passages, options.tokens) for name in options.models}
    tables = "\n\n".join(table(name, found) for name, found in every.items())
    command = f"python -m benchmarks.removals --passages {options.passages} --tokens {options.tokens}"
    about = "\n".join((__doc__ or "").strip().split("\n\n")[i] for i in (0, 2))
    page = PAGE.format(command=command, about=about, tables=tables)
    print(page)
    if options.page:
        write_whole(options.page, page)
    if options.out:
        draw(every, options.out)


if __name__ == "__main__":
    main()
