"""A model's answer to texts from which tokens were left out without a gap; equal texts are computed once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mambascope.readouts import logits_of
from mambascope.trace.intervene import intervening
from mambascope.trace.running import call, running

#: How many tokens run in one batch.
BATCH_TOKENS = 8192


class ShortenedTexts:
    """By how much one answer's logit leads another's, after a text of which only some tokens are kept.

    Flipping that starts with the most relevant token and insertion that starts with the least relevant one pass through
    the same texts, and so do several methods, so results are remembered.
    """

    def __init__(self, model: nn.Module, ids: Int[Tensor, " n"], answer: int, other: int) -> None:
        self._model, self._ids, self._answer, self._other = model, ids, answer, other
        self._known: dict[bytes, float] = {}

    def lead(self, kept: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Return the lead after each of b texts, which need at least one token each."""
        names = [row.numpy().tobytes() for row in kept.cpu()]
        fresh = {name: row for name, row in zip(names, kept, strict=True) if name not in self._known}
        for name, value in self._computed(fresh):
            self._known[name] = value
        return torch.tensor([self._known[name] for name in names])

    def _computed(self, fresh: dict[bytes, Tensor]) -> list[tuple[bytes, float]]:
        """Run texts of similar length in one batch, padded at the end, where a causal model does not look."""
        order = sorted(fresh, key=lambda name: int(fresh[name].sum()), reverse=True)
        found: list[tuple[bytes, float]] = []
        while len(found) < len(order):
            first = len(found)
            longest = int(fresh[order[first]].sum())
            names = order[first : first + max(1, BATCH_TOKENS // longest)]
            texts = [self._ids[fresh[name].to(self._ids.device)] for name in names]
            batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            with running(self._model) as own, intervening(own, None):
                logits = logits_of(call(own, {"input_ids": batch}))
            ends = torch.tensor([len(one) - 1 for one in texts], device=batch.device)
            final = logits[torch.arange(len(texts), device=batch.device), ends].float()
            found += zip(names, (final[:, self._answer] - final[:, self._other]).tolist(), strict=True)
        return found
