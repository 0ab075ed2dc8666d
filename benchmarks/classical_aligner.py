"""The baseline for word alignment: a classical aligner trained on the text that the translation models were trained on.

    python -m benchmarks.classical_aligner [--pair de-en] [--limit N]

eflomal (Östling & Tiedemann 2016; `pip install eflomal`) aligns the models' training pairs (English-French: Tatoeba and
novels; German-English: Tatoeba) together with the test pairs of the task `alignment` or `alignment-de-en`, which it
sees unaligned, as aligners do. It reports the AER of its two directions and their symmetrisations against human links,
on the test pairs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import eflomal
import torch

from mambascope.evaluate.metrics.alignment_error_rate import AlignmentCounts, alignment_counts, link_matrix
from mambascope.evaluate.metrics.link_extraction import grow_diag_final_and
from mambascope.evaluate.tasks import find_task
from training.language.corpus import data_folder
from training.translation.language_pairs import PAIRS

#: The task whose human links judge each pair of languages.
TASKS = {"en-fr": "alignment", "de-en": "alignment-de-en"}


def links(path: Path, pairs: int) -> list[list[tuple[int, int]]]:
    """Return the last lines of links, as many as asked for, as (target, source)."""
    lines = path.read_text(encoding="utf-8").splitlines()[-pairs:]
    return [[(int(b), int(a)) for a, b in (link.split("-") for link in line.split())] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=TASKS, default="en-fr", help="languages (default: en-fr)")
    parser.add_argument("--limit", type=int, help="use only this many training pairs")
    options = parser.parse_args()
    data = data_folder()
    os.environ.setdefault("MAMBASCOPE_DATA", str(data))
    started = time.perf_counter()
    languages = PAIRS[options.pair]
    training = languages.written(languages.split(data).training)[: options.limit]
    gold = find_task(TASKS[options.pair]).samples(None)
    sources = [pair.source for pair in training] + [" ".join(sample.data["source"]) for sample in gold]
    targets = [pair.target for pair in training] + [" ".join(sample.data["target"]) for sample in gold]
    with tempfile.TemporaryDirectory() as folder:
        forward, backward = Path(folder, "forward"), Path(folder, "backward")
        eflomal.Aligner().align(
            [text + "\n" for text in sources],
            [text + "\n" for text in targets],
            links_filename_fwd=str(forward),
            links_filename_rev=str(backward),
        )
        ways = {"forward": links(forward, len(gold)), "backward": links(backward, len(gold))}
    totals: dict[str, AlignmentCounts] = {}
    for number, sample in enumerate(gold):
        shape = len(sample.data["target"]), len(sample.data["source"])
        sure, possible = (link_matrix(map(tuple, sample.data[kind]), *shape) for kind in ("sure", "possible"))
        one, other = (link_matrix(ways[way][number], *shape) for way in ("forward", "backward"))
        found = {"forward": one, "backward": other, "intersection": one & other, "union": one | other,
                 "grow-diag-final-and": grow_diag_final_and(one, other)}  # fmt: skip
        for name, matrix in found.items():
            totals[name] = totals.get(name, AlignmentCounts()) + alignment_counts(matrix, sure, possible)
    print(
        f"eflomal, {len(training):,} training pairs and {len(gold)} test pairs, {time.perf_counter() - started:.0f} s\n"
    )
    print("| links | AER | precision | recall |\n| --- | ---: | ---: | ---: |")
    for name, counts in totals.items():
        print(f"| {name} | {counts.error_rate:.3f} | {counts.precision:.3f} | {counts.recall:.3f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
