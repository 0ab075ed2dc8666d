"""Scores between words, from scores between the pieces that a tokenizer cuts them into."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.errors import InputError
from mambascope.numbering import shown

MERGES = {"sum": "sum", "mean": "mean", "max": "amax"}  # the names that torch has for them


def word_scores(
    scores: Float[Tensor, "target source"],
    target_words: Sequence[int | None],
    source_words: Sequence[int | None],
    *,
    over_sources: str = "sum",
    over_targets: str = "mean",
) -> Float[Tensor, "target_word source_word"]:
    """Return scores between words: the pieces of each source word are merged first, then those of each target word.

    By default a source word gets the sum over its pieces (a target draws on a word through all its pieces) and a target
    word the mean over its pieces (each is a prediction of its own), as Clark et al. 2019 (arXiv 1906.04341) merge
    attention. `max` takes the largest score, with its sign.

    Args:
        scores: Scores between pieces.
        target_words: The word of each target piece, counted from 0; None for pieces of no word (special tokens).
        source_words: The word of each source piece, in the same way.
        over_sources: How to merge the pieces of a source word: `sum`, `mean` or `max`.
        over_targets: How to merge the pieces of a target word.

    Raises:
        InputError: if there is not one word number per piece, words are not numbered without gaps, or the way to merge
            is unknown.
    """
    if scores.shape != (len(target_words), len(source_words)):
        raise InputError(
            f"scores of shape {tuple(scores.shape)} need as many word numbers, found {len(target_words)} for the "
            f"targets and {len(source_words)} for the sources"
        )
    merged = _merge(scores, source_words, over_sources, "source")
    return _merge(merged.T, target_words, over_targets, "target").T


def _merge(
    scores: Float[Tensor, "other piece"], words: Sequence[int | None], how: str, side: str
) -> Float[Tensor, "other word"]:
    reduce = MERGES.get(how)
    if reduce is None:
        raise InputError(f"unknown way to merge {side} pieces {shown(how)}; choose 'sum', 'mean' or 'max'")
    places = [place for place, word in enumerate(words) if word is not None]
    index: Int[Tensor, " piece"] = torch.tensor([words[place] for place in places], dtype=torch.long)
    count = int(index.max()) + 1 if places else 0
    missing = sorted(set(range(count)) - set(index.tolist()))
    if missing or not places or int(index.min()) < 0:
        what = f"word {missing[0]} has no piece" if missing else "there is no word" if not places else "one is negative"
        raise InputError(f"{side} words must be numbered from 0 without gaps, but {what}")
    index = index.to(scores.device).expand(len(scores), -1)
    empty = scores.new_zeros(len(scores), count)
    return empty.scatter_reduce(1, index, scores[:, places], reduce, include_self=False)
