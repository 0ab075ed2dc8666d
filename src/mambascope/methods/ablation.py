"""Ablation: run copies of one text, each without one source, and measure how far a readout falls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import find_mixers
from mambascope.memory import available_bytes
from mambascope.numbering import shown, whole_numbers
from mambascope.positions import positions_in
from mambascope.readouts import read
from mambascope.trace.footprint import bytes_of_pass

#: Tokens in one batch of copies, unless the caller gives a number of copies: on a CPU, where larger batches are no
#: faster, and on other devices; fewer where they would not fit in this share of the free memory.
BATCH_TOKENS, BATCH_TOKENS_ELSEWHERE, SHARE = 2048, 1 << 15, 0.5

#: Tokens that copies may run before the one that they change, in a batch that begins with an earlier source: about
#: what it costs to begin another batch.
IDLE_TOKENS = 128


@dataclass(frozen=True, eq=False)
class Effect:
    """The effect on a readout of removing each source.

    Attributes:
        scores: The readout of the intact model less the readout without source j: positive if j supports it. NaN for
            sources that nobody asked for. Where spans were removed, one score for each of them.
        value: The readout of the intact model.
        outputs: What the intact model returned.
        alone: For a knockout for which one position ran alone, how far its run with nothing cut is from the text's
            own, relative to it; None if the whole text ran for every source.
        continued: For an occlusion for which only the tokens from the source on ran, how far the text's run from place
            to place with nothing occluded is from its own, relative to it; None if the whole text ran for every source.
    """

    scores: Float[Tensor, " L"]
    value: float
    outputs: Any
    alone: float | None = None
    continued: float | None = None

    __repr__ = brief


def measure(
    readouts: Sequence[Callable[[Any], Float[Tensor, " b"]]],
    outputs: Any,
    without: Callable[[Int[Tensor, " n"]], Any],
    *,
    length: int,
    reach: int,
    sources: Sequence[int] | None,
    padding: Bool[Tensor, " L"] | None,
    split: Callable[[list[int]], Iterable[tuple[int, int]]],
    progress: Callable[[int, int], None] | None,
) -> list[Effect]:
    """Return the effect of each source on each readout, measured in batches; zero out of reach and for padding.

    Args:
        readouts: Given a model's outputs, each returns one number per text.
        outputs: What the intact model returned.
        without: Given sources in ascending order, returns the model's outputs for copies of the text, each without one.
        length: Number of tokens of the text.
        reach: How many sources, from the first on, the readouts may depend on.
        sources: The sources asked for, from 0; None for all.
        padding: True at padding, which is no source; None if there is none.
        split: Given the sources asked for that are in reach, ascending, returns the ranges of them that make a batch.
        progress: Called with (sources done, sources in all) after each batch.

    Raises:
        InputError: if a readout does not return one number per text.
    """
    intact = _read(readouts, outputs)
    asked = torch.arange(length) if sources is None else torch.tensor(sorted(set(sources)), dtype=torch.long)
    scores = intact.new_full((len(readouts), length), torch.nan)
    scores[:, asked] = 0
    asked = asked[asked < reach].to(scores.device)
    for start, stop in split(asked.tolist()):
        scores[:, asked[start:stop]] = intact - _read(readouts, without(asked[start:stop]), gaps=True)
        if progress is not None:
            progress(stop, len(asked))
    scores = scores if padding is None else scores.masked_fill(padding, 0)
    return [Effect(row, float(value), outputs) for row, value in zip(scores, intact, strict=True)]


def _read(readouts: Sequence[Any], outputs: Any, *, gaps: bool = False) -> Float[Tensor, "r b"]:
    """Return what readouts read, one row each, in at least single precision."""
    values = (read(readout, outputs, gaps=gaps).detach() for readout in readouts)
    return torch.stack([value.to(torch.promote_types(value.dtype, torch.float32)) for value in values])


class Room(NamedTuple):
    """How much may run in one batch.

    Attributes:
        tokens: Tokens, of all copies together.
        copies: Copies of the text.
    """

    tokens: int
    copies: int


ON_A_CPU = Room(BATCH_TOKENS, BATCH_TOKENS)


def room(own: nn.Module, length: int) -> Room:
    """Return how much may run in one batch of copies of a text of this length, as their device and its memory allow."""
    device = next((parameter.device for parameter in own.parameters()), torch.device("cpu"))
    tokens = BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS_ELSEWHERE
    try:
        mixers = find_mixers(own)
    except UnsupportedModelError:
        return Room(tokens, tokens)
    text = torch.empty(1, length, dtype=torch.long, device="meta")
    each = bytes_of_pass(own, mixers, {"input_ids": text}, keep="inputs")
    return Room(tokens, int(SHARE * available_bytes(device) / max(1, each)))


def batches(sources: int, length: int, batch: int | None, most: Room = ON_A_CPU) -> Iterator[tuple[int, int]]:
    """Yield ranges of sources, `batch` at a time, or as many as there is room for, at least one."""
    size = max(1, min(most.tokens // length, most.copies)) if batch is None else batch
    for start in range(0, sources, size):
        yield start, min(start + size, sources)


def batches_going_on(
    sources: Sequence[int], end: int, batch: int | None, most: Room = ON_A_CPU
) -> Iterator[tuple[int, int]]:
    """Yield ranges of sources, ascending, each of whose copies runs from the range's first source to an end.

    Args:
        sources: The sources.
        end: Number of tokens up to the end.
        batch: Copies per batch; by default as many as there is room for, unless together they would run too many tokens
            before the source of their copy.
        most: How much there is room for.
    """
    start = 0
    while start < len(sources):
        first, stop, idle = sources[start], start + 1, 0
        size = max(1, min(most.tokens // (end - first), most.copies)) if batch is None else batch
        while stop < min(start + size, len(sources)):
            idle += sources[stop] - first
            if batch is None and idle > IDLE_TOKENS:
                break
            stop += 1
        yield start, stop
        start = stop


def chosen(sources: Sequence[int] | None, mask: Tensor | None, length: int) -> list[int] | None:
    """Return the sources asked for, counted from 0, for a text with this mask; None for all.

    Raises:
        InputError: if one is not a position of the text, or padding.
    """
    return None if sources is None else positions_in(mask, (1, length), sources, "source")[0].tolist()


def spans_in(spans: Sequence[tuple[int, int]], mask: Tensor | None, length: int) -> list[range]:
    """Return spans, each from its first token up to, not including, its last, as runs of positions counted from 0.

    Raises:
        InputError: if there is none, or one is not a pair of positions of the text, in order.
    """
    if not isinstance(spans, Sequence) or isinstance(spans, str) or not spans:
        raise InputError(f"spans must be a list of pairs such as (12, 40), found {shown(spans)}")
    found = []
    for span in spans:
        if not isinstance(span, Sequence) or isinstance(span, str) or len(span) != 2:
            raise InputError(f"a span must be its first token and the one after its last, found {shown(span)}")
        start, stop = whole_numbers(span, "the end of a span")
        run = range(0)
        if stop:
            first, last = (positions_in(mask, (1, length), end, "token")[0].item() for end in (start, stop - 1))
            run = range(int(first), int(last) + 1)
        if not run:
            raise InputError(f"the span {start}:{stop} holds no tokens of a text of {length}")
        found.append(run)
    return found


def runs_of_each(runs: Sequence[range], length: int, device: torch.device) -> Bool[Tensor, "b L"]:
    """Return True at one run of sources per copy of the text."""
    places = torch.arange(length, device=device)
    return torch.stack([(places >= run.start) & (places < run.stop) for run in runs])


def padding_of(inputs: dict[str, Any]) -> Bool[Tensor, " L"] | None:
    """Return True at the padding of the one text that the inputs hold; None if there is no mask."""
    mask = inputs.get("attention_mask")
    return None if mask is None else ~mask[0].bool()


def copies(inputs: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the inputs of one text repeated as a batch."""
    return {name: value.expand(count, *value.shape[1:]) if _of_text(value) else value for name, value in inputs.items()}


def require_one_text(inputs: dict[str, Any]) -> None:
    """Raise InputError if the inputs hold several texts."""
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] != 1:
            raise InputError(
                f"an intervention takes one text at a time, found {value.shape[0]} in {name}; call it for each of them"
            )


def _of_text(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == 1
