"""Backward passes over a long text piece by piece, in memory that hardly grows with its length.

A forward pass over one piece after the other keeps what enters each at the calls that mix tokens
(`mambascope.trace.continued`): states of fixed size, and of softmax attention keys and values. Then the pieces run
again from the last to the first, each with its own backward pass, which begins with the readout and with the gradients
at what left the piece, and ends at its tokens and at what entered it. The result is that of one pass over the whole
text, up to rounding, at the cost of one more forward pass.

Whether a model can be run so is tried, not assumed: the first tokens, in short pieces, must give what they give as a
whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families import AttentionFamily, Family, MixerFamily, find_mixers
from mambascope.inputs.checks import check_inputs
from mambascope.memory import available_bytes, require_bytes
from mambascope.progress import within
from mambascope.readouts import FeatureReadout, Readout, first_order, read, read_at
from mambascope.trace.biases import BiasLedger
from mambascope.trace.continued import Continued, Kept, State
from mambascope.trace.differentiate import Gradients, depends, differentiable, leaf_at_tokens
from mambascope.trace.elementary import Elementary
from mambascope.trace.footprint import bytes_of_pass, heads_of
from mambascope.trace.function_rules import RULES
from mambascope.trace.mixing import mixing
from mambascope.trace.propagation_rules import RuleInterceptor
from mambascope.trace.rules import GRADIENT, PropagationRules
from mambascope.trace.running import call, running
from mambascope.trace.scanning import intact, relative_error, scan_points
from mambascope.trace.single_position import hooked
from mambascope.trust import TOLERANCE

#: Tokens of a piece, and of a text from which on it runs in pieces; below, a whole pass is a third faster.
PIECE, LONG = 512, 4096

#: Scores of one attention layer that a piece may have, in fewer tokens if need be, and the fewest tokens of a piece.
SCORES, SHORTEST = 1 << 24, 64

#: Tokens of the pieces that a model is tried with.
TRIED = 16

#: Copies of a piece's attention scores that a backward pass holds, and what it costs in forward passes.
SCORES_HELD, BACKWARD = 6, 3

#: What a model may be called with.
READ = ("input_ids", "inputs_embeds")

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
        text, places = _long_text(own, inputs), read_at(readout) if isinstance(readout, Readout) else None
        if text is None or not places or not all(-text.length <= place < text.length for place in places):
            return None
        whole, places = text.length, tuple(sorted({place % text.length for place in places}))
        text = text.until(places[-1] + 1)
        if not text.agrees():
            return None
        kept, rows = text.forward(places)
        of_rows = renumbered(readout, places, whole)
        with torch.enable_grad():
            value = depends(read(of_rows, rows.requires_grad_()))
            (at_rows,) = torch.autograd.grad(value.sum(), rows)
        ledger = BiasLedger(own, len(rows))
        tokens, at_tokens = text.backward(kept, places, at_rows, rules, ledger)
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


@dataclass(frozen=True, eq=False)
class _LongText:
    """A text that runs piece by piece.

    Attributes:
        own: A private copy of the model, with attention in its eager form.
        mixers: Its mixers.
        inputs: What it reads: token ids or embeddings.
        size: Tokens of a piece.
    """

    own: nn.Module
    mixers: Sequence[tuple[str, nn.Module, MixerFamily]]
    inputs: dict[str, Tensor]
    size: int

    __repr__ = brief

    @property
    def length(self) -> int:
        """Number of tokens."""
        return next(iter(self.inputs.values())).shape[1]

    @property
    def pieces(self) -> list[slice]:
        """The pieces, in order."""
        return [slice(start, min(start + self.size, self.length)) for start in range(0, self.length, self.size)]

    def until(self, stop: int) -> _LongText:
        """Return the first tokens alone."""
        return replace(self, inputs={name: value[:, :stop] for name, value in self.inputs.items()})

    def agrees(self) -> bool:
        """Return whether the first tokens give in pieces what they give as a whole.

        Raises:
            MapTooLargeError: if the text would not fit in memory, even in pieces.
        """
        short = replace(self.until(3 * TRIED), size=TRIED)
        scans = scan_points(family for _, _, family in self.mixers)
        try:
            with mixing(self.own, lambda point, _, *asked: intact(scans, point, *asked)):
                expected = call(self.own, short.read(slice(0, short.length))).logits
            kept, found = short.forward(range(short.length))
        except Exception:  # whatever keeps the model's own code from running on a piece
            return False
        self.require_memory(kept)
        return relative_error(found, expected) <= TOLERANCE.get(expected.dtype, TOLERANCE[torch.float32])

    def require_memory(self, kept: Kept) -> None:
        """Raise MapTooLargeError if the text would not fit in memory, given what pieces leave."""
        read = next(iter(self.inputs.values()))
        piece = read.new_empty((len(read), self.size), dtype=torch.long, device="meta")
        fixed, grown = kept.sizes()
        heads = _most_heads(self.mixers)
        width = next(self.own.parameters()).shape[-1]
        numbers = len(self.pieces) * fixed + self.length * (2 * grown + 2 * len(read) * width)
        numbers += SCORES_HELD * len(read) * heads * self.size * self.length
        require_bytes(
            bytes_of_pass(self.own, self.mixers, {"input_ids": piece}, backward=True) + 4 * numbers,
            read.device,
            f"a pass over {len(read)} x {self.length} tokens, {self.size} at a time,",
            "shorten the text, or pass fewer texts at a time",
        )

    def read(self, piece: slice, places: Sequence[int] | None = None) -> dict[str, Any]:
        """Return what the model is called with for a piece.

        Args:
            piece: Its tokens.
            places: The positions, counted within the piece, whose logits are wanted; None for all.
        """
        inputs: dict[str, Any] = {name: value[:, piece] for name, value in self.inputs.items()}
        first, takes = next(iter(inputs.values())), inspect.signature(self.own.forward).parameters
        if "position_ids" in takes:
            inputs["position_ids"] = torch.arange(piece.start, piece.stop, device=first.device).expand(len(first), -1)
        if places is not None and "logits_to_keep" in takes:
            inputs["logits_to_keep"] = torch.tensor(places or [0], device=first.device)
        return inputs

    def logits(self, given: dict[str, Any], places: Sequence[int]) -> Float[Tensor, "b n v"]:
        """Return the model's logits at positions within the piece that it is called with."""
        logits = call(self.own, given).logits
        return logits[:, : len(places)] if "logits_to_keep" in given else logits[:, places]

    def forward(self, places: Sequence[int]) -> tuple[Kept, Float[Tensor, "b n v"]]:
        """Return what every piece leaves, and the logits at some positions, which ascend.

        Raises:
            Apart: if the model's calls are not those that the families describe.
        """
        kept, logits = Kept(self.length), []
        for number, piece in enumerate(self.pieces):
            states, here = Continued(kept.entering(number, piece.start)), _inside(places, piece)
            with mixing(self.own, answering(self.mixers, states)):
                logits.append(self.logits(self.read(piece, here), here))
            kept.add(piece, states.leaving)
            within(number + 1, (1 + BACKWARD) * len(self.pieces))
        return kept, torch.cat(logits, dim=1)

    def backward(
        self,
        kept: Kept,
        places: Sequence[int],
        at_logits: Float[Tensor, "b n v"],
        rules: PropagationRules,
        ledger: BiasLedger,
    ) -> tuple[Float[Tensor, "b L E"], Float[Tensor, "b L E"]]:
        """Return the embedded tokens and the gradient at them, given that at the logits at some positions."""
        flows: list[Flows] = [(None,) * len(whole) for whole in kept.grown]
        found: list[tuple[Tensor, Tensor]] = []
        steps = (1 + BACKWARD) * len(self.pieces)
        for number, piece in reversed(list(enumerate(self.pieces))):
            here, leaves = _inside(places, piece), list[Tensor]()
            states = Continued([_leaf(state) for state in kept.entering(number, piece.start)])
            kept.left[number] = []  # nothing reads it again
            with ExitStack() as stack:
                stack.enter_context(differentiable(self.own, rules, ledger, states=states))
                given = stack.enter_context(leaf_at_tokens(self.own, self.read(piece, here), leaves))
                logits = self.logits(given, here)
            ends = [(logits, at_logits[:, _those(places, piece)]), *_leaving(states.leaving, flows, piece)]
            entered = [part for state in states.entering for part in state.parts]
            at_token, *at_states = _gradients(ends, [*leaves, *entered])
            found.append((leaves[0].detach(), torch.zeros_like(leaves[0]) if at_token is None else at_token))
            flows = _handed_on(flows, states.entering, at_states, self.length)
            within(steps - BACKWARD * number, steps)
        tokens, at_tokens = zip(*found[::-1], strict=True)
        return torch.cat(tokens, dim=1), torch.cat(at_tokens, dim=1)


def _long_text(own: nn.Module, inputs: dict[str, Any]) -> _LongText | None:
    """Return a text that may run in pieces; None for other inputs, short texts, and models with hooks of the caller's.

    A hook may read or change tokens that are not in its piece.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    plain = len(given) == 1 and next(iter(given)) in READ and isinstance(own, transformers.PreTrainedModel)
    if not plain or hooked(own):
        return None
    mixers, (read,) = find_mixers(own), given.values()
    fits = bytes_of_pass(own, mixers, given, backward=True) <= available_bytes(read.device)
    if read.shape[1] <= (LONG if fits else PIECE):
        return None
    pairs = len(read) * _most_heads(mixers) * read.shape[1]
    return _LongText(own, mixers, given, min(PIECE, max(SHORTEST, SCORES // max(1, pairs))))


def _most_heads(mixers: Sequence[tuple[str, nn.Module, MixerFamily]]) -> int:
    """Return the number of heads of the softmax attention layer that has most; 0 if there is none."""
    return max((heads_of(mixer) for _, mixer, family in mixers if isinstance(family, AttentionFamily)), default=0)


def answering(mixers: Sequence[tuple[str, nn.Module, MixerFamily]], states: Continued) -> Callable[..., Any]:
    """Return what answers the calls of a forward pass over a piece; see `mixing`."""
    points = {
        point: reader for _, _, one in mixers if isinstance(one, Family) for point, reader in one.patch_points.items()
    }
    answers = RuleInterceptor(Elementary(GRADIENT, None, RULES), points, states)
    return lambda point, _, *asked: answers.called(point, *asked)


def renumbered(readout: Readout | FeatureReadout, places: Sequence[int], length: int) -> Readout | FeatureReadout:
    """Return a readout of the outputs at some positions alone, given these, which ascend."""
    number = {place: row for row, place in enumerate(places)}
    if isinstance(readout, FeatureReadout):
        return replace(readout, positions=(number[readout.positions[0] % length],))
    terms = tuple(term._replace(position=number[(term.position or 0) % length]) for term in readout.terms)
    return replace(readout, positions=(), terms=terms)


def _inside(places: Sequence[int], piece: slice) -> list[int]:
    """Return those of some positions that are in a piece, counted from its first token."""
    return [place - piece.start for place in places if piece.start <= place < piece.stop]


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
