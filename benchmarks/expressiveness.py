"""What one channel and one head can express: the channel that counts in row, the certificate, how many matrices.

    python -m benchmarks.expressiveness [--out FOLDER]

It counts all strings up to length 12 and long ones up to length 4,096 with the channel whose weights are written down,
and says how many counts are wrong; finds, for heads without softmax, numbers that count at lengths 1 and 2 and the
certificate that there are none at length 3, without positions and with them; and prints the table of matrices per layer
as Markdown. With `--out` the systems are written to files that any solver reads, one equation a line.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
import transformers

from mambascope.theory.certificate import Certificate, equations, solve, write_system
from mambascope.theory.count_in_row import exact_channel, one_number_channel, rounding, run_lengths
from mambascope.theory.matrices import comparisons

SHORT, LONG = 12, 4096


def counted() -> None:
    """Print how many counts of the channels are wrong."""
    short = [torch.tensor(list(itertools.product((0, 1), repeat=n))) for n in range(1, SHORT + 1)]
    shares = torch.tensor([0.05, 0.5, 0.9, 0.99, 0.999, 1.0])[:, None]
    long = (torch.rand(len(shares), LONG, generator=torch.Generator().manual_seed(0)) < shares).long()
    total = sum(bits.numel() for bits in (*short, long))
    for dtype in (torch.float32, torch.float64):
        wrong = sum(int((exact_channel(dtype).count(bits) != run_lengths(bits)).sum()) for bits in (*short, long))
        off = max(
            float((one_number_channel(dtype).count(bits) - run_lengths(bits)).abs().max()) for bits in (*short, long)
        )
        print(f"{dtype}: {wrong} of {total:,} counts wrong; from one number a token, off by at most {off:.1e} "
              f"(bound at {LONG:,}: {rounding(LONG, dtype):.1e})")  # fmt: skip


def certified(out: Path | None) -> None:
    """Print solutions and certificates, and write their systems."""
    for positions in (False, True):
        name = "with positions" if positions else "tokens alone"
        for length in (1, 2, 3):
            system = equations(length, positions=positions)
            found = solve(system)
            verdict = "no solution" if isinstance(found, Certificate) else "solution"
            print(f"\n{name}, length {length}: {len(system)} equations, {verdict}\n{found}")
            if out is not None:
                print("written", write_system(system, out / f"{name.replace(' ', '_')}_{length}.txt"))


def matrices_table() -> str:
    """Return the table of matrices per layer, as Markdown."""
    lines = ["| model | sizes | width | matrices per layer | beside | times as many |", "| --- " * 6 + "|"]
    for one in comparisons():
        each = ", ".join(f"{mixers.matrices} ({mixers.mixers} × {mixers.kind})" for mixers in one.mixers)
        beside = "" if one.beside is None else f"{one.beside[0]}: {one.beside[1]}"
        times = ", ".join(f"{times:g}" for times in one.times)
        lines.append(f"| {one.name} | {one.sizes or 'the default'} | {one.width} | {each} | {beside} | {times} |")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a folder for the systems")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    counted()
    certified(options.out)
    print(f"\n{matrices_table()}")


if __name__ == "__main__":
    main()
