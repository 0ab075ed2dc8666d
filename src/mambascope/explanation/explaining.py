"""From a model and a text to a result: capture, score, and say how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.errors import InputError
from mambascope.methods.attribution import Attribution, Model, Target
from mambascope.methods.memory import require_room
from mambascope.methods.registry import Method, find_method
from mambascope.trace import Trace, capture
from mambascope.trace.families import find_mixers
from mambascope.trace.tokens import decode_token, encode

Progress = Callable[[int, int], None] | None

#: How many next tokens a result names.
NEXT_TOKENS = 5


def explain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    text: str,
    *,
    method: str = "latim",
    layer: int | Literal["all"] = "all",
    position: int | None = None,
    targets: Literal["position", "all"] = "position",
    progress: Progress = None,
) -> Attribution:
    """Return which tokens of a text one position drew from, layer by layer.

    Args:
        model: A stock model of a supported family, as `load` returns it.
        tokenizer: Its tokenizer.
        text: What the model reads.
        method: Name of a method, see `METHODS`.
        layer: One layer's number (negative numbers count from the end), or all.
        position: The token to explain, from 0; negative numbers count from the end; by default the last. What the
            model predicts *after* this token is in `Attribution.target.next_tokens`.
        targets: Score this position only (time linear in the text's length), or every position (quadratic).
        progress: Called with (steps done, steps to do): one step per layer captured and per layer scored.

    Raises:
        InputError: if the text is empty, or the method, layer or position does not exist.
        UnsupportedModelError, ReconstructionError: as `capture` does.
        MapTooLargeError: if the map of all positions would not fit in memory.
    """
    return explain_methods(
        model, tokenizer, text, methods=[method], layer=layer, position=position, targets=targets, progress=progress
    )[0]


def explain_methods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    text: str,
    *,
    methods: Sequence[str],
    layer: int | Literal["all"] = "all",
    position: int | None = None,
    targets: Literal["position", "all"] = "position",
    progress: Progress = None,
) -> list[Attribution]:
    """Return one result per method, all from a single forward pass; arguments as in `explain`."""
    chosen = [find_method(name) for name in methods]
    ids, pieces = encode(tokenizer, text, vocab_size=model.get_input_embeddings().num_embeddings)
    place = _position(position, len(pieces))
    to_score = len(chosen) * (len(find_mixers(model)) if layer == "all" else 1)
    trace = capture(model, input_ids=ids.to(model.device), progress=_shifted(progress, 0, to_score))
    layers = list(range(len(trace.layers))) if layer == "all" else [trace.index(layer)]
    step = _counter(_shifted(progress, len(trace.layers), 0), to_score)
    results = []
    for one in chosen:
        started = time.perf_counter()
        scores = _scores(trace, one, layers, None if targets == "all" else place, step)
        errors = [trace.layers[number].reconstruction_error for number in layers]
        results.append(
            Attribution(
                scores=scores.float().cpu(),
                tokens=pieces,
                axes={
                    "layer": tuple(layers),
                    "target": tuple(range(len(pieces))) if targets == "all" else (place,),
                    "source": tuple(range(len(pieces))),
                },
                method=one.name,
                target=Target(place, pieces[place], _next_tokens(trace, tokenizer, place)),
                model=_describe(model, trace),
                signed=one.signed,
                diagnostics={
                    "reconstruction_error": max(errors),
                    "reconstruction_error_per_layer": errors,
                    "seconds": trace.seconds + time.perf_counter() - started,
                    "seconds_capture": trace.seconds,
                },
            )
        )
    return results


def _scores(trace: Trace, method: Method, layers: list[int], place: int | None, step: Callable[[], None]) -> Tensor:
    """Return (layer, target, source): one row per layer, or every row when `place` is None."""
    length = trace.shape[1]
    if place is None:
        require_room((len(layers), length, length), torch.empty(0), "explain one position, or shorten the text")
    rows = []
    for number in layers:
        rows.append(method.map(trace, number)[0] if place is None else method.row(trace, number, place))
        step()
    return torch.stack(rows)


def _position(position: int | None, length: int) -> int:
    place = length - 1 if position is None else position
    if not -length <= place < length:
        raise InputError(f"position {place} does not exist: the text has {length} tokens, 0 to {length - 1}")
    return place % length


def _next_tokens(trace: Trace, tokenizer: PreTrainedTokenizerBase | None, place: int) -> tuple[tuple[str, float], ...]:
    if trace.logits is None or tokenizer is None:
        return ()
    probabilities = trace.logits[0, place].float().softmax(dim=-1)
    best = probabilities.topk(min(NEXT_TOKENS, probabilities.shape[-1]))
    return tuple(
        (decode_token(tokenizer, token), share)
        for share, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )


def _describe(model: PreTrainedModel, trace: Trace) -> Model:
    return Model(
        name=Path(model.name_or_path).name or type(model).__name__,
        family=trace.layers[0].family.model_type,
        class_name=type(model).__name__,
        layers=len(trace.layers),
        hidden_size=trace.layers[0].captured.x.shape[-1],
    )


def _shifted(progress: Progress, before: int, after: int) -> Progress:
    """Return a callback for one part of the work, with so many steps before it and after it."""
    if progress is None:
        return None
    return lambda done, total: progress(before + done, before + total + after)


def _counter(progress: Progress, total: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return step
