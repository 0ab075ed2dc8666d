"""Greedy decoding in batches with the models' own caches: sources of one length together, so that nothing is padded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def greedy(
    model: PreTrainedModel, prefixes: Sequence[Sequence[int]], end: int, most: int = 80, batch: int = 128
) -> list[list[int]]:
    """Return every prefix's likeliest next tokens, one after the other, up to `end` (left out) or `most` tokens."""
    groups = defaultdict(list)
    for index, prefix in enumerate(prefixes):
        groups[len(prefix)].append(index)
    answers: list[list[int]] = [[] for _ in prefixes]
    for indices in groups.values():
        for first in range(0, len(indices), batch):
            chosen = indices[first : first + batch]
            continued = _continued(model, torch.tensor([list(prefixes[i]) for i in chosen]), end, most)
            for index, tokens in zip(chosen, continued.tolist(), strict=True):
                answers[index] = tokens[: tokens.index(end)] if end in tokens else tokens
    return answers


def _continued(model: PreTrainedModel, rows: Tensor, end: int, most: int) -> Tensor:
    """Return (b, n) continuations of (b, L) rows, n <= most; after a row's end its tokens mean nothing."""
    out = model(rows, use_cache=True)
    ended, tokens = torch.zeros(len(rows), dtype=torch.bool), []
    while True:
        tokens.append(out.logits[:, -1].argmax(-1))
        ended |= tokens[-1] == end
        if len(tokens) == most or bool(ended.all()):
            return torch.stack(tokens, dim=1)
        out = model(tokens[-1][:, None], cache_params=out.cache_params, use_cache=True)
