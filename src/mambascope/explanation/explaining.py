"""From a model and what it reads to results: one verb, one path."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from torch import nn
from transformers import PreTrainedModel

from mambascope.attribution import Attribution, Model, Target
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation.defaults import DEFAULT_METHOD, default_method
from mambascope.explanation.question import (
    Question,
    ResolvedQuestion,
    has_independent_classes,
    next_tokens,
    resolve,
)
from mambascope.explanation.runner import Rows, score, score_every
from mambascope.explanation.stages import one_stage, stage_number
from mambascope.explanation.subject import Subject, read_subject, with_picture
from mambascope.families import check_model, find_mixers
from mambascope.former_names import formerly
from mambascope.inputs.preparation import reads_pictures
from mambascope.methods.method import Method
from mambascope.methods.reference_code import Variant, check_variant, first_reference_layer
from mambascope.methods.registry import METHODS, check_readable, find_method
from mambascope.methods.trust import caution
from mambascope.models.picture_models import StagedModel
from mambascope.models.vim import VisionMamba
from mambascope.numbering import (
    Layers,
    LayersAsked,
    chosen_layers,
    read_layers,
    read_positions,
    shown,
    whole_number,
    whole_numbers,
)
from mambascope.progress import Steps, told
from mambascope.readouts import Place
from mambascope.trace import Trace

#: What is told of the work: by default a bar in a terminal or notebook once it has taken two seconds; False for none.
Progress = Steps | bool | None


class Options(TypedDict, total=False):
    """What `explain` can be asked beside the method; it says what each means."""

    target: str | int | None
    foil: str | int | None
    position: int | None
    positions: LayersAsked | None
    patch: tuple[int, int] | None
    continuation: str | None
    generate: int | None
    layer: LayersAsked
    stage: int | None
    variant: Variant
    keep_size: bool
    progress: Progress


@overload
def explain(
    model: PreTrainedModel, processor: Any, source: Any, *, method: str | None = None, **options: Unpack[Options]
) -> Attribution: ...


@overload
def explain(
    model: PreTrainedModel, processor: Any, source: Any, *, method: Sequence[str], **options: Unpack[Options]
) -> list[Attribution]: ...


@formerly(compat="variant", targets="positions", tokenizer="processor", text="source", picture="source")
def explain(
    model: PreTrainedModel,
    processor: Any,
    source: Any,
    *,
    method: str | Sequence[str] | None = None,
    target: str | int | None = None,
    foil: str | int | None = None,
    position: int | None = None,
    positions: LayersAsked | None = None,
    patch: tuple[int, int] | None = None,
    continuation: str | None = None,
    generate: int | None = None,
    layer: LayersAsked = "all",
    stage: int | None = None,
    variant: Variant = "published",
    keep_size: bool = False,
    progress: Progress = None,
) -> Attribution | list[Attribution]:
    """Return which tokens of a text, or patches of a picture, an output drew from.

    Methods that score layers explain a position, layer by layer. Methods that explain the whole model explain a number
    read from its output: the logit of the likeliest next token after the position (of a classifier, of the likeliest
    class), unless you name another.

    Args:
        model: A stock model of a supported family, as `load` returns it.
        processor: Its tokenizer. For a model of pictures its image processor, or None.
        source: What the model reads: a text; a picture (a file, an image of Pillow, pixels (h, w, 3) as uint8, or what
            `read_picture` returned); or the model's own inputs by name, such as `{"input_ids": ids}`, one text or
            picture.
        method: Name of a method, see `methods.METHODS`; several names give a list of results. By default `mamba-lrp`
            (`alti-logit` for Transformers), which explains what is predicted; `latim` for single layers, for all
            positions, for a patch, and for models without a head.
        target: The token to explain in place of the likeliest one, as text (one token, its leading space included) or
            id; of a classifier, the class, by name or number.
        foil: A token or class to contrast with: explain the target's logit minus the foil's.
        position: The token to explain, from 0; negative numbers count from the end; by default the last. What the
            model predicts *after* this token is in `Attribution.target.next_tokens`.
        positions: Several of them, each explained by itself (`[3, 5]`, `range(2, 5)`, "2:5"), or "all": the result has
            a row for each.
        patch: Of a picture, explain what stands at this row and column of the patches, from 0, in place of where
            classes are read. Where no class is named, methods that explain a number explain the size of the patch's
            features, if the model returns them.
        continuation: Explain the log-probability of this text after the given one, as a whole.
        generate: Let the model add so many tokens (its likeliest at each step) and explain each of them: the result
            has a row for each.
        layer: One layer's number (negative numbers count from the end), several (`[2, 5]`, `range(2, 5)`), a slice of
            them (also written "2:5"), or all; for methods that score layers. The reference code's raw attention begins
            at layer 15 of 24 unless you say otherwise.
        stage: Of VMamba and MambaVision, whose stages read fewer and fewer patches, the one that is explained, from its
            own patches: the number among those that mix tokens. By default the last, or for methods that go back to
            the embedded tokens the first. Its layers are counted from 0.
        variant: `reference-code` for what the papers' code does where it differs from their formulas.
        keep_size: Leave a picture at its own size, with the model's positions interpolated.
        progress: By default a bar appears in a terminal or notebook once the work has taken two seconds; False for
            none, or a function that is called with (steps done, steps to do), a step per layer captured and scored.

    Raises:
        InputError: if the text is empty, the picture cannot be read, the model reads something else, or the method,
            layer, position, target or foil does not exist or cannot be combined.
        UnsupportedModelError: as `capture` does, if the method cannot read the model's kind of layer, or if the model's
            tokens cannot be laid over the picture.
        ReconstructionError: as `capture` does, or if the model generates other tokens than it reads.
        MapTooLargeError: if the rows of all positions would not fit in memory.
    """
    check_model(model)
    layers = read_layers(layer)
    rows = None if positions is None else read_positions(positions)
    default = None
    if method is None:
        asks = target is not None or foil is not None or generate is not None or continuation is not None
        every = rows == "all"
        default = DEFAULT_METHOD if patch is not None else default_method(model, asks, layer=layers, every=every)
    names = [default] if default is not None else [method] if isinstance(method, str) else list(method or [])
    if not names:
        raise InputError("method names nothing; name one or several")
    chosen = [find_method(name) for name in names]
    check_options(chosen, layers, variant)
    check_targets(chosen, target, foil)
    subject = read_subject(model, processor, source, continuation=continuation, generate=generate, keep_size=keep_size)
    question = ask(
        subject, chosen, target=target, foil=foil, position=position, positions=rows, patch=patch,
        each=generate is not None, stage=stage,
    )  # fmt: skip
    results = answer(subject, chosen, question, layer=layers, stage=stage, variant=variant, progress=progress)
    return results if method is not None and not isinstance(method, str) else results[0]


def ask(
    subject: Subject,
    methods: Sequence[Method],
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    position: int | None = None,
    positions: Layers | None = None,
    patch: tuple[int, int] | None = None,
    each: bool = False,
    stage: int | None = None,
) -> Question:
    """Return the question that options stand for; arguments as in `explain`.

    Raises:
        InputError: if the options contradict each other, or a patch is to be explained where there is none or by a
            method to which it makes no difference.
    """
    ways = {"position": position, "positions": positions, "patch": patch}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} both say which position is explained; give one of them")
    if patch is None:
        where = positions if position is None else (whole_number(position, "position"),)
        return Question(target, foil, where, each)
    if not reads_pictures(subject.model):
        raise InputError(f"patch is a place in a picture, and {type(subject.model).__name__} reads text; use position")
    features = target is None and foil is None and has_features(subject.model)
    check_patch(methods, patch, features=features)
    grid = subject.grid(stage_number(subject.model, methods, stage))
    if grid is None:
        raise UnsupportedModelError(f"{type(subject.model).__name__} does not say how it cuts pictures into patches")
    place = whole_numbers(patch, "patch")
    if len(place) != 2:
        raise InputError(f"a patch is a row and a column from 0, such as (3, 7), found {shown(patch)}")
    return Question(target, foil, (grid.position(*place),), each, features)


def answer(
    subject: Subject,
    methods: Sequence[Method],
    question: Question,
    *,
    layer: LayersAsked = "all",
    stage: int | None = None,
    variant: Variant = "published",
    progress: Progress = None,
) -> list[Attribution]:
    """Return one result per method, all from the subject's one capture; arguments as in `explain`."""
    check_options(methods, layer, variant)
    with told(progress, f"explaining by {', '.join(method.name for method in methods)}") as steps:
        results = _answers(subject, methods, question, read_layers(layer), stage, variant, steps)
    return [with_picture(result, subject) for result in results]


def _answers(
    subject: Subject,
    methods: Sequence[Method],
    question: Question,
    layer: Layers,
    stage: int | None,
    variant: Variant,
    progress: Steps | None,
) -> list[Attribution]:
    model = subject.model
    number = stage_number(model, methods, stage)
    before, layers = subject.steps_to_capture, _layers(layer, len(find_mixers(model)), variant)
    per_method = [len(layers) if method.scope == "layer" else 1 for method in methods]
    trace = subject.trace(_shifted(progress, 0, sum(per_method)))
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
        check_readable(method, trace)
    every = question.positions == "all"
    focused = resolve(subject, trace, dataclasses.replace(question, positions=None) if every else question)
    each = resolve(subject, trace, question) if every and any(method.asks for method in methods) else focused
    in_focus, of_each = (_targets(subject, trace, tokens, one, question) for one in (focused, each))
    step = _counter(_shifted(progress, before, 0), sum(per_method))
    described = _describe(model, trace)
    kinds = [trace.layers[number].kind for number in layers]
    errors = [trace.layers[number].reconstruction_error for number in layers]
    results = []
    for method in methods:
        started = time.perf_counter()
        if every and not method.asks:  # nothing is read of the output: rows of all positions, as its maps have them
            places, target = tuple(range(len(tokens))), in_focus[-1]
            targets: tuple[Target, ...] = ()
            rows = _every_row(trace, method, layers, variant, step)
        else:
            places, target = each.places, of_each[-1]
            targets = of_each if len(of_each) > 1 else ()
            rows = score(trace, method, each.readouts, layers=layers, variant=variant, step=step)
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


def _every_row(trace: Trace, method: Method, layers: list[int], variant: Variant, step: Callable[[], None]) -> Rows:
    """Return the rows of all positions of a method that reads nothing of the output: from its maps, if it has any."""
    if variant == "published" and (method.map is not None or method.whole_map is not None):
        return score_every(trace, method, layers=layers, step=step)
    places = [Place((place,)) for place in range(trace.shape[1])]
    return score(trace, method, places, layers=layers, variant=variant, step=step)


def _targets(
    subject: Subject, trace: Trace, tokens: tuple[str, ...], resolved: ResolvedQuestion, question: Question
) -> tuple[Target, ...]:
    """Return what each row is about; the last one is in focus."""
    whole = subject.following is not None and not question.each
    independent = has_independent_classes(subject.model, trace)
    found = []
    for place, readout in zip(resolved.places, resolved.readouts, strict=True):
        label, value = ("", None) if isinstance(readout, Place) else (readout.label, float(readout(trace.outputs)[0]))
        pooled, generated = (1 if whole else len(readout.positions)), place + 1 if question.each else None
        following = next_tokens(subject, trace, place)
        found.append(Target(place, tokens[place], following, label, value, pooled, independent, generated))
    return tuple(found)


def check_options(methods: Sequence[Method], layer: LayersAsked, variant: str) -> None:
    """Raise InputError if a method cannot do what is asked of it."""
    check_variant(variant)
    whole = read_layers(layer) == "all"
    for method in methods:
        if variant == "reference-code" and not method.reference_code:
            able = ", ".join(m.name for m in METHODS.values() if m.reference_code)
            raise InputError(f"{method.name} has one form; variant='reference-code' is for {able}")
        if method.scope == "model" and not whole:
            raise InputError(f"{method.name} explains the whole model, not single layers; leave layer='all'")


def check_targets(methods: Sequence[Method], target: str | int | None, foil: str | int | None) -> None:
    """Raise InputError if a target or foil is named to a method that does not look at what is predicted."""
    unable = [method for method in methods if not method.asks]
    if unable and (target is not None or foil is not None):
        able = ", ".join(method.name for method in METHODS.values() if method.asks)
        raise InputError(
            f"{unable[0].name} scores a position, whatever is predicted there; to explain a target or foil choose one "
            f"of {able}"
        )


def check_patch(methods: Sequence[Method], patch: tuple[int, int] | None, *, features: bool) -> None:
    """Raise InputError if a patch is to be explained by a method to which it makes no difference.

    Args:
        methods: The methods.
        patch: The patch, or None.
        features: Whether the number to explain is the patch's own features, and not a class's logit.
    """
    unable = [method.name for method in methods if not method.by_place]
    if patch is not None and unable and not features:
        able = ", ".join(method.name for method in METHODS.values() if method.by_place)
        raise InputError(f"{unable[0]} explains a class, not a single patch; choose one of {able}")


def has_features(model: nn.Module) -> bool:
    """Return whether a model returns the features of its patches beside the classes."""
    return isinstance(model, VisionMamba)


def _evidence(trace: Trace, method: Method, layers: list[int], rows: Rows) -> dict[str, Any]:
    """Return what was measured about a method's scores, with what its activation rule leaves and a caution in words.

    Of several rows, that of the last, which is in focus, with the worst error of all rows in place of its own;
    `per_target` has what was measured of each.
    """
    each = [dict(one) for one in rows.diagnostics]
    found = each[-1] if each else {}
    if len(each) > 1:
        errors = [name for name in ("conservation_error", "completeness_error") if name in found]
        found = found | {name: max(one[name] for one in each) for name in errors} | {"per_target": each}
    if method.rule != "secant":
        left = [trace.operator(number).residual(method.rule) for number in layers]
        found = found | {"residual": sum(left) / len(left)}
    words = _cautions(found, each, trace)
    return found | ({"caution": words} if words else {})


def _cautions(found: Mapping[str, Any], each: Sequence[Mapping[str, Any]], trace: Trace) -> str:
    """Return why scores should not be relied on; of several rows, the first row's reason and how many have one."""
    dtype = trace.layers[0].y.dtype
    if len(each) < 2:
        return caution(found, dtype)
    words = [one for one in (caution(row, dtype) for row in each) if one]
    return f"{words[0]} (so for {len(words)} of {len(each)} targets)" if words else ""


def _layers(layers: Layers, count: int, variant: str) -> list[int]:
    """Return the numbers of the layers that are asked for; the reference code's unless others are named."""
    if layers == "all" and variant == "reference-code":
        return list(range(first_reference_layer(count), count))
    return chosen_layers(layers, count)


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
