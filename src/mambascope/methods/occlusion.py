"""Occlusion (Zeiler & Fergus 2014, arXiv 1311.2901, section 4.2, here for tokens): the text read without one token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn

from mambascope.errors import InputError, MambascopeError
from mambascope.inputs.tokens import check_ids
from mambascope.methods.ablation import (
    Effect,
    batches,
    batches_going_on,
    chosen,
    copies,
    measure,
    padding_of,
    require_one_text,
    room,
)
from mambascope.methods.checked import checked
from mambascope.methods.method import AnyReadout, Method, MethodResult, at_positions, number_of
from mambascope.methods.targets import looks_ahead, positions
from mambascope.numbering import shown
from mambascope.readouts import Readout, read_at
from mambascope.trace import Trace, check_whole
from mambascope.trace.embedding import embedded, mean_embedding, reading, token_table
from mambascope.trace.intervene import intervening
from mambascope.trace.later_tokens import TRIED, later_tokens
from mambascope.trace.mixing import Apart
from mambascope.trace.pieces import renumbered
from mambascope.trace.running import call, in_texts, running


@checked
def occlusion(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    replacement: str | int = "zero",
    sources: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Effect:
    """Return how far a readout falls when one token of the text is occluded, for every token.

    Works for any transformers model that reads tokens, including Transformers.

    In a causal model nothing before the occluded token changes, so that only the tokens from there to the last position
    that the readout reads run again, from what the tokens before have left; together that is about half of the whole
    texts, and less where sources are few or late. `Effect.continued` says how far such a run with nothing occluded is
    from the text's own. Whole texts run where that cannot be done, which is tried first: with `delete`, padding, texts
    packed into one row, hooks of the caller's, compiled scans, and mixers that cannot start from a state; and where it
    would take longer, as in long texts with much softmax attention. Scores are the same within rounding.

    Args:
        trace: A capture of one text.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        replacement: What replaces a token: `zero`, a vector of zeros; `mean`, the mean of all embeddings; a token id;
            or `delete`, nothing, so that the text becomes shorter. A position's outputs are then read where its token
            has moved to, and those of the deleted token at the token before it; the score is NaN if there is none.
        sources: The tokens to occlude, one at a time; negative numbers count back from the text's own last token. None
            for all; others score NaN.
        batch: Copies of the text per batch; by default as many as fit in memory and make no more than 2048 tokens
            (32768 on other devices than the CPU).
        progress: Called with (tokens done, tokens in all) after each batch.

    Raises:
        InputError: if the trace is not of one text, or the replacement or the readout cannot be used.
    """
    return _effects(trace, [readout], replacement, sources, batch, progress)[0]


def _effects(
    trace: Trace,
    readouts: Sequence[Any],
    replacement: str | int = "zero",
    sources: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Effect]:
    """Return what `occlusion` does for several readouts, from the same passes."""
    inputs = dict(trace.inputs)
    require_one_text(inputs)
    numbers = [in_texts(readout, inputs) for readout in readouts]
    with running(trace.model) as own:
        text = embedded(own, inputs)
        length = text.shape[1]
        occluded, most = _occluding(own, replacement, inputs, length), room(own, length)
        causal, places = _causal(trace, length), _places(trace, readouts, length)
        reach = places[-1] + 1 if causal and places else length
        asked = chosen(sources, trace.attention_mask if length == trace.shape[1] else None, length)
        measured = partial(
            measure, length=length, reach=reach, sources=asked, padding=padding_of(inputs), progress=progress
        )
        if causal and replacement != "delete":
            within = [source for source in sorted(set(range(length) if asked is None else asked)) if source < reach]
            ranges = list(batches_going_on(within, reach, batch, most))
            ran = TRIED + reach + sum((stop - start) * (reach - within[start]) for start, stop in ranges)
            if ran < len(within) * length:
                effects = _going_on(
                    trace, readouts, replacement, places, reach, partial(measured, split=lambda _: ranges)
                )
                if effects is not None:
                    return effects

        def without(sources: Tensor) -> Any:
            with intervening(own, None):
                return occluded(inputs, sources.to(text.device))

        return measured(numbers, trace.outputs, without, split=lambda asked: batches(len(asked), length, batch, most))


def _going_on(
    trace: Trace,
    readouts: Sequence[Any],
    replacement: str | int,
    places: tuple[int, ...] | None,
    stop: int,
    measured: Callable[..., list[Effect]],
) -> list[Effect] | None:
    """Return the effects measured where only the tokens from the sources on run; None if the whole text must.

    Args:
        trace: The capture.
        readouts: The readouts.
        replacement: What replaces a token.
        places: The positions that they read, ascending; None if they may read any.
        stop: How many tokens they may depend on.
        measured: `measure`, with its other arguments.
    """
    inputs, length = dict(trace.inputs), trace.shape[1]
    with running(trace.model, eager=True) as own:
        later = later_tokens(own, inputs, trace.outputs, stop, places)
        if later is None:
            return None
        occluded = _occluding(own, replacement, inputs, length)

        def without(sources: Tensor) -> Any:
            later.go_to(int(sources[0]))
            with later.copies(len(sources)) as given:
                device = next(iter(later.inputs.values())).device
                return later.read(occluded(given, sources.to(device) - later.start))

        try:
            of_rows = readouts if places is None else [renumbered(readout, places, length) for readout in readouts]
            effects = measured(of_rows, later.intact, without)
            later.go_to(stop)
        except (Apart, MambascopeError):  # whole texts raise it again if it is not for a piece of the text
            return None
        return [replace(effect, outputs=trace.outputs, continued=later.error) for effect in effects]


def _causal(trace: Trace, length: int) -> bool:
    """Return whether no position depends on later ones, and each is one of the tokens that are embedded."""
    return length == trace.shape[1] and not any(looks_ahead(trace, layer) for layer in range(len(trace.layers)))


def _places(trace: Trace, readouts: Sequence[Any], length: int) -> tuple[int, ...] | None:
    """Return the positions that readouts read, ascending; None if that is not known, or they are no tokens."""
    read = [places for readout in readouts if (places := read_at(readout))]
    if length != trace.shape[1] or len(read) < len(readouts):
        return None
    return tuple(sorted({place for places in read for place in positions(trace, places)[0].tolist()}))


def _seen(trace: Trace, readout: Any, length: int) -> int:
    """Return how many of the embedded tokens, from the first on, a readout may depend on."""
    places = _places(trace, [readout], length)
    return places[-1] + 1 if places and _causal(trace, length) else length


def _occluding(
    model: nn.Module, replacement: str | int, inputs: dict[str, Any], length: int
) -> Callable[[dict[str, Any], Int[Tensor, " b"]], Any]:
    """Return the function that gives a model's outputs for copies of a text, each without the token at a place."""
    if isinstance(replacement, int) and not isinstance(replacement, bool):
        if inputs.get("input_ids") is None:
            raise InputError("a token id can only replace a token id; pass input_ids, or occlude with 'zero'")
        check_ids([replacement], token_table(model).num_embeddings)
        return partial(_with_id, model, replacement)
    if replacement == "delete":
        if length == 1:
            raise InputError("a text of one token is empty without it; occlude with 'zero'")
        places = inputs.get("position_ids")
        if places is not None and inputs.get("attention_mask") is None:
            if (places.diff(dim=-1) != 1).any():
                raise InputError("a token of texts packed into one row cannot be deleted; occlude with 'zero'")
            # without a mask, transformers takes a gap in the positions for the end of a text
            given = inputs | {"attention_mask": torch.ones_like(places).expand(1, -1)}
            return lambda _, places: _deleted(model, given, places)
        return partial(_deleted, model)
    if replacement == "zero":
        return partial(_with_vector, model, None)
    if replacement == "mean":
        return partial(_with_vector, model, mean_embedding(model))
    raise InputError(f"unknown replacement {shown(replacement)}; choose 'zero', 'mean', 'delete' or a token id")


def _with_vector(
    model: nn.Module, vector: Float[Tensor, " E"] | None, inputs: dict[str, Any], places: Int[Tensor, " b"]
) -> Any:
    def put(embeddings: Tensor) -> Tensor:
        changed = embeddings.clone()
        changed[torch.arange(len(places)), places] = 0 if vector is None else vector.to(changed.dtype)
        return changed

    with reading(model, copies(inputs, len(places)), put) as given:
        return call(model, given)


def _with_id(model: nn.Module, token: int, inputs: dict[str, Any], places: Int[Tensor, " b"]) -> Any:
    batch = copies(inputs, len(places))
    batch["input_ids"] = batch["input_ids"].scatter(1, places[:, None], token)
    return call(model, batch)


def _deleted(model: nn.Module, inputs: dict[str, Any], places: Int[Tensor, " b"]) -> Any:
    """Remove the token from every input with one entry per token, including positions if the caller passed them."""
    batch = copies(inputs, len(places))
    text = batch["inputs_embeds"] if batch.get("input_ids") is None else batch["input_ids"]
    rest = torch.arange(text.shape[1] - 1, device=places.device)
    kept = rest + (rest >= places[:, None])
    rows = torch.arange(len(places), device=places.device)[:, None]
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.shape[:2] == text.shape[:2]:
            batch[name] = value[rows, kept]
    outputs = call(model, batch)
    if isinstance(outputs, Tensor):
        return _moved_back(outputs, places, kept.shape)
    if isinstance(outputs, transformers.utils.ModelOutput):
        tensors = {name: value for name, value in outputs.items() if isinstance(value, Tensor)}
        return type(outputs)(**{name: _moved_back(value, places, kept.shape) for name, value in tensors.items()})
    raise InputError(f"outputs of class {type(outputs).__name__} cannot be read after a deletion; occlude with 'zero'")


def _moved_back(output: Tensor, places: Int[Tensor, " b"], text: torch.Size) -> Tensor:
    """Return an output with one entry per token, aligned with the whole text; other outputs are unchanged."""
    if output.ndim < 3 or output.shape[:2] != text:
        return output
    positions = torch.arange(text[1] + 1, device=places.device)
    moved = positions - (positions >= places[:, None]).long()
    aligned = output[torch.arange(len(places), device=places.device)[:, None], moved.clamp(min=0)]
    aligned[moved < 0] = torch.nan
    return aligned


def _scored(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    effect = occlusion(trace, number_of(readout))
    return _result(trace, effect.scores, effect)


def _scored_many(trace: Trace, readouts: Sequence[Readout]) -> list[MethodResult]:
    """Read all readouts from the same passes: the intact one, then those without a token."""
    check_whole(trace, "occlusion")
    found = []
    for readout, effect in zip(readouts, _effects(trace, readouts), strict=True):
        scores = effect.scores.clone()
        scores[_seen(trace, readout, len(scores)) :] = 0
        found.append(_result(trace, scores, effect))
    return found


def _result(trace: Trace, scores: Float[Tensor, " L"], effect: Effect) -> MethodResult:
    ran = {} if effect.continued is None else {"continued_error": effect.continued}
    return MethodResult(at_positions(trace, scores[None]), {"value": effect.value, **ran})


METHODS = [
    Method(
        "occlusion",
        "drop of the logit when one token's embedding is replaced by zero",
        "Zeiler & Fergus 2014, arXiv 1311.2901",
        signed=True,
        needs="interventions",
        cost="quadratic",
        growth=1.0,
        score=_scored,
        score_many=_scored_many,
        asks=True,
        by_place=False,
        reaches_embeddings=True,
    ),
]
