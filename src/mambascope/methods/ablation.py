"""Ablation: run copies of one text, each without one source, and measure how far a readout falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.numbering import shown, whole_numbers
from mambascope.positions import positions_in
from mambascope.readouts import read

#: Tokens in one batch of copies, unless the caller gives a number of copies: with a vocabulary of 50,000, the logits
#: then take 400 MiB, and larger batches are no faster on a CPU.
BATCH_TOKENS = 2048


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
    """

    scores: Float[Tensor, " L"]
    value: float
    outputs: Any
    alone: float | None = None

    __repr__ = brief


def measure(
    readout: Callable[[Any], Float[Tensor, " b"]],
    outputs: Any,
    without: Callable[[Int[Tensor, " n"]], Any],
    *,
    length: int,
    reach: int,
    sources: Sequence[int] | None,
    padding: Bool[Tensor, " L"] | None,
    batch: int | None,
    progress: Callable[[int, int], None] | None,
) -> Effect:
    """Return the effect of each source, measured in batches; zero for sources out of reach and for padding.

    Args:
        readout: Given a model's outputs, returns one number per text.
        outputs: What the intact model returned.
        without: Given sources in ascending order, returns the model's outputs for copies of the text, each without one.
        length: Number of tokens of the text.
        reach: How many sources, from the first on, the readout may depend on.
        sources: The sources asked for, from 0; None for all.
        padding: True at padding, which is no source; None if there is none.
        batch: Copies per batch; by default as many as make `BATCH_TOKENS` tokens.
        progress: Called with (sources done, sources in all) after each batch.

    Raises:
        InputError: if the readout does not return one number per text, or the batch is empty.
    """
    intact = read(readout, outputs).detach()
    asked = torch.arange(length) if sources is None else torch.tensor(sorted(set(sources)), dtype=torch.long)
    scores = intact.new_full((length,), torch.nan, dtype=torch.promote_types(intact.dtype, torch.float32))
    scores[asked] = 0
    asked = asked[asked < reach].to(scores.device)
    for start, stop in batches(len(asked), length, batch):
        left = read(readout, without(asked[start:stop]), gaps=True).detach()
        scores[asked[start:stop]] = intact.to(scores.dtype) - left.to(scores.dtype)
        if progress is not None:
            progress(stop, len(asked))
    return Effect(scores if padding is None else scores.masked_fill(padding, 0), float(intact), outputs)


def batches(sources: int, length: int, batch: int | None) -> Iterator[tuple[int, int]]:
    """Yield ranges of sources, `batch` at a time, or as many as make `BATCH_TOKENS` tokens.

    Raises:
        InputError: if the batch is empty.
    """
    size = max(1, BATCH_TOKENS // length) if batch is None else batch
    for start in range(0, sources, size):
        yield start, min(start + size, sources)


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
