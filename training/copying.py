"""Train a small model to copy random strings: `python -m training.copying mamba2`.

A row is `string | string <|endoftext|>`; the loss is on what follows the separator. The same command goes on from the
last checkpoint.
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training.language.tokens import END_OF_TEXT
from training.running.allocator import keep_pages
from training.running.architectures import build, configuration
from training.running.loop import Batch, Reporting, Settings, train
from training.running.mimetic import start_recall
from training.running.scans import fast_scans

FAMILIES = ("mamba", "mamba2")
END, SEPARATOR, FIRST_SYMBOL = 0, 1, 2
SYMBOLS = string.ascii_lowercase
SEPARATOR_TOKEN = "|"
#: Shortest and longest string that is trained on.
LENGTHS = (4, 32)
#: Lengths that are measured; the last three are beyond what was trained on.
MEASURED = (8, 16, 32, 40, 48, 64)

ARCHITECTURES = {
    "mamba": {"name": "tiny-mamba", "hidden_size": 128, "num_hidden_layers": 3, "state_size": 64, "time_step_rank": 8},
    "mamba2": {"name": "tiny-mamba2", "hidden_size": 128, "num_hidden_layers": 3, "num_heads": 4, "state_size": 64},
}
#: How long the models of the zoo were trained, and for how many of these steps the rate fell.
STEPS = {"mamba": 1700, "mamba2": 2000}
DECAY = {"mamba": 400, "mamba2": 300}


class Copying:
    """Random strings, those of a step all of one length; the batch of a step is a function of (seed, step) alone."""

    def __init__(self, tokens: int, seed: int, lengths: tuple[int, int] = LENGTHS) -> None:
        self.tokens, self.seed, self.lengths = tokens, seed, lengths

    def step(self, step: int) -> Batch:
        """Return the batch of one step."""
        rng = np.random.default_rng((self.seed, step))
        length = int(rng.integers(self.lengths[0], self.lengths[1] + 1))
        return copy_batch(rng, self.tokens // (2 * length + 2), length)

    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the share of symbols copied right, by length."""
        return {f"right_{length}": exactness(model, length, 64)[0] for length in MEASURED}


def copy_batch(rng: np.random.Generator, count: int, length: int) -> Batch:
    """Return `count` rows of a random string of this length, the separator, the string again and the end."""
    strings = rng.integers(FIRST_SYMBOL, FIRST_SYMBOL + len(SYMBOLS), size=(count, length))
    separators, ends = np.full((count, 1), SEPARATOR), np.full((count, 1), END)
    rows: NDArray[np.int64] = np.concatenate([strings, separators, strings, ends], axis=1)
    learnt = np.zeros((count, 2 * length + 1), bool)
    learnt[:, length:] = True
    return Batch(torch.from_numpy(rows), torch.from_numpy(learnt))


@torch.no_grad()
def exactness(model: PreTrainedModel, length: int, count: int, seed: int = 12345) -> tuple[float, float]:
    """Return the shares of symbols and of whole strings (with their end) that are guessed right, teacher-forced.

    A string is guessed right to its end exactly when greedy decoding copies it.
    """
    batch = copy_batch(np.random.default_rng((seed, length)), count, length)
    with fast_scans():
        logits = model.lm_head(model.backbone(batch.rows[:, :-1], use_cache=False)[0])
    right = (logits.argmax(-1) == batch.rows[:, 1:])[:, length:]
    return float(right[:, :-1].float().mean()), float(right.all(1).float().mean())


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: every letter, the separator and the end are a token each."""
    words = {END_OF_TEXT: END, SEPARATOR_TOKEN: SEPARATOR}
    words |= {symbol: FIRST_SYMBOL + i for i, symbol in enumerate(SYMBOLS)}
    backend = Tokenizer(models.WordLevel(words))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, sep_token=SEPARATOR_TOKEN
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--decay", type=int)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens to a step")
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/copying-FAMILY)")
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    options = parser.parse_args()
    keep_pages("training.copying")
    torch.set_num_threads(options.threads)
    settings = Settings(
        task=f"copying-{options.family}",
        architecture=ARCHITECTURES[options.family],
        steps=options.steps or STEPS[options.family],
        decay=options.decay or DECAY[options.family],
        peak=options.peak,
        seed=options.seed,
        batches={"tokens": options.tokens, "lengths": list(LENGTHS)},
    )
    torch.manual_seed(options.seed)
    model = build(configuration(vocabulary=FIRST_SYMBOL + len(SYMBOLS), **settings.architecture))
    start_recall(model)
    task = Copying(options.tokens, options.seed)
    train(settings, model, task, options.out or Path("runs") / settings.task, Reporting(), not options.eager)


if __name__ == "__main__":
    main()
