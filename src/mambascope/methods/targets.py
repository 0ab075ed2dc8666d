"""Positions of targets in each text of a batch, and rows of targets whose position differs from text to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.errors import InputError
from mambascope.numbering import shown, whole_number
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.operators.token_mixer import TokenMixer
from mambascope.positions import positions_in
from mambascope.trace import Trace
from mambascope.trace.mixing import goes_forwards


def positions(trace: Trace, target: int | Sequence[int]) -> Int[Tensor, "b T"]:
    """Return the positions of the targets in each text, counted from 0; arguments and errors as in `positions_in`."""
    return positions_in(trace.attention_mask, trace.shape, target)


def looks_ahead(trace: Trace, layer: int) -> bool:
    """Return whether targets of a layer depend on later tokens, not counting rows of padding.

    In a decoder, the row of a token padded on the left, which has nothing to attend to, is uniform over all tokens.
    """
    asked = [branch for branch in trace.layers[trace.index(layer)].branches if not goes_forwards(branch.family)]
    return any(_looks_ahead(branch.operator().scan, trace.attention_mask) for branch in asked)


def _looks_ahead(scan: TokenMixer, mask: Tensor | None) -> bool:
    if scan.causal or mask is None or not isinstance(scan, SoftmaxAttention):
        return not scan.causal
    return bool((scan.p.triu(1).any(dim=-1).any(dim=1) & mask.bool()).any())


def reach(trace: Trace, places: Sequence[int]) -> int:
    """Return how many sources, from the first on, positions may depend on: all of them if a layer looks ahead."""
    ahead = any(looks_ahead(trace, layer) for layer in range(len(trace.layers)))
    return trace.shape[1] if ahead else max(places) + 1


def band_of(targets: Any, length: int) -> slice:
    """Return a slice of a text's positions as one from its first to after its last; None is all of them.

    Raises:
        InputError: if it is no slice, has a step, or holds no position.
    """
    try:
        first, last, step = slice(None).indices(length) if targets is None else targets.indices(length)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"targets must be a slice of positions, as slice(0, 64), found {shown(targets)}") from error
    if step != 1 or first >= last:
        raise InputError(f"targets {shown(targets)} are not consecutive positions of this text, which has {length}")
    return slice(first, last)


def without_padding(
    trace: Trace, maps: Float[Tensor, "b *M t L"], targets: slice = slice(None)
) -> Float[Tensor, "b *M t L"]:
    """Set a map's entries to zero, in place, where the target or the source is padding, and return it.

    Args:
        trace: The capture.
        maps: Rows of these targets.
        targets: By default all.
    """
    if trace.attention_mask is None:
        return maps
    padding = ~trace.attention_mask.bool().to(maps.device)
    padding = padding.view(len(padding), *[1] * (maps.ndim - 3), -1)
    return maps.masked_fill_(padding[..., None, :] | padding[..., targets, None], 0)


def padded_sources_zero(trace: Trace, rows: Float[Tensor, "b *s L"]) -> Float[Tensor, "b *s L"]:
    """Set a target's scores of padding to zero, in place, and return them.

    A layer may mask padding only where it enters (gated delta nets): its convolution then writes at such a place, and
    its matrix has a column there.
    """
    if trace.attention_mask is None:
        return rows
    padding = ~trace.attention_mask.bool().to(rows.device)
    return rows.masked_fill_(padding.view(len(padding), *[1] * (rows.ndim - 2), -1), 0)


def require_no_padding(trace: Trace, scores: Float[Tensor, "b L"]) -> None:
    """Raise InputError if padding has a score: the number that is explained is then read from padding."""
    if trace.attention_mask is None:
        return
    wrong = (scores != 0) & ~trace.attention_mask.bool().to(scores.device)
    if wrong.any():
        text, place = wrong.nonzero()[0].tolist()
        raise InputError(
            f"what is explained is read from padding, at position {place} of text {text}; pad the texts on the side "
            "where the model reads nothing, or pass them one by one"
        )


def of_each_text(trace: Trace, target: int, compute: Callable[[int], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the results of `compute` for one target, at its own position in each text.

    Args:
        trace: A capture.
        target: The target, as in `positions_in`.
        compute: Given a position, returns its results for every text.
    """
    places = positions(trace, whole_number(target, "target"))[:, 0].tolist()
    found = {place: compute(place) for place in dict.fromkeys(places)}
    if len(found) == 1:
        return found[places[0]]
    parts = range(len(found[places[0]]))
    return tuple(torch.stack([found[place][part][text] for text, place in enumerate(places)]) for part in parts)
