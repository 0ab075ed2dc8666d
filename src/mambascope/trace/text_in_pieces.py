"""A long text that runs piece by piece, in memory that hardly grows with its length.

A forward pass over one piece after the other keeps what enters each at the calls that mix tokens
(`mambascope.trace.continued`): states of fixed size, and of softmax attention keys and values. Backward passes
(`mambascope.trace.pieces`) and a position that runs alone (`mambascope.trace.long_position`) go on from there.

Whether a model can be run so is tried, not assumed: the first tokens, in short pieces, must give what they give as a
whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families import AttentionFamily, Family, find_mixers
from mambascope.memory import available_bytes
from mambascope.progress import within
from mambascope.trace.continued import Continued, Kept
from mambascope.trace.elementary import Elementary
from mambascope.trace.footprint import Mixers, bytes_of_pass, heads_of
from mambascope.trace.function_rules import RULES
from mambascope.trace.mixing import Answer, mixing
from mambascope.trace.propagation_rules import RuleInterceptor
from mambascope.trace.rules import GRADIENT
from mambascope.trace.running import call
from mambascope.trace.scanning import intact, relative_error, scan_points
from mambascope.trace.single_position import hooked
from mambascope.trust import TOLERANCE

#: Tokens of a piece, and of a text from which on backward passes run in pieces; below, a whole one is a third faster.
PIECE, LONG = 512, 4096

#: Scores of one attention layer that a piece may have, in fewer tokens if need be, and the fewest tokens of a piece.
SCORES, SHORTEST = 1 << 24, 64

#: Tokens of the pieces that a model is tried with.
TRIED = 16

#: What a model may be called with.
READ = ("input_ids", "inputs_embeds")


@dataclass(frozen=True, eq=False)
class LongText:
    """A text that runs piece by piece.

    Attributes:
        own: A private copy of the model, with attention in its eager form.
        mixers: Its mixers.
        inputs: What it reads: token ids or embeddings.
        size: Tokens of a piece.
    """

    own: nn.Module
    mixers: Mixers
    inputs: dict[str, Tensor]
    size: int

    __repr__ = brief

    @property
    def given(self) -> Tensor:
        """The token ids or embeddings."""
        return next(iter(self.inputs.values()))

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.given.shape[1]

    @property
    def pieces(self) -> list[slice]:
        """The pieces, in order."""
        return [slice(start, min(start + self.size, self.length)) for start in range(0, self.length, self.size)]

    def until(self, stop: int) -> LongText:
        """Return the first tokens alone."""
        return replace(self, inputs={name: value[:, :stop] for name, value in self.inputs.items()})

    def tried(self) -> Kept | None:
        """Return what short pieces of the first tokens leave; None if they give something else than as a whole."""
        short = replace(self.until(3 * TRIED), size=TRIED)
        scans = scan_points(family for _, _, family in self.mixers)
        try:
            with mixing(self.own, lambda point, _, *asked: intact(scans, point, *asked)):
                expected = call(self.own, short.read(slice(0, short.length))).logits
            kept, found = short.forward(range(short.length))
        except Exception:  # whatever keeps the model's own code from running on a piece
            return None
        allowed = TOLERANCE.get(expected.dtype, TOLERANCE[torch.float32])
        return kept if relative_error(found, expected) <= allowed else None

    def read(self, piece: slice, places: Sequence[int] | None = None) -> dict[str, Any]:
        """Return what the model is called with for a piece.

        Args:
            piece: Its tokens.
            places: The positions, counted within the piece, whose logits are wanted; None for all.
        """
        inputs: dict[str, Any] = {name: value[:, piece] for name, value in self.inputs.items()}
        first, takes = self.given, inspect.signature(self.own.forward).parameters
        if "position_ids" in takes:
            inputs["position_ids"] = torch.arange(piece.start, piece.stop, device=first.device).expand(len(first), -1)
        if places is not None and "logits_to_keep" in takes:
            inputs["logits_to_keep"] = torch.tensor(places or [0], device=first.device)
        return inputs

    def logits(self, given: dict[str, Any], places: Sequence[int]) -> Float[Tensor, "b n v"]:
        """Return the model's logits at positions within the piece that it is called with."""
        logits = call(self.own, given).logits
        return logits[:, : len(places)] if "logits_to_keep" in given else logits[:, places]

    def forward(self, places: Sequence[int], later: int = 0) -> tuple[Kept, Float[Tensor, "b n v"]]:
        """Return what every piece leaves, and the logits at some positions, which ascend.

        Args:
            places: The positions.
            later: How often as much time what comes after it takes, for the bar that shows progress.

        Raises:
            Apart: if the model's calls are not those that the families describe.
        """
        kept, logits = Kept(self.length), []
        for number, piece in enumerate(self.pieces):
            states, here = Continued(kept.entering(number, piece.start)), inside(places, piece)
            with mixing(self.own, answering(self.mixers, states)):
                logits.append(self.logits(self.read(piece, here), here))
            kept.add(piece, states.leaving)
            within(number + 1, (1 + later) * len(self.pieces))
        return kept, torch.cat(logits, dim=1)


def long_text(own: nn.Module, inputs: dict[str, Any], *, backward: bool) -> LongText | None:
    """Return a text that may run in pieces; None for other inputs, short texts, and models with hooks of the caller's.

    A hook may read or change tokens that are not in its piece.

    Args:
        own: A private copy of a model, with attention in its eager form.
        inputs: What it is called with.
        backward: Whether it is for a backward pass, for which a text of up to `LONG` tokens is short if it fits in
            memory as a whole; otherwise one of a single piece is.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    plain = len(given) == 1 and next(iter(given)) in READ and isinstance(own, transformers.PreTrainedModel)
    if not plain or hooked(own):
        return None
    mixers, (read,) = find_mixers(own), given.values()
    fits = backward and bytes_of_pass(own, mixers, given, backward=True) <= available_bytes(read.device)
    if read.shape[1] <= (LONG if fits else PIECE):
        return None
    return LongText(own, mixers, given, tokens_of_piece(mixers, read))


def tokens_of_piece(mixers: Mixers, read: Tensor) -> int:
    """Return how many tokens a piece of some texts may have."""
    pairs = len(read) * most_heads(mixers) * read.shape[1]
    return min(PIECE, max(SHORTEST, SCORES // max(1, pairs)))


def most_heads(mixers: Mixers) -> int:
    """Return the number of heads of the softmax attention layer that has most; 0 if there is none."""
    return max((heads_of(mixer) for _, mixer, family in mixers if isinstance(family, AttentionFamily)), default=0)


def answering(mixers: Mixers, states: Continued) -> Answer:
    """Return what answers the calls of a forward pass over a piece; see `mixing`."""
    points = {
        point: reader for _, _, one in mixers if isinstance(one, Family) for point, reader in one.patch_points.items()
    }
    answers = RuleInterceptor(Elementary(GRADIENT, None, RULES), points, states)
    return lambda point, _, *asked: answers.called(point, *asked)


def inside(places: Sequence[int], piece: slice) -> list[int]:
    """Return those of some positions that are in a piece, counted from its first token."""
    return [place - piece.start for place in places if piece.start <= place < piece.stop]
