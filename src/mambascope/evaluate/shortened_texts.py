"""What a model says of a text from which tokens are left out, so that the rest closes up; each text is asked once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mambascope.readouts import logits_of
from mambascope.trace.intervene import intervening
from mambascope.trace.running import call

#: Tokens of the texts that run side by side.
BATCH_TOKENS = 8192


class ShortenedTexts:
    """The lead of one answer's logit over another's after a text, by which of its tokens are kept.

    Flipping from the most relevant token on and insertion from the least relevant one on come by the same texts, and so
    do several methods: what has been asked before is remembered.
    """

    def __init__(self, model: nn.Module, ids: Int[Tensor, " n"], answer: int, other: int) -> None:
        self._model, self._ids, self._answer, self._other = model, ids, answer, other
        self._known: dict[bytes, float] = {}

    def lead(self, kept: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Return the lead after each of b texts; a text needs one token or more."""
        names = [row.numpy().tobytes() for row in kept.cpu()]
        fresh = {name: row for name, row in zip(names, kept, strict=True) if name not in self._known}
        for name, value in self._asked(fresh):
            self._known[name] = value
        return torch.tensor([self._known[name] for name in names])

    def _asked(self, fresh: dict[bytes, Tensor]) -> list[tuple[bytes, float]]:
        """Run texts of similar length side by side, padded behind, where a causal model does not look."""
        order = sorted(fresh, key=lambda name: int(fresh[name].sum()), reverse=True)
        found: list[tuple[bytes, float]] = []
        while len(found) < len(order):
            first = len(found)
            longest = int(fresh[order[first]].sum())
            names = order[first : first + max(1, BATCH_TOKENS // longest)]
            texts = [self._ids[fresh[name].to(self._ids.device)] for name in names]
            batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            with torch.no_grad(), intervening(self._model, None):
                logits = logits_of(call(self._model, {"input_ids": batch}))
            ends = torch.tensor([len(one) - 1 for one in texts], device=batch.device)
            final = logits[torch.arange(len(texts), device=batch.device), ends].float()
            found += zip(names, (final[:, self._answer] - final[:, self._other]).tolist(), strict=True)
        return found
