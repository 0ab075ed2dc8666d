"""Measure a folder on the held-out novels: `python -m training.language.evaluate src/mambascope/weights/tiny-mamba`.

Bits per byte are of windows of `--context` tokens that advance by `--stride`; only the tokens that the window before
did not score are scored, so that all but the first window's have at least context - stride tokens before them. Float32
throughout.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from mambascope.files import write_whole
from training.language.induction import gain_with_forgetful_layer, measure
from training.language.tokens import TokenData, load_split, prepare
from training.running.loss import bits_per_byte, token_losses
from training.running.scans import fast_scans


def windows(count: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, first scored token) until every token but the first is scored once."""
    scored, start = 1, 0
    while scored < count:
        end = min(start + context, count)
        yield start, end, scored
        scored, start = end, min(start + stride, end - 1)


@torch.no_grad()
def validation_losses(
    model: PreTrainedModel, tokens: NDArray[np.uint16], context: int, stride: int, batch: int = 8
) -> torch.Tensor:
    """Return the loss in nats of every token but the first."""
    places = list(windows(len(tokens), context, stride))
    losses = torch.empty(len(tokens) - 1)
    for begin in range(0, len(places), batch):
        group = places[begin : begin + batch]
        rows = torch.zeros(len(group), context, dtype=torch.int64)
        for row, (start, end, _) in zip(rows, group, strict=True):
            row[: end - start] = torch.from_numpy(tokens[start:end].astype(np.int64))
        for row, (start, end, first) in zip(token_losses(model, rows), group, strict=True):
            losses[first - 1 : end - 1] = row[first - 1 - start : end - 1 - start]
    return losses


def evaluate(folder: Path, held_out: TokenData, context: int, stride: int) -> dict[str, object]:
    """Return the figures of one model folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with fast_scans():
        nats = validation_losses(model, held_out.tokens, context, stride)
        induction = measure(model, held_out.tokens)
        gains = gain_with_forgetful_layer(model, held_out.tokens)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bits_per_byte": bits_per_byte(float(nats.mean()), held_out.bytes_per_token),
        "nats_per_token": float(nats.mean()),
        "context": context,
        "stride": stride,
        "induction": asdict(induction),
        "repetition_saves": {"whole model": gains[0]} | {f"layer {k} forgetful": g for k, g in enumerate(gains[1:])},
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=768)
    parser.add_argument("--limit", type=int, help="only so many held-out tokens (for a quick look)")
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA), or a folder of .txt files")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="tokenizer and encoded text")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare(options.cache, options.data)
    held_out = load_split(options.cache, "validation")
    if options.limit:
        size = round(held_out.bytes * options.limit / len(held_out.tokens))
        held_out = TokenData(held_out.tokens[: options.limit], size)
    figures = json.dumps(evaluate(options.folder, held_out, options.context, options.stride), indent=2)
    print(figures)
    if options.json:
        write_whole(options.json, figures + "\n")


if __name__ == "__main__":
    main()
