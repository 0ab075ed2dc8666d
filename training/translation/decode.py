"""Greedy decoding and beam search in batches: prefixes of one length together, so that nothing is padded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from inspect import signature

import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.running.scans import fast_scans


@torch.no_grad()
def greedy(
    model: PreTrainedModel, prefixes: Sequence[Sequence[int]], end: int, most: int = 80, batch: int = 128
) -> list[list[int]]:
    """Return every prefix's likeliest next tokens, one after the other, up to `end` (left out) or `most` tokens."""
    answers: list[list[int]] = [[] for _ in prefixes]
    for indices in _of_one_length(prefixes, batch):
        continued = _continued(model, torch.tensor([list(prefixes[i]) for i in indices]), end, most)
        for index, tokens in zip(indices, continued.tolist(), strict=True):
            answers[index] = tokens[: tokens.index(end)] if end in tokens else tokens
    return answers


def _of_one_length(prefixes: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
    """Yield the prefixes' numbers, at most `batch` at once, those of one length together."""
    groups = defaultdict(list)
    for index, prefix in enumerate(prefixes):
        groups[len(prefix)].append(index)
    for indices in groups.values():
        for first in range(0, len(indices), batch):
            yield indices[first : first + batch]


def _continued(model: PreTrainedModel, rows: Tensor, end: int, most: int) -> Tensor:
    """Return (b, n) continuations of (b, L) rows, n <= most; after a row's end its tokens mean nothing."""
    cache = "cache" if "cache" in signature(model.forward).parameters else "cache_params"  # before transformers 5.24
    out = model(rows, use_cache=True)
    ended, tokens = torch.zeros(len(rows), dtype=torch.bool), []
    while True:
        tokens.append(out.logits[:, -1].argmax(-1))
        ended |= tokens[-1] == end
        if len(tokens) == most or bool(ended.all()):
            return torch.stack(tokens, dim=1)
        out = model(tokens[-1][:, None], use_cache=True, **{cache: out[cache]})


@torch.no_grad()
def beam(
    model: PreTrainedModel, prefixes: Sequence[Sequence[int]], end: int, beams: int = 4, most: int = 80, batch: int = 32
) -> list[list[int]]:
    """Return for every prefix the continuation with the best mean log-probability per token that beam search finds.

    The search reads its prefixes anew for every token, without a cache, as its rows change places. It ends for a batch
    when no row's unfinished continuation is better than its best finished one.
    """
    answers: list[list[int]] = [[] for _ in prefixes]
    for indices in _of_one_length(prefixes, batch):
        found = _searched(model, torch.tensor([list(prefixes[i]) for i in indices]), end, beams, most)
        for index, tokens in zip(indices, found, strict=True):
            answers[index] = tokens
    return answers


def _searched(model: PreTrainedModel, rows: Tensor, end: int, beams: int, most: int) -> list[list[int]]:
    b, L = rows.shape
    alive, scores = rows[:, None], torch.zeros(b, 1)
    best: list[tuple[float, list[int]]] = [(-math.inf, []) for _ in range(b)]
    for count in range(1, most + 1):
        with fast_scans():
            hidden = model.backbone(alive.flatten(0, 1), use_cache=False)[0][:, -1]
        chances = model.lm_head(hidden).float().log_softmax(-1).view(b, alive.shape[1], -1)
        totals = scores[..., None] + chances
        ended, which = (totals[..., end] / count).max(1)
        for row in range(b):
            if float(ended[row]) > best[row][0]:
                best[row] = (float(ended[row]), alive[row, which[row], L:].tolist())
        totals[..., end] = -math.inf
        scores, places = totals.flatten(1).topk(beams)
        parents, tokens = places // totals.shape[-1], places % totals.shape[-1]
        kept = alive.gather(1, parents[..., None].expand(-1, -1, alive.shape[-1]))
        alive = torch.cat([kept, tokens[..., None]], dim=-1)
        if all(score >= float(scores[row, 0]) / count for row, (score, _) in enumerate(best)):
            break
    return [tokens or alive[row, 0, L:].tolist() for row, (_, tokens) in enumerate(best)]
