"""How a row of scores treats the true sources: the share of the scores' size on them, their best rank, their signs."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from mambascope.errors import InputError
from mambascope.evaluate.metrics.ranking import GoldRows, gold_rows


def span_mass(
    scores: Num[Tensor, "*rows n"], span: Bool[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the sum of |score| on the span divided by that on all valid sources.

    Args:
        scores, span, valid: See `gold_rows`; the span is the gold.

    Returns:
        float64, from 0 to 1; NaN in rows whose scores are all zero.

    Raises:
        InputError: if a row has no valid source in its span; and see `gold_rows`.
    """
    rows = _spanned(scores, span, valid)
    size = rows.scores.abs()
    return (size * rows.gold).sum(dim=-1) / size.sum(dim=-1)


def span_rank(
    scores: Num[Tensor, "*rows n"],
    span: Bool[Tensor, "..."],
    valid: Bool[Tensor, "..."] | None = None,
    *,
    signed: bool = False,
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the rank among all valid sources of the span's best token: 1 is first.

    A source outside the span with the same score is ranked before it, so scores that are all equal, and so found
    nothing, get the worst rank.

    Args:
        scores, span, valid: See `gold_rows`; the span is the gold.
        signed: Rank by score; by default by |score|.

    Raises:
        InputError: if a row has no valid source in its span; and see `gold_rows`.
    """
    rows = _spanned(scores if signed else scores.abs(), span, valid)
    best = rows.scores.masked_fill(~rows.gold, -torch.inf).amax(dim=-1, keepdim=True)
    return 1 + ((rows.scores >= best) & rows.others).sum(dim=-1).double()


def sign_agreement(scores: Num[Tensor, "*rows n"], signs: Num[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
    """Return, for each row, the share of the sources whose score has the sign that it must have.

    A source whose score is zero has no sign, and counts as wrong.

    Args:
        scores: A score for each source.
        signs: Positive or negative for each source that has a sign, zero for all others.

    Returns:
        float64, from 0 to 1; NaN in rows where no source has a sign.

    Raises:
        InputError: if the shapes differ, or the score of a source that has a sign is not finite.
    """
    rows = gold_rows(scores, signs != 0, signs != 0)
    return rows.mean_over_gold((rows.scores.sign() == signs.sign()).double())


def _spanned(scores: Tensor, span: Tensor, valid: Tensor | None) -> GoldRows:
    rows = gold_rows(scores, span, valid)
    if not rows.golds.all():
        raise InputError("a row has no valid source in its span; leave that row out")
    return rows
