"""Do the scores show induction? Random tokens, then the same again: each token should draw on what followed it before.

    python -m benchmarks.induction [--models tiny-mamba tiny-mamba2] [--span 32] [--rows 20] [--methods latim ...]

In a row of `span` random tokens written twice, the token at position i of the second half also stands at i - span, and
the model must find the token after that, at i - span + 1. For every layer the table gives how often that source
scores highest among the whole first half (chance is 1/span), its mean rank, and its share of the first half's scores.
No text and no data set is needed.
"""

from __future__ import annotations

import argparse

import torch
import transformers

import mambascope
from mambascope.methods.registry import METHODS


def repeated_rows(vocabulary: int, span: int, rows: int, seed: int) -> torch.Tensor:
    """Return (rows, 2·span) token ids: each row a random sequence without repetition, twice."""
    generator = torch.Generator().manual_seed(seed)
    once = torch.stack([300 + torch.randperm(vocabulary - 300, generator=generator)[:span] for _ in range(rows)])
    return torch.cat([once, once], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny-mamba", "tiny-mamba2"])
    per_layer = [name for name, method in METHODS.items() if method.map]
    parser.add_argument("--methods", nargs="+", choices=per_layer, default=["latim", "hidden-attention"])
    parser.add_argument("--span", type=int, default=32)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    span = options.span
    for name in options.models:
        model, _ = mambascope.load(name)
        ids = repeated_rows(model.config.vocab_size, span, options.rows, options.seed)
        trace = mambascope.capture(model, input_ids=ids)
        predicted = trace.logits[:, :-1].argmax(dim=-1) == ids[:, 1:]
        second = predicted[:, span - 1 + span // 2 :]
        print(
            f"\n{name}: {float(second.float().mean()):.1%} of the second half of the repetition is predicted right "
            f"(first occurrence {float(predicted[:, : span - 1].float().mean()):.1%}); "
            f"worst reconstruction error {max(trace.reconstruction_error):.1e}\n"
        )
        print("| method | layer | highest of the first half | mean rank | share of the first half |")
        print("| --- | --- | --- | --- | --- |")
        for method in options.methods:
            for layer in range(len(trace.layers)):
                # targets of the second half but the last, whose continuation lies beyond the first half
                scores = METHODS[method].map(trace, layer)[:, span : 2 * span - 1, :span].abs()
                after = torch.arange(1, span).expand(len(scores), -1)[..., None]
                found = scores.gather(2, after)
                rank = 1 + (scores > found).sum(dim=-1).float()
                share = (found[..., 0] / scores.sum(dim=-1)).mean()
                print(f"| {method} | {layer} | {(rank == 1).float().mean():.0%} | {rank.mean():.1f} | {share:.1%} |")


if __name__ == "__main__":
    main()
