"""Train a translation model: `python -m training.translation.train mamba2` (English to French; `--pair de-en`).

The same command goes on from the last checkpoint; `--steps` and `--decay` may change until the rate begins to fall.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training.language.corpus import data_folder
from training.running.allocator import keep_pages
from training.running.architectures import build, configuration
from training.running.loop import Batch, Reporting, Settings, masked_loss, train
from training.running.loss import mixed_precision
from training.running.mimetic import start_recall
from training.running.scans import fast_scans
from training.translation.data import (
    END,
    LENGTHS,
    EncodedPairs,
    PairBatches,
    load_pairs,
    load_part,
    load_tokenizer,
    padded,
    prepare,
)
from training.translation.decode import beam, greedy
from training.translation.language_pairs import PAIRS, LanguagePair
from training.translation.parallel_text import Pair

FAMILIES = ("mamba2", "mamba")
#: Sizes of the models, each under 4 million parameters.
ARCHITECTURES = {
    "mamba2": {"name": "tiny-mamba2", "hidden_size": 256, "num_hidden_layers": 4, "num_heads": 8},
    "mamba": {"name": "tiny-mamba", "hidden_size": 224, "num_hidden_layers": 6},
}
#: How long the models of the zoo were trained, and for how many of these steps the rate fell.
STEPS = {"en-fr-mamba2": 2800, "en-fr-mamba": 1800, "de-en-mamba2": 2400}
DECAY = {"en-fr-mamba2": 850, "en-fr-mamba": 600, "de-en-mamba2": 800}
#: Their learning rates while they hold.
PEAK = {"mamba2": 3e-3, "mamba": 2.5e-3}
#: Pairs translated at every validation on the way.
QUICK_PAIRS = 200


class Translation:
    """Batches of training pairs; the loss and BLEU of held-out ones."""

    def __init__(self, languages: LanguagePair, cache: Path, tokens: int, seed: int) -> None:
        self.languages, self.batches = languages, PairBatches(load_part(cache, "training"), tokens, seed)
        self.held_out, self.pairs = load_part(cache, "validation"), load_pairs(cache, "validation")
        self.tokenizer = load_tokenizer(cache)

    def step(self, step: int) -> Batch:
        return self.batches.step(step)

    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        chosen = self.pairs[:: max(1, len(self.pairs) // QUICK_PAIRS)]
        translated = translations(model, self.tokenizer, self.languages, [pair.source for pair in chosen])
        return {
            "loss": held_out_loss(model, self.held_out),
            "bleu": bleu(translated, chosen, self.languages),
        }


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, pairs: EncodedPairs, tokens: int = 4096) -> float:
    """Return the mean loss in nats per target token (ends counted in), in bfloat16 products."""
    total = count = 0.0
    order = pairs.lengths.argsort(kind="stable")
    order = order[pairs.lengths[order] <= LENGTHS[-1]]
    first = 0
    while first < len(order):
        size = max(1, tokens // int(pairs.lengths[order[min(first + 64, len(order) - 1)]]))
        chosen = order[first : first + size]
        batch = padded(pairs, chosen, int(pairs.lengths[chosen].max()))
        with fast_scans(), mixed_precision():
            loss: Tensor = masked_loss(model, batch)
        total, count = total + float(loss) * int(batch.learnt.sum()), count + int(batch.learnt.sum())
        first += size
    return total / count


def translations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    languages: LanguagePair,
    sources: list[str],
    beams: int = 1,
) -> list[str]:
    """Return translations of spaced sentences, as their language is written; one beam is greedy."""
    prefixes = [tokenizer.encode(f"{text} <sep>", add_special_tokens=False) for text in sources]
    rows = greedy(model, prefixes, END) if beams == 1 else beam(model, prefixes, END, beams)
    return [languages.joined(tokenizer.decode(row).strip()) for row in rows]


def bleu(translated: list[str], pairs: list[Pair], languages: LanguagePair) -> float:
    """Return sacrebleu's corpus BLEU against each pair's own target sentence."""
    import sacrebleu

    return sacrebleu.corpus_bleu(translated, [[languages.joined(pair.target) for pair in pairs]]).score


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--pair", choices=PAIRS, default="en-fr", help="languages, source first (default: en-fr)")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--decay", type=int)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens to a step")
    parser.add_argument("--peak", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA)")
    parser.add_argument("--cache", type=Path, help="where the prepared text lies (default: the pair's own folder)")
    parser.add_argument(
        "--hansards", action="store_true", help="train on the Hansards too (research only; not shipped)"
    )
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/translation-PAIR-FAMILY)")
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    options = parser.parse_args()
    if options.hansards and options.pair != "en-fr":
        parser.error("the Hansards are English and French; --hansards goes with --pair en-fr")
    keep_pages("training.translation.train")
    torch.set_num_threads(options.threads)
    languages = PAIRS[options.pair]
    cache = options.cache or languages.cache
    cache = cache.with_name(cache.name + "-hansards") if options.hansards else cache
    prepare(languages, cache, data_folder(options.data), options.hansards)
    task = Translation(languages, cache, options.tokens, options.seed)
    recipe = f"{languages.name}-{options.family}"
    settings = Settings(
        task=f"translation-{recipe}",
        architecture=ARCHITECTURES[options.family],
        steps=options.steps or STEPS.get(recipe, STEPS[f"en-fr-{options.family}"]),
        decay=options.decay or DECAY.get(recipe, DECAY[f"en-fr-{options.family}"]),
        peak=options.peak or PEAK[options.family],
        seed=options.seed,
        batches={"tokens": options.tokens, "hansards": options.hansards},
    )
    torch.manual_seed(options.seed)
    model = build(configuration(vocabulary=len(task.tokenizer), **settings.architecture))
    start_recall(model)
    out = options.out or Path("runs") / (settings.task + ("-hansards" if options.hansards else ""))
    train(settings, model, task, out, Reporting(validation_steps=1000), compiled=not options.eager)


if __name__ == "__main__":
    main()
