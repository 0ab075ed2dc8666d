"""Draw training curves: `python -m training.running.plot training/curves/*.csv --out training/curves.svg`."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

#: Line styles that stay apart in grey.
STYLES = ("-", "--", ":", "-.")


def draw(tables: list[Path], levels: dict[str, float]) -> Figure:
    """Return bits per byte against tokens seen, one line per table, with a level line per baseline."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for table, style in zip(tables, STYLES, strict=False):
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        tokens = [int(row["tokens"]) / 1e6 for row in rows]
        axes.plot(tokens, [float(row["bits_per_byte"]) for row in rows], style, linewidth=1.2, label=table.stem)
    for name, level in levels.items():
        axes.axhline(level, color="0.6", linewidth=0.8)
        axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="tokens seen (millions)", ylabel="bits per byte, training text", ylim=(None, 2.6))
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--level", action="append", default=[], metavar="NAME=BITS", help="a baseline to draw")
    parser.add_argument("--out", type=Path, default=Path("training/curves.svg"))
    options = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "mambascope"
    levels = {name: float(bits) for name, bits in (level.split("=") for level in options.level)}
    draw(options.tables, levels).savefig(options.out, metadata={"Date": None} if options.out.suffix == ".svg" else {})


if __name__ == "__main__":
    main()
