"""Backward passes over a long text piece by piece, in memory that hardly grows with its length.

A forward pass keeps what enters each piece (`mambascope.trace.text_in_pieces`). Then the pieces run again from the last
to the first, each with its own backward pass, which begins with the readout and with the gradients at what left the
piece, and ends at its tokens and at what entered it. The result is that of one pass over the whole text, up to
rounding, at the cost of one more forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.inputs.checks import check_inputs
from mambascope.memory import require_bytes
from mambascope.progress import within
from mambascope.readouts import FeatureReadout, Readout, first_order, read, read_at
from mambascope.trace.biases import BiasLedger
from mambascope.trace.continued import Continued, Kept, State
from mambascope.trace.differentiate import Gradients, depends, differentiable, leaf_at_tokens
from mambascope.trace.footprint import bytes_of_pass
from mambascope.trace.rules import GRADIENT, PropagationRules
from mambascope.trace.running import running
from mambascope.trace.text_in_pieces import LongText, inside, long_text, most_heads

#: Copies of a piece's attention scores that a backward pass holds, and what it costs in forward passes.
SCORES_HELD, BACKWARD = 6, 3

#: Gradients at the parts of what leaves pieces at one call; None where nothing arrives.
Flows = tuple[Tensor | None, ...]


def differentiate_in_pieces(
    model: nn.Module, readout: Any, *, rules: PropagationRules = GRADIENT, **inputs: Any
) -> Gradients | None:
    """Return what `differentiate` does with `biases=True` for a long text, but for the outputs; None if it cannot.

    It can if the text has more than `LONG` tokens, or would not fit in memory as a whole, and no padding; if the
    readout reads logits at some of its positions; and if every mixer is causal and takes over from earlier tokens in a
    way that is known. What comes after the last of these positions does not run, and is zero.

    Args:
        model: A stock model.
        readout: A readout of `mambascope.readouts`.
        rules: The propagation rules.
        inputs: Passed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E).

    Raises:
        InputError: if the inputs cannot be used.
        MapTooLargeError: if the pass would not fit in memory.
    """
    with running(model, eager=True) as own:
        check_inputs(own, inputs)
        text = long_text(own, inputs, backward=True)
        places = read_at(readout) if isinstance(readout, Readout) else None
        if text is None or not places or not all(-text.length <= place < text.length for place in places):
            return None
        whole, places = text.length, tuple(sorted({place % text.length for place in places}))
        text = text.until(places[-1] + 1)
        tried = text.tried()
        if tried is None:
            return None
        texts = len(text.given)
        require_bytes(
            bytes_in_pieces(text, tried),
            text.given.device,
            f"a pass over {texts} x {text.length} tokens, {text.size} at a time,",
            "shorten the text, or pass fewer texts at a time",
        )
        kept, rows = text.forward(places, BACKWARD)
        of_rows = renumbered(readout, places, whole)
        with torch.enable_grad():
            value = depends(read(of_rows, rows.requires_grad_()))
            (at_rows,) = torch.autograd.grad(value.sum(), rows)
        ledger = BiasLedger(own, len(rows))
        tokens, at_tokens = _backward(text, kept, places, at_rows, rules, ledger)
        if whole > text.length:
            tokens, at_tokens = (F.pad(one, (0, 0, 0, whole - text.length)) for one in (tokens, at_tokens))
        return Gradients(
            outputs=None,
            value=value.detach(),
            embeddings=tokens,
            at_embeddings=at_tokens,
            first_order=first_order(of_rows, rows.detach(), value),
            biases=ledger.held,
            undistributed=ledger.undistributed,
        )


def bytes_in_pieces(text: LongText, kept: Kept) -> int:
    """Return about how many bytes a forward and a backward pass over a text take, given what pieces leave."""
    texts, (fixed, grown) = len(text.given), kept.sizes()
    piece = text.given.new_empty((texts, text.size), dtype=torch.long, device="meta")
    width = next(text.own.parameters()).shape[-1]
    numbers = len(text.pieces) * fixed + text.length * (2 * grown + 2 * texts * width)
    numbers += SCORES_HELD * texts * most_heads(text.mixers) * text.size * text.length
    return bytes_of_pass(text.own, text.mixers, {"input_ids": piece}, backward=True) + 4 * numbers


def _backward(
    text: LongText,
    kept: Kept,
    places: Sequence[int],
    at_logits: Float[Tensor, "b n v"],
    rules: PropagationRules,
    ledger: BiasLedger,
) -> tuple[Float[Tensor, "b L E"], Float[Tensor, "b L E"]]:
    """Return the embedded tokens and the gradient at them, given that at the logits at some positions."""
    flows: list[Flows] = [(None,) * len(whole) for whole in kept.grown]
    found: list[tuple[Tensor, Tensor]] = []
    steps = (1 + BACKWARD) * len(text.pieces)
    for number, piece in reversed(list(enumerate(text.pieces))):
        here, leaves = inside(places, piece), list[Tensor]()
        states = Continued([_leaf(state) for state in kept.entering(number, piece.start)])
        kept.left[number] = []  # nothing reads it again
        with ExitStack() as stack:
            stack.enter_context(differentiable(text.own, rules, ledger, states=states))
            given = stack.enter_context(leaf_at_tokens(text.own, text.read(piece, here), leaves))
            logits = text.logits(given, here)
        ends = [(logits, at_logits[:, _those(places, piece)]), *_leaving(states.leaving, flows, piece)]
        entered = [part for state in states.entering for part in state.parts]
        at_token, *at_states = _gradients(ends, [*leaves, *entered])
        found.append((leaves[0].detach(), torch.zeros_like(leaves[0]) if at_token is None else at_token))
        flows = _handed_on(flows, states.entering, at_states, text.length)
        within(steps - BACKWARD * number, steps)
    tokens, at_tokens = zip(*found[::-1], strict=True)
    return torch.cat(tokens, dim=1), torch.cat(at_tokens, dim=1)


def renumbered(readout: Readout | FeatureReadout, places: Sequence[int], length: int) -> Readout | FeatureReadout:
    """Return a readout of the outputs at some positions alone, given these, which ascend."""
    number = {place: row for row, place in enumerate(places)}
    if isinstance(readout, FeatureReadout):
        return replace(readout, positions=(number[readout.positions[0] % length],))
    terms = tuple(term._replace(position=number[(term.position or 0) % length]) for term in readout.terms)
    return replace(readout, positions=(), terms=terms)


def _those(places: Sequence[int], piece: slice) -> list[int]:
    """Return which of some positions are in a piece."""
    return [number for number, place in enumerate(places) if piece.start <= place < piece.stop]


def _leaf(state: State) -> State:
    return replace(state, parts=tuple(part.detach().requires_grad_() for part in state.parts))


def _leaving(left: Sequence[State], flows: Sequence[Flows], piece: slice) -> list[tuple[Tensor, Tensor]]:
    """Return what left a piece, with the gradients at it that later pieces have found."""
    return [
        (part, flow[:, :, piece] if state.grows else flow)
        for state, found in zip(left, flows, strict=True)
        for part, flow in zip(state.parts, found, strict=False)
        if flow is not None
    ]


def _gradients(ends: Sequence[tuple[Tensor, Tensor]], leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients at the leaves, given those at some ends; None where nothing arrives."""
    ends = [(end, flow) for end, flow in ends if end.requires_grad and end.numel()]
    if not ends:
        return [None] * len(leaves)
    tensors, flows = zip(*ends, strict=True)
    return list(torch.autograd.grad(tensors, leaves, flows, allow_unused=True))


def _handed_on(
    flows: Sequence[Flows], entered: Sequence[State], found: Sequence[Tensor | None], length: int
) -> list[Flows]:
    """Return the gradients at what left the pieces before, given those at what entered this one, part by part."""
    handed: list[Flows] = []
    rest = iter(found)
    for flow, state in zip(flows, entered, strict=False):
        own = tuple(next(rest) for _ in state.parts)
        handed.append(tuple(_added(*pair, length) for pair in zip(flow, own, strict=True)) if state.grows else own)
    return handed


def _added(whole: Tensor | None, part: Tensor | None, length: int) -> Tensor | None:
    """Return a gradient at all tokens with another one, at the first of them, added in place."""
    if part is None:
        return whole
    whole = part.new_zeros(*part.shape[:2], length, *part.shape[3:]) if whole is None else whole
    whole[:, :, : part.shape[2]] += part
    return whole
