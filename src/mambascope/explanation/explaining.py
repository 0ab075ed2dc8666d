"""From a model and a text to a result: capture, score, and say how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.attribution import Attribution, Model, Target
from mambascope.errors import InputError
from mambascope.explanation.asking import Question, has_independent_classes, next_tokens, resolve
from mambascope.explanation.defaults import default_method
from mambascope.explanation.runner import Rows, score, score_every
from mambascope.explanation.stages import one_stage, stage_number
from mambascope.families import check_model, find_mixers
from mambascope.inputs.checks import check_tokenizer
from mambascope.inputs.patches import patch_grid, stage_grid
from mambascope.inputs.preparation import reads_pictures
from mambascope.inputs.tokens import encode
from mambascope.methods.method import Method
from mambascope.methods.reference_code import Variant, check_variant, first_reference_layer
from mambascope.methods.registry import METHODS, check_readable, find_method
from mambascope.methods.trust import caution
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import Layers, LayersAsked, chosen_layers, read_layers, shown
from mambascope.progress import Steps, told
from mambascope.readouts import Place
from mambascope.trace import Trace, capture
from mambascope.trace.embedding import token_table

#: What is told of the work: by default a bar in a terminal or notebook once it has taken two seconds; False for none.
Progress = Steps | bool | None


def explain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    text: str,
    *,
    method: str | None = None,
    target: str | int | None = None,
    foil: str | int | None = None,
    continuation: str | None = None,
    layer: LayersAsked = "all",
    position: int | None = None,
    targets: Literal["position", "all"] = "position",
    variant: Variant = "published",
    progress: Progress = None,
) -> Attribution:
    """Return which tokens of a text an output drew from.

    Methods that score layers explain a position, layer by layer. Methods that explain the whole model explain a number
    read from its output: the logit of the likeliest next token after the position, unless you name another.

    Args:
        model: A stock model of a supported family, as `load` returns it.
        tokenizer: Its tokenizer.
        text: What the model reads.
        method: Name of a method, see `METHODS`. By default `mamba-lrp` (`alti-logit` for Transformers), which explains
            what is predicted; `latim` for single layers, for all positions, and for models without a head.
        target: The token to explain in place of the likeliest one, as text (one token, its leading space included) or
            id; of a classifier, the class, by name or number.
        foil: A token or class to contrast with: explain the target's logit minus the foil's.
        continuation: Explain the log-probability of this text after `text`, in place of one token's logit.
        layer: One layer's number (negative numbers count from the end), several (`[2, 5]`, `range(2, 5)`), a slice of
            them (also written "2:5"), or all; for methods that score layers. Released raw attention begins at layer 15
            of 24 unless you say otherwise.
        position: The token to explain, from 0; negative numbers count from the end; by default the last. What the
            model predicts *after* this token is in `Attribution.target.next_tokens`.
        targets: Score this position only, or every position (quadratic in the text's length).
        variant: `reference-code` for what the papers' code does where it differs from their formulas.
        progress: By default a bar appears in a terminal or notebook once the work has taken two seconds; False for
            none, or a function that is called with (steps done, steps to do), a step per layer captured and scored.

    Raises:
        InputError: if the text is empty, or the method, layer, position, target or foil does not exist or cannot be
            combined.
        UnsupportedModelError: as `capture` does, or if the method cannot read the model's kind of layer.
        ReconstructionError: as `capture` does.
        MapTooLargeError: if the map of all positions would not fit in memory.
    """
    check_model(model)
    layer = read_layers(layer)
    return explain_methods(
        model,
        tokenizer,
        text,
        methods=[method or default_method(model, target, foil, continuation, layer=layer, targets=targets)],
        target=target,
        foil=foil,
        continuation=continuation,
        layer=layer,
        position=position,
        targets=targets,
        variant=variant,
        progress=progress,
    )[0]


def explain_methods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    text: str,
    *,
    methods: Sequence[str],
    target: str | int | None = None,
    foil: str | int | None = None,
    continuation: str | None = None,
    layer: LayersAsked = "all",
    position: int | None = None,
    targets: Literal["position", "all"] = "position",
    variant: Variant = "published",
    progress: Progress = None,
) -> list[Attribution]:
    """Return one result per method, all from a single capture; arguments as in `explain`."""
    check_model(model)
    check_tokenizer(tokenizer)
    if reads_pictures(model):
        raise InputError(f"{type(model).__name__} reads pictures, and this is a text; use explain_picture")
    chosen = [find_method(name) for name in methods]
    check_options(chosen, layer, targets, variant)
    find_mixers(model)
    vocabulary = token_table(model).num_embeddings
    ids, pieces = encode(tokenizer, text, vocab_size=vocabulary)
    check_targets(chosen, target, foil)
    question = Question(target, foil, position)
    if continuation is not None:
        more, following = encode(tokenizer, continuation, vocab_size=vocabulary, special=False)
        question = Question(target, foil, position, (len(pieces), tuple(more[0].tolist()), continuation))
        ids, pieces = torch.cat([ids, more], dim=1), pieces + following
    return explain_inputs(
        model,
        {"input_ids": ids.to(model.device)},
        pieces,
        chosen,
        question,
        tokenizer=tokenizer,
        layer=layer,
        targets=targets,
        variant=variant,
        progress=progress,
    )


def explain_inputs(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    pieces: Sequence[str] | None,
    methods: Sequence[Method],
    question: Question,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    layer: LayersAsked = "all",
    targets: Literal["position", "all"] = "position",
    variant: Variant = "published",
    stage: int | None = None,
    progress: Progress = None,
) -> list[Attribution]:
    """Return one result per method for inputs as the model takes them: token ids, embeddings, pixels.

    Args:
        model: A stock model.
        inputs: What it is called with; one text or picture.
        pieces: What stands at each position, for display; None numbers the positions, and a picture's patches by row
            and column.
        methods: The methods, see `find_method`.
        question: Which number is asked about, where.
        tokenizer: The model's tokenizer, if it has one.
        layer, targets, variant, progress: As in `explain`.
        stage: Of a model with stages, the number of the one that is explained, among those that mix tokens; unless
            named the last, or for methods that go back to the embedded tokens the first. Its layers are counted from 0.
    """
    check_model(model)
    check_options(methods, layer, targets, variant)
    layer = read_layers(layer)
    with told(progress, f"explaining by {', '.join(method.name for method in methods)}") as steps:
        return _explained(model, inputs, pieces, methods, question, tokenizer, layer, targets, variant, stage, steps)


def _explained(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    pieces: Sequence[str] | None,
    methods: Sequence[Method],
    question: Question,
    tokenizer: PreTrainedTokenizerBase | None,
    layer: Layers,
    targets: Literal["position", "all"],
    variant: Variant,
    stage: int | None,
    progress: Steps | None,
) -> list[Attribution]:
    """Return one result per method; arguments as in `explain_inputs`."""
    number = stage_number(model, methods, stage)
    mixers = len(find_mixers(model))  # as many layers, or more where some stand side by side
    expected = _passes(methods, _layers(layer, mixers, variant))
    trace, cut = capture(model, progress=_shifted(progress, 0, expected), **inputs), patch_grid(model, inputs)
    of_stage = {}
    if isinstance(model, StagedModel) and number is not None:
        trace, cut = one_stage(model, trace, number), stage_grid(model, number, inputs)
        of_stage = {"stage": number, "stages": len(model.cells())}
    layers = _layers(layer, len(trace.layers), variant)
    if trace.shape[0] != 1:
        raise InputError(f"explain one text at a time; these inputs hold {trace.shape[0]}")
    grid = cut if cut is not None and cut.tokens == trace.shape[1] else None
    numbered = map(str if grid is None else grid.name, range(trace.shape[1]))
    pieces = tuple(numbered) if pieces is None else tuple(pieces)
    for method in methods:
        check_readable(method, trace)
    asked = resolve(model, tokenizer, trace, inputs, question)
    readout = asked.readout or Place(asked.positions)
    step = _counter(_shifted(progress, mixers, 0), _passes(methods, layers))
    described, shown = _describe(model, trace), next_tokens(model, tokenizer, trace, asked.place)
    kinds = [trace.layers[number].kind for number in layers]
    results = []
    for method in methods:
        started = time.perf_counter()
        if targets == "all":
            rows = score_every(trace, method, layers=layers, step=step)
        else:
            rows = score(trace, method, [readout], layers=layers, variant=variant, step=step)
        errors = [trace.layers[number].reconstruction_error for number in layers]
        explains = asked.readout if method.asks else None
        results.append(
            Attribution(
                scores=rows.scores.float().cpu(),
                tokens=pieces,
                axes={
                    "layer": rows.layers,
                    "target": tuple(range(len(pieces))) if targets == "all" else (asked.place,),
                    "source": tuple(range(len(pieces))),
                },
                method=method.name,
                target=Target(
                    asked.place,
                    pieces[asked.place],
                    shown,
                    explains.label if explains else "",
                    float(explains(trace.outputs)[0]) if explains else None,
                    len(asked.positions) if question.continuation is None else 1,
                    has_independent_classes(model, trace),
                ),
                model=described,
                signed=method.signed,
                diagnostics={
                    "reconstruction_error": max(errors),
                    "reconstruction_error_per_layer": errors,
                    **of_stage,
                    **_evidence(trace, method, layers, rows),
                    "seconds": trace.seconds + time.perf_counter() - started,
                    "seconds_capture": trace.seconds,
                    **({"variant": variant} if variant != "published" else {}),
                    **({"layer_kinds": kinds} if len(set(kinds)) > 1 else {}),
                },
                over_layers=rows.over_layers,
                grid=grid,
                pixels=None if rows.pixels is None else rows.pixels.float().cpu(),
            )
        )
    return results


def check_options(methods: Sequence[Method], layer: LayersAsked, targets: str, variant: str) -> None:
    """Raise InputError if a method cannot do what is asked of it."""
    check_variant(variant)
    whole = read_layers(layer) == "all"
    if targets not in ("position", "all"):
        raise InputError(f"targets is {shown(targets)}; choose 'position' or 'all'")
    for method in methods:
        if variant == "reference-code" and not method.reference_code:
            able = ", ".join(m.name for m in METHODS.values() if m.reference_code)
            raise InputError(f"{method.name} has one form; variant='reference-code' is for {able}")
        if method.scope == "model" and not whole:
            raise InputError(f"{method.name} explains the whole model, not single layers; leave layer='all'")
        if targets == "all" and (variant == "reference-code" or (method.scope == "model" and method.whole_map is None)):
            raise InputError(f"{method.name} explains one position at a time here; leave targets='position'")


def check_targets(methods: Sequence[Method], target: str | int | None, foil: str | int | None) -> None:
    """Raise InputError if a target or foil is named to a method that does not look at what is predicted."""
    unable = [method for method in methods if not method.asks]
    if unable and (target is not None or foil is not None):
        able = ", ".join(method.name for method in METHODS.values() if method.asks)
        raise InputError(
            f"{unable[0].name} scores a position, whatever is predicted there; to explain a target or foil choose one "
            f"of {able}"
        )


def _evidence(trace: Trace, method: Method, layers: list[int], rows: Rows) -> dict[str, Any]:
    """Return what was measured about a method's scores, with what its activation rule leaves and a caution in words."""
    found = dict(rows.diagnostics[0]) if rows.diagnostics else {}
    if method.rule != "secant":
        left = [trace.operator(number).residual(method.rule) for number in layers]
        found = found | {"residual": sum(left) / len(left)}
    words = caution(found, trace.layers[0].y.dtype)
    return found | ({"caution": words} if words else {})


def _layers(layers: Layers, count: int, variant: str) -> list[int]:
    """Return the numbers of the layers that are asked for; the reference code's unless others are named."""
    if layers == "all" and variant == "reference-code":
        return list(range(first_reference_layer(count), count))
    return chosen_layers(layers, count)


def _passes(methods: Sequence[Method], layers: list[int]) -> int:
    """Return how many steps of progress the methods make: one for each layer, or one where the model is explained."""
    return sum(len(layers) if method.scope == "layer" else 1 for method in methods)


def _describe(model: nn.Module, trace: Trace) -> Model:
    return Model(
        name=Path(getattr(model, "name_or_path", "")).name or type(model).__name__,
        family=trace.branches[0].family.model_type,
        class_name=type(model).__name__,
        layers=len(trace.layers),
        hidden_size=trace.layers[0].x.shape[-1],
    )


def _shifted(progress: Steps | None, before: int, after: int) -> Steps | None:
    """Return a callback for one part of the work, with so many steps before it and after it."""
    if progress is None:
        return None
    return lambda done, total: progress(before + done, before + total + after)


def _counter(progress: Steps | None, total: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return step
