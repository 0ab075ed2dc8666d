"""One position of a long text that runs alone, from the states that the tokens before it leave, piece by piece.

Of a short text all coefficients are kept (`mambascope.trace.single_position`). Of a long one, what earlier tokens leave
at each call is enough (`mambascope.trace.continued`), and beside it what each run of sources that will be cut has given
to the states of scans. With a_k the decay at token k, that is, for sources S,

    g_k = a_k g_{k-1} + [k in S] write_k s_k

so that a copy of the position which loses them goes on from the state less g. Memory grows with the number of such runs
and not with the text, of which only keys and values of softmax attention are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families import Family, ScanCall
from mambascope.families.patch_points import PatchPoint
from mambascope.memory import require_bytes
from mambascope.operators.token_mixer import Fading
from mambascope.progress import within
from mambascope.trace.continued import Continued, Kept, State
from mambascope.trace.earlier_tokens import (
    Earlier,
    EarlierAttention,
    EarlierConvolution,
    EarlierStates,
    attended,
    bound_to,
    own_of,
)
from mambascope.trace.footprint import bytes_of_pass
from mambascope.trace.mixing import Answer, Apart, mixing
from mambascope.trace.scanning import read_call, scan_points
from mambascope.trace.single_position import SinglePosition, can_be_tried, tried
from mambascope.trace.text_in_pieces import LongText, answering, long_text

#: Runs of sources up to which a long text runs in pieces, since each has a state of its own at every scan.
MOST = 256


def long_position(
    own: nn.Module,
    inputs: dict[str, Any],
    outputs: Any,
    place: int,
    length: int,
    mixers: Collection[str],
    spans: Sequence[range],
) -> SinglePosition | None:
    """Return one position of a long text, ready to run without some runs of sources; None if it must run otherwise.

    It must if the text is short, more than `MOST` runs are asked for, or the model cannot run in pieces, which is tried
    on the first tokens. Other arguments are as in `single_position`.

    Args:
        own: A private copy of the model, with attention in its eager form.
        inputs: What the model was called with, of one text.
        outputs: What it returned.
        place: The position.
        length: Number of tokens of the text.
        mixers: Names of the mixers in which sources are to be cut.
        spans: The runs of sources, each of which will be cut as a whole.

    Raises:
        MapTooLargeError: if the states would not fit in memory.
    """
    text = long_text(own, inputs, backward=False) if place and len(spans) <= MOST else None
    if text is None or not can_be_tried(own, inputs, outputs, length):
        return None
    before = text.until(place)
    short = before.tried()
    if short is None:
        return None
    require_bytes(
        bytes_with_states(before, short, len(spans)),
        before.given.device,
        f"a pass over {before.length} tokens, with states for {len(spans)} runs of sources,",
        "cut fewer of them at a time, or shorten the text",
    )
    try:
        earlier = _earlier(text, before, mixers, spans)
    except Apart:
        return None
    return tried(SinglePosition(own, inputs, place, length, mixers, earlier), outputs)


def _earlier(
    text: LongText, before: LongText, mixers: Collection[str], spans: Sequence[range]
) -> tuple[tuple[PatchPoint, str, Earlier], ...]:
    """Return what a position reads of the tokens before it, call by call.

    Args:
        text: The text.
        before: Its tokens before the position.
        mixers: Names of the mixers in which sources are to be cut.
        spans: The runs of sources.
    """
    scans = scan_points(family for _, _, family in text.mixers)
    kept, given, pieces = Kept(before.length), Given(tuple(spans)), before.pieces
    for number, piece in enumerate(pieces):
        states = Continued(kept.entering(number, piece.start))
        with mixing(text.own, given.noting(piece, states, answering(text.mixers, states), scans, mixers)):
            text.logits(text.read(piece, []), [])
        kept.add(piece, states.leaving)
        if number:
            kept.left[number - 1] = []  # nothing reads it again
        within(number + 1, len(pieces) + 1)
    entering = kept.entering(len(pieces), before.length)
    return _at_position(text, before.length, entering, given)


def _at_position(
    text: LongText, place: int, entering: Sequence[State], given: Given
) -> tuple[tuple[PatchPoint, str, Earlier], ...]:
    """Return what a position reads, given what enters at each of its calls."""
    scans = scan_points(family for _, _, family in text.mixers)
    convolutions = {family.conv_point for family in scans.values()}
    states = Continued(entering)
    answer, found = answering(text.mixers, states), list[tuple[PatchPoint, str, Earlier]]()

    def record(
        point: PatchPoint, mixer: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        number = len(states.leaving)
        output = answer(point, mixer, original, args, kwargs)
        if number == len(states.leaving):
            return output
        parts = entering[number].parts
        if point in scans:
            call = read_call(scans[point], args, kwargs)
            seen: Earlier = EarlierStates(scans[point], parts[0], given.at(number), own_of(call))
        elif point in convolutions:
            values = next(iter(bound_to(original, args, kwargs).arguments.values()))
            seen = EarlierConvolution(parts[0], values.clone())
        else:
            query, key, value, _ = attended(bound_to(original, args, kwargs))
            seen = EarlierAttention(parts[0], parts[1], query.new_zeros(1, 1, place + 1), (query, key, value))
        found.append((point, mixer, seen))
        return output

    with mixing(text.own, record):
        text.logits(text.read(slice(place, place + 1), [0]), [0])
    return tuple(found)


@dataclass(eq=False)
class Given:
    """What runs of sources have given to the states of scans so far.

    Attributes:
        spans: The runs.
        states: By the number of the call, a state for each run.
    """

    spans: tuple[range, ...]
    states: dict[int, Tensor] = field(default_factory=dict)

    __repr__ = brief

    def noting(
        self,
        piece: slice,
        states: Continued,
        answer: Answer,
        scans: Mapping[PatchPoint, Family],
        mixers: Collection[str],
    ) -> Answer:
        """Return an answer to the calls of a piece that also notes what is given at the scans of some mixers."""

        def noted(point: PatchPoint, mixer: str, *asked: Any) -> Any:
            if point in scans and mixer in mixers:
                self.add(len(states.leaving), piece, scans[point], read_call(scans[point], *asked[1:]))
            return answer(point, mixer, *asked)

        return noted

    def add(self, number: int, piece: slice, family: Family, call: ScanCall) -> None:
        """Go on through a piece at a call."""
        working = torch.promote_types(call.s.dtype, torch.float32)

        def scan_of(tokens: slice) -> Fading:
            along = {name: one[:, tokens] if one.ndim > 2 else one for name, one in call.coefficients.items()}
            scan = family.scan(along, working)
            if not isinstance(scan, Fading):
                raise Apart(f"of the states of a {type(scan).__name__} it is not known what is left")
            return scan

        if number in self.states:
            self.states[number] = scan_of(slice(None)).left(self.states[number])
        for row, span in enumerate(self.spans):
            start, stop = max(span.start, piece.start) - piece.start, min(span.stop, piece.stop) - piece.start
            if start >= stop:
                continue
            own = scan_of(slice(start, stop)).forwards(call.s[:, start:stop].to(working))[1]
            if stop < piece.stop - piece.start:
                own = scan_of(slice(stop, None)).left(own)
            if number not in self.states:
                self.states[number] = own.new_zeros(len(self.spans), *own.shape[1:])
            self.states[number][row] += own[0]

    def at(self, number: int) -> dict[range, Float[Tensor, "*state"]]:
        """Return what each run has given at a call."""
        return dict(zip(self.spans, self.states[number], strict=True)) if number in self.states else {}


def bytes_with_states(text: LongText, kept: Kept, spans: int) -> int:
    """Return about how many bytes a pass over a text takes, with states for so many runs of sources.

    Args:
        text: The text.
        kept: What short pieces of it leave.
        spans: The number of runs.
    """
    fixed, grown = kept.sizes()
    piece = text.given.new_empty((1, text.size), dtype=torch.long, device="meta")
    numbers = (2 + spans) * fixed + text.length * grown
    return bytes_of_pass(text.own, text.mixers, {"input_ids": piece}) + 4 * numbers
