"""From a model and what it reads to results: one verb, one path."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from transformers import PreTrainedModel

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.explanation.answering import Progress, answer
from mambascope.explanation.defaults import DEFAULT_METHOD, default_method
from mambascope.explanation.options import ask, check_options, check_targets
from mambascope.explanation.stages import stage_number
from mambascope.explanation.subject import read_subject
from mambascope.explanation.views import with_views
from mambascope.families import check_model
from mambascope.former_names import formerly
from mambascope.methods.reference_code import Variant
from mambascope.methods.registry import find_method
from mambascope.numbering import (
    LayersAsked,
    read_layers,
    read_positions,
)


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


@overload
def explain(
    model: PreTrainedModel,
    processor: Any,
    source: Any,
    *,
    method: str | Sequence[str] | None = None,
    views: Literal[True],
    **options: Unpack[Options],
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
    views: bool = False,
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
        views: Return a list: what was asked for, and behind it what a page offers to switch to (the sources of every
            position, methods that cost little). `results[0].to_html(*results[1:])` is then the page that
            `mambascope explain --out page.html` writes.
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
    started = time.perf_counter()
    results = answer(subject, chosen, question, layer=layers, stage=stage, variant=variant, progress=progress)
    if views and variant == "published":
        first, *rest = results
        stage = stage_number(model, chosen, stage)
        results = [*with_views(subject, first, question, layer=layers, stage=stage, started=started), *rest]
    return results[0] if isinstance(method, str | None) and not views else results
