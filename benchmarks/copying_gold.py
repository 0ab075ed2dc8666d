"""How copying's figures change if the gold source is taken one position further or nearer.

    python -m benchmarks.copying_gold [--strings 20]

LaTIM's table gives MambaLRP an AUC of .40 on Mamba-1, below chance; ours is near 1. A gold source that is off by one
from what a prediction draws from would explain that. Prints AUC / AP of three methods with the gold source moved by -1,
0 and +1.
"""

from __future__ import annotations

import argparse

import torch
import transformers

import mambascope
from mambascope import readouts
from mambascope.evaluate.metrics.ranking import average_precision, roc_auc
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.task import NO_LAYER
from mambascope.evaluate.tasks.copying import SEPARATOR, Copying

METHODS = ("hidden-attention", "latim", "mamba-lrp")
SHIFTS = (-1, 0, 1)


def judged(name: str, strings: int) -> dict[tuple[str, int], tuple[float, float]]:
    """Return the mean AUC and AP of every method and shift."""
    model, tokenizer = mambascope.load(name)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for sample in Copying(name="copying-dev", per_length=5, seed=1).samples(strings):
        text = sample.data["text"]
        n, ids = len(text), tokenizer.convert_tokens_to_ids(list(text + SEPARATOR + text))
        targets = list(range(n + 1, 2 * n - 1))  # both neighbours of every source are letters of the first string
        numbers = [readouts.token(target, ids[target + 1]) for target in targets]
        inputs = {"input_ids": torch.tensor([ids])}
        valid = (torch.arange(len(ids)) < n).expand(len(targets), -1)
        for scored in score_rows(model, inputs, METHODS, numbers):
            if scored.layer != NO_LAYER:
                continue
            for shift in SHIFTS:
                gold = torch.zeros(len(targets), len(ids), dtype=torch.bool)
                gold[torch.arange(len(targets)), torch.tensor(targets) - n + shift] = True
                sizes = scored.rows.abs()
                both = (float(metric(sizes, gold, valid).mean()) for metric in (roc_auc, average_precision))
                found.setdefault((scored.method, shift), []).append(tuple(both))
    return {key: tuple(torch.tensor(values).mean(dim=0).tolist()) for key, values in found.items()}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=20)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    for name in Copying().default_models:
        found = judged(name, options.strings)
        print(name)
        for method in METHODS:
            cells = (f"{shift:+d}: {found[method, shift][0]:.3f} / {found[method, shift][1]:.3f}" for shift in SHIFTS)
            print(f"  {method:18}", "   ".join(cells))


if __name__ == "__main__":
    main()
