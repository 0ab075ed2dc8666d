"""How well a model goes on as the text did before: repeated spans of held-out text, and of random tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from training.running.loss import token_losses

#: Tokens of the repeated span, and of the other text before, between and after its two occurrences.
SPAN, OTHER = 64, 64


@dataclass(frozen=True)
class Induction:
    """Losses in nats per token on a span's first and second occurrence, the span's first token left out.

    The random spans of the losses are 32 tokens long; `random_accuracy` is the share of right guesses by span length.
    """

    natural_first: float
    natural_second: float
    random_first: float
    random_second: float
    random_accuracy: dict[int, float]


def natural_rows(tokens: NDArray[np.uint16], count: int, seed: int = 0) -> torch.Tensor:
    """Return rows "other text, A, other text, A", all four pieces from different places of the text."""
    rng = np.random.default_rng(seed)

    def piece(length: int) -> NDArray[np.int64]:
        start = int(rng.integers(len(tokens) - length))
        return tokens[start : start + length].astype(np.int64)

    rows = []
    for _ in range(count):
        span = piece(SPAN)
        rows.append(np.concatenate([piece(OTHER), span, piece(OTHER), span]))
    return torch.from_numpy(np.stack(rows))


def random_rows(vocabulary: int, count: int, span: int, seed: int = 0) -> torch.Tensor:
    """Return rows "A A", A being tokens drawn at random (never the end-of-text token, number 0)."""
    rng = np.random.default_rng(seed)
    spans = rng.integers(1, vocabulary, size=(count, span))
    return torch.from_numpy(np.concatenate([spans, spans], axis=1))


@torch.no_grad()
def measure(model: PreTrainedModel, tokens: NDArray[np.uint16], count: int = 256) -> Induction:
    """Return the induction figures of a model over `count` rows of each kind."""
    losses = torch.cat([token_losses(model, rows) for rows in natural_rows(tokens, count).split(16)])
    first, second = losses[:, OTHER : OTHER + SPAN - 1], losses[:, 2 * OTHER + SPAN : 2 * (OTHER + SPAN) - 1]
    vocabulary = model.config.vocab_size
    rows = random_rows(vocabulary, count, span=32)
    random = torch.cat([token_losses(model, part) for part in rows.split(16)])
    accuracy = {length: _copied(model, random_rows(vocabulary, count, length)) for length in (8, 16, 32, 64)}
    return Induction(
        natural_first=float(first.mean()),
        natural_second=float(second.mean()),
        random_first=float(random[:, :31].mean()),
        random_second=float(random[:, 32:].mean()),
        random_accuracy=accuracy,
    )


@torch.no_grad()
def gain_with_forgetful_layer(model: PreTrainedModel, tokens: NDArray[np.uint16], count: int = 64) -> list[float]:
    """Return what repetition saves, in nats per token, as it is and then with each layer in turn made to forget fast.

    A layer forgets when its decay rates are 55 times as great (4 added to A_log): the layer whose figure falls to
    nothing is the one that carries what was said before to where it is said again.
    """
    rows = natural_rows(tokens, count)

    def gain() -> float:
        losses = torch.cat([token_losses(model, part) for part in rows.split(16)])
        first, second = losses[:, OTHER : OTHER + SPAN - 1], losses[:, 2 * OTHER + SPAN : 2 * (OTHER + SPAN) - 1]
        return float((first - second).mean())

    gains = [gain()]
    for layer in model.backbone.layers:
        kept = layer.mixer.A_log.clone()
        layer.mixer.A_log += 4
        gains.append(gain())
        layer.mixer.A_log.copy_(kept)
    return gains


def _copied(model: PreTrainedModel, rows: torch.Tensor) -> float:
    """Return the share of tokens of the second A, without its first, that the model holds the most probable."""
    span = rows.shape[1] // 2
    hits = [
        model(part, use_cache=False).logits[:, span:-1].argmax(-1) == part[:, span + 1 :] for part in rows.split(16)
    ]
    return float(torch.cat(hits).float().mean())
