"""From a question to results: each method's rows, what each row explains, and how far to trust it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambascope.attribution import Attribution, Model, Target
from mambascope.errors import InputError
from mambascope.explanation.long_texts import estimate, what_to_keep
from mambascope.explanation.options import check_options, check_place
from mambascope.explanation.question import Question, ResolvedQuestion, has_independent_classes, next_tokens, resolve
from mambascope.explanation.runner import Rows, score, score_every
from mambascope.explanation.stages import one_stage, stage_number
from mambascope.explanation.subject import Subject, with_picture
from mambascope.families import find_mixers
from mambascope.methods.latim import Precision
from mambascope.methods.method import Method
from mambascope.methods.reference_code import Variant, first_reference_layer
from mambascope.methods.registry import check_readable
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import Layers, LayersAsked, chosen_layers, read_layers
from mambascope.progress import Steps, told
from mambascope.readouts import Place
from mambascope.results.merging import in_units, with_the_rest
from mambascope.trace import Trace
from mambascope.trust import caution, coarsest

#: How progress is shown: by default a bar in a terminal or notebook once two seconds have passed; False for none.
Progress = Steps | bool | None


def answer(
    subject: Subject,
    methods: Sequence[Method],
    question: Question,
    *,
    layer: LayersAsked = "all",
    stage: int | None = None,
    spans: Mapping[str, tuple[int, int]] | None = None,
    variant: Variant = "published",
    precision: Precision = "own",
    progress: Progress = None,
) -> list[Attribution]:
    """Return one result per method, all from one capture of the subject; arguments as in `explain`."""
    check_options(methods, layer, variant)
    label = f"explaining by {', '.join(method.name for method in methods)}"
    shows_bar = progress is None or progress is True
    most = 0 if spans is None else 2 * len(spans) + 1  # with the stretches between them
    words = estimate(subject, methods, most) if shows_bar and subject.steps_to_capture else ""
    with told(progress, f"{label}: {words}" if words else label) as steps:
        results = _answers(subject, methods, question, read_layers(layer), stage, spans, variant, precision, steps)
    return [with_picture(result, subject) for result in results]


def _answers(
    subject: Subject,
    methods: Sequence[Method],
    question: Question,
    layer: Layers,
    stage: int | None,
    spans: Mapping[str, tuple[int, int]] | None,
    variant: Variant,
    precision: Precision,
    progress: Steps | None,
) -> list[Attribution]:
    model = subject.model
    number = stage_number(model, methods, stage)
    before = subject.steps_to_capture
    mixers = len(find_mixers(model))  # as many layers, or more where some stand side by side
    after = _steps(methods, _layers(layer, mixers, variant))
    trace = subject.trace(_shifted(progress, 0, after), what_to_keep(subject, methods))
    of_stage = {}
    if isinstance(model, StagedModel) and number is not None:
        trace, of_stage = one_stage(model, trace, number), {"stage": number, "stages": len(model.cells())}
    layers = _layers(layer, len(trace.layers), variant)
    if trace.shape[0] != 1:
        raise InputError(f"explain one text at a time; these inputs hold {trace.shape[0]}")
    cut = subject.grid(number)
    grid = cut if cut is not None and cut.tokens == trace.shape[1] else None
    numbered = map(str if grid is None else grid.name, range(trace.shape[1]))
    tokens = tuple(numbered) if subject.tokens is None else subject.tokens
    for method in methods:
        check_readable(method, trace, layers)
    units = None if spans is None else _units(spans, grid, trace.shape[1])
    if units is not None:
        methods = [_of_spans(method, units) for method in methods]
    every = question.positions == "all"
    if question.positions is not None and trace.logits is not None and trace.logits.ndim == 2:
        check_place(methods, one=isinstance(question.positions, tuple) and len(question.positions) == 1)
    focused = resolve(subject, trace, dataclasses.replace(question, positions=None) if every else question)
    each = resolve(subject, trace, question) if every and any(method.asks for method in methods) else focused
    in_focus, of_each = (_targets(subject, trace, tokens, one, question) for one in (focused, each))
    step = _counter(_shifted(progress, before, 0), _steps(methods, layers))
    described = _describe(model, trace)
    errors = [trace.layers[number].reconstruction_error for number in layers]
    rebuilt = {
        **({"kept": "inputs"} if any(block.inputs_alone for block in trace.layers) else {}),
        "reconstruction_error": max(errors),
        "reconstruction_error_per_layer": errors,
        "scan_error": max(trace.layers[number].scan_error for number in layers),
        "precision": str(coarsest(layer.like.dtype for layer in trace.layers)).removeprefix("torch."),
    }
    results = []
    for method in methods:
        started = time.perf_counter()
        if every and not method.asks:  # the method does not read the output: the rows of all positions are its maps
            places, target = tuple(range(len(tokens))), in_focus[-1]
            targets: tuple[Target, ...] = ()
            rows = _every_row(trace, method, layers, variant, precision, step)
        else:
            places, target = each.places, of_each[-1]
            targets = of_each if len(of_each) > 1 else ()
            rows = score(trace, method, each.readouts, layers=layers, variant=variant, step=step)
        check_finite(method, rows.scores, rows.pixels)
        results.append(
            Attribution(
                scores=rows.scores.float().cpu(),
                tokens=tokens,
                axes={"layer": rows.layers, "target": places, "source": tuple(range(len(tokens)))},
                method=method.name,
                target=target if method.asks else target.without_number(),
                targets=targets if method.asks else tuple(one.without_number() for one in targets),
                model=described,
                signed=method.signed,
                diagnostics={
                    **rebuilt,
                    **of_stage,
                    **_evidence(trace, method, layers, rows, rebuilt),
                    "seconds": trace.seconds + time.perf_counter() - started,
                    "seconds_capture": trace.seconds,
                    **({"variant": variant} if variant != "published" else {}),
                },
                over_layers=rows.over_layers,
                grid=grid,
                pixels=None if rows.pixels is None else rows.pixels.float().cpu(),
            )
        )
    return results if units is None else [_in_spans(result, units) for result in results]


def _units(spans: Any, grid: Any, length: int) -> dict[str, tuple[int, int]]:
    """Return the sources of a result whose spans are removed as a whole.

    Raises:
        InputError: if they are not spans of a text.
    """
    if grid is not None:
        raise InputError("spans are parts of a text; a picture has patches")
    return with_the_rest(spans, length)


def _of_spans(method: Method, units: Mapping[str, tuple[int, int]]) -> Method:
    """Return a method that scores whole spans."""
    remove = method.score_spans
    assert remove is not None
    return dataclasses.replace(method, score=lambda trace, readout, _: remove(trace, readout, list(units.values())))


def _in_spans(result: Attribution, units: Mapping[str, tuple[int, int]]) -> Attribution:
    """Return a result whose sources are spans, given one with the score of each at one of its tokens."""
    merged = in_units(result, units)
    how = {**merged.diagnostics["merged"], "sources": "whole"}
    return dataclasses.replace(merged, diagnostics={**merged.diagnostics, "merged": how})


def check_finite(method: Method, *scores: Tensor | None) -> None:
    """Raise InputError for scores that are not finite numbers in float32, in which a result holds them."""
    for values in scores:
        if values is not None and not values.float().isfinite().all():
            raise InputError(
                f"the {method.name} scores hold NaN or infinite values: the model's weights are damaged, or its "
                "numbers overflow in this precision"
            )


def _every_row(
    trace: Trace, method: Method, layers: list[int], variant: Variant, precision: Precision, step: Callable[[], None]
) -> Rows:
    """Return the rows of all positions for a method that does not read the output: from its maps, if it has any."""
    if variant == "published" and (method.map is not None or method.whole_map is not None):
        return score_every(trace, method, layers=layers, precision=precision, step=step)
    places = [Place((place,)) for place in range(trace.shape[1])]
    return score(trace, method, places, layers=layers, variant=variant, step=step)


def _targets(
    subject: Subject, trace: Trace, tokens: tuple[str, ...], resolved: ResolvedQuestion, question: Question
) -> tuple[Target, ...]:
    """Return what each row explains; the last one is in focus."""
    whole = subject.following is not None and not question.each
    independent = has_independent_classes(subject.model, trace)
    found = []
    for place, readout in zip(resolved.places, resolved.readouts, strict=True):
        label, value = ("", None) if isinstance(readout, Place) else (readout.label, float(readout(trace.outputs)[0]))
        pooled, generated = (1 if whole else len(readout.positions)), place + 1 if question.each else None
        following = next_tokens(subject, trace, place)
        found.append(Target(place, tokens[place], following, label, value, pooled, independent, generated))
    return tuple(found)


def _evidence(
    trace: Trace, method: Method, layers: list[int], rows: Rows, rebuilt: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what was measured about a method's scores, its activation rule's residual, and a caution in words.

    For several rows it is that of the last, which is in focus, but with the worst error of all rows; `per_target` has
    each row's own.
    """
    each = [dict(one) for one in rows.diagnostics]
    found = each[-1] if each else {}
    if len(each) > 1:
        errors = [name for name in ("conservation_error", "completeness_error") if name in found]
        found = found | {name: max(one[name] for one in each) for name in errors} | {"per_target": each}
    if method.rule != "secant":
        left = [trace.operator(number).residual(method.rule) for number in layers]
        found = found | {"residual": sum(left) / len(left)}
    dtype = coarsest(layer.like.dtype for layer in trace.layers)
    words = _cautions({**rebuilt, **found}, [{**rebuilt, **one} for one in each], dtype)
    return found | ({"caution": words} if words else {})


def _cautions(found: Mapping[str, Any], each: Sequence[Mapping[str, Any]], dtype: torch.dtype) -> str:
    """Return why scores should not be relied on; for several rows, the first reason and how many rows have one."""
    if len(each) < 2:
        return caution(found, dtype)
    words = [one for one in (caution(row, dtype) for row in each) if one]
    return f"{words[0]} (so for {len(words)} of {len(each)} targets)" if words else ""


def _layers(layers: Layers, count: int, variant: str) -> list[int]:
    """Return the numbers of the layers asked for; with the reference code, its own layers unless others are named."""
    if layers == "all" and variant == "reference-code":
        return list(range(first_reference_layer(count), count))
    return chosen_layers(layers, count)


def _steps(methods: Sequence[Method], layers: list[int]) -> int:
    """Return how many steps of progress the methods make: one for each layer, or one where the model is explained."""
    return sum(len(layers) if method.scope == "layer" else 1 for method in methods)


def _describe(model: nn.Module, trace: Trace) -> Model:
    return Model(
        name=Path(getattr(model, "name_or_path", "")).name or type(model).__name__,
        family=trace.branches[0].family.model_type,
        class_name=type(model).__name__,
        layers=len(trace.layers),
        hidden_size=trace.layers[0].like.shape[-1],
        kinds=tuple(block.kind for block in trace.layers),
    )


def _shifted(progress: Steps | None, before: int, after: int) -> Steps | None:
    """Return a callback for one part of the work, given how many steps come before and after it."""
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
