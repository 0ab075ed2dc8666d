"""`explain`: from a model and what it reads to a result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from torch import nn

from mambascope.arguments import callback, flag
from mambascope.attribution import Attribution
from mambascope.errors import InputError, MambascopeError
from mambascope.explanation.answering import Progress, answer
from mambascope.explanation.defaults import DEFAULT_METHOD, default_method
from mambascope.explanation.lens import with_lens
from mambascope.explanation.options import ask, check_options, check_precision, check_spans, check_targets
from mambascope.explanation.stages import stage_number
from mambascope.explanation.subject import read_subject
from mambascope.explanation.verifying import verified
from mambascope.explanation.views import with_views
from mambascope.former_names import formerly
from mambascope.methods.latim import Precision
from mambascope.methods.reference_code import Variant
from mambascope.methods.registry import find_method
from mambascope.numbering import LayersAsked, read_layers, read_positions, shown, whole_number
from mambascope.progress import told
from mambascope.trace.private_copy import plain_model
from mambascope.trace.running import own_precision


class Options(TypedDict, total=False):
    """The options of `explain` other than the method; its docstring says what each means."""

    target: str | int | None
    foil: str | int | None
    position: int | None
    positions: LayersAsked | None
    patch: tuple[int, int] | None
    continuation: str | None
    generate: int | None
    layer: LayersAsked
    stage: int | None
    spans: Mapping[str, tuple[int, int]] | None
    variant: Variant
    precision: Precision
    keep_size: bool
    verify: int | None
    progress: Progress


@overload
def explain(
    model: nn.Module,
    processor: Any,
    source: list[str],
    *,
    method: str | None = None,
    **options: Unpack[Options],
) -> list[Attribution]: ...


@overload
def explain(
    model: nn.Module, processor: Any, source: Any, *, method: str | None = None, **options: Unpack[Options]
) -> Attribution: ...


@overload
def explain(
    model: nn.Module, processor: Any, source: Any, *, method: Sequence[str], **options: Unpack[Options]
) -> list[Attribution]: ...


@overload
def explain(
    model: nn.Module,
    processor: Any,
    source: Any,
    *,
    method: str | Sequence[str] | None = None,
    views: Literal[True],
    **options: Unpack[Options],
) -> list[Attribution]: ...


@formerly(compat="variant", targets="positions", tokenizer="processor", text="source", picture="source")
@own_precision()
def explain(
    model: nn.Module,
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
    spans: Mapping[str, tuple[int, int]] | None = None,
    variant: Variant = "published",
    precision: Precision = "own",
    keep_size: bool = False,
    views: bool = False,
    verify: int | None = None,
    progress: Progress = None,
) -> Attribution | list[Attribution]:
    """Return how much an output drew from each token of a text, or from each patch of a picture.

    The result is one `Attribution`, or a list of them if `method` is a list or `views` is set. Methods that score
    layers explain a position: what each layer's output there drew from. Methods that explain the whole model explain a
    number read from its output: unless you name another, the logit of the likeliest token after the position, or of a
    classifier's likeliest class.

    Args:
        model: A stock model of a supported family, as `load` returns it; it may be compiled, wrapped by PyTorch or
            adapted by PEFT, see `capture`.
        processor: The model's tokenizer; for a vision model, its image processor or None.
        source: What the model reads: a text; a picture (a file, its bytes, a Pillow image, an array or tensor of
            pixels, or what `read_picture` returns); or the model's own inputs by name, such as `{"input_ids": ids}`,
            for one text or picture. A list of any of these gives a list of results, one for each.
        method: The name of a method, see `methods.METHODS`; a list of names gives a list of results. By default
            `mamba-lrp` (`alti-logit` for Transformers), which explains the prediction; `latim` for single layers, for
            all positions, for a patch, and for models without a head.
        target: The token to explain instead of the likeliest one, as text (a single token, with its leading space) or
            id; for a classifier, the class, by name or number.
        foil: A token or class to contrast with: the target's logit minus the foil's is explained.
        position: The position to explain, from 0; negative numbers count from the end; by default the last. What the
            model predicts *after* this position is in `Attribution.target.next_tokens`.
        positions: Several positions, each explained by itself (`[3, 5]`, `range(2, 5)`, "2:5"), or "all". The result
            has a row for each.
        patch: For a picture, the patch to explain, as (row, column) from 0, instead of the position that classes are
            read from. If no class is named, methods that explain a number explain the size of the patch's features,
            provided that the model returns them.
        continuation: A text to follow the given one; its log-probability as a whole is explained.
        generate: How many tokens the model adds to the text, the likeliest at each step. Each of them is explained, and
            the result has a row for each.
        layer: For methods that score layers: one layer's number (negative numbers count from the end), several
            (`[2, 5]`, `range(2, 5)`), a slice (also written "2:5"), or "all". The reference code's raw attention starts
            at layer 15 of 24 unless you name layers.
        stage: For VMamba and MambaVision, whose stages read fewer and fewer patches: the stage to explain, from its own
            patches, counted from 0 among the stages that mix tokens. By default the last, or the first for methods that
            go back to the embedded tokens. Layers are counted from 0 within the stage.
        spans: Parts of the text by name, each from its first token up to, not including, its last: `{"the question":
            (12, 40)}`. `knockout` removes each as a whole, and each stretch before, between and after them; these are
            the sources of the result. For other methods take their tokens together afterwards, with `result.spans(…)`.
        variant: `published` for the papers' formulas, `reference-code` for what their code does where it differs.
        precision: `bfloat16` makes LaTIM's maps of all positions by products in bfloat16, which is faster where the
            processor multiplies it itself; `diagnostics["products_error"]` is how far that puts them off.
        keep_size: Leave a picture at its own size and interpolate the model's position embeddings.
        views: Return a list: what was asked for, followed by the other views that a page offers (the sources of every
            position, methods that cost little). `results[0].to_html(*results[1:])` is then the page that
            `mambascope explain --out page.html` writes.
        verify: Remove this many top sources of each target, one at a time, and measure what the number explained loses:
            cut, so that the mixers pass nothing from them to the explained positions, and with their embedding zeroed.
            `diagnostics["verified"]` has the drops and their rank correlation with the scores. 0 for none; by default
            8 with `views`, where that takes no more than a few seconds, else none.
        progress: By default a bar appears in a terminal or notebook once the work has taken two seconds. False shows
            none; a function is called with (steps done, steps in all), one step per layer captured and scored, or of a
            list, one per text or picture.

    Raises:
        InputError: if the text is empty, the picture cannot be read, the model reads something else, or the method,
            layer, position, target or foil does not exist or cannot be combined with the rest.
        UnsupportedModelError: as `capture` does, or if the method cannot read the model's kind of layer, or the model's
            tokens cannot be laid over the picture.
        ReconstructionError: as `capture` does, or if the tokens that the model generated are not the likeliest ones
            when it reads the whole text at once.
        MapTooLargeError: if the rows of all positions would not fit in memory.
    """
    if isinstance(source, (list, tuple)):
        options: dict[str, Any] = {
            "method": method, "target": target, "foil": foil, "position": position, "positions": positions,
            "patch": patch, "continuation": continuation, "generate": generate, "layer": layer, "stage": stage,
            "spans": spans, "variant": variant, "precision": precision, "keep_size": keep_size, "verify": verify,
        }  # fmt: skip
        return _each(model, processor, source, views, progress, options)
    model = plain_model(model)
    flag(keep_size, "keep_size")
    flag(views, "views")
    verify = None if verify is None else whole_number(verify, "verify")
    if verify is not None and verify < 0:
        raise InputError(f"verify must be 0 or more, found {verify}")
    if not isinstance(progress, bool):
        callback(progress, "progress")
    layers = read_layers(layer)
    rows = None if positions is None else read_positions(positions)
    default = None
    if method is None:
        asks = target is not None or foil is not None or generate is not None or continuation is not None
        every = rows == "all"
        default = DEFAULT_METHOD if patch is not None else default_method(model, asks, layer=layers, every=every)
    if method is not None and not isinstance(method, (str, list, tuple)):
        raise InputError(f"method must be a name or a list of names, found {shown(method)}")
    names = [default] if default is not None else [method] if isinstance(method, str) else list(method or [])
    if not names:
        raise InputError("the list of methods is empty; name at least one")
    chosen = [find_method(name) for name in names]
    check_options(chosen, layers, variant)
    check_targets(chosen, target, foil)
    check_precision(chosen, precision, every=rows == "all")
    check_spans(chosen, spans, views, verify)
    subject = read_subject(model, processor, source, continuation=continuation, generate=generate, keep_size=keep_size)
    question = ask(
        subject, chosen, target=target, foil=foil, position=position, positions=rows, patch=patch,
        each=generate is not None, stage=stage,
    )  # fmt: skip
    started = time.perf_counter()
    results = answer(
        subject,
        chosen,
        question,
        layer=layers,
        stage=stage,
        spans=spans,
        variant=variant,
        precision=precision,
        progress=progress,
    )
    if views and variant == "published":
        first, *rest = results
        stage = stage_number(model, chosen, stage)
        results = [*with_views(subject, first, question, layer=layers, stage=stage, started=started), *rest]
    if views:
        results[0] = with_lens(subject, results[0], question)
    if verify or (verify is None and views):
        results = verified(subject, results, question, verify)
    return results[0] if isinstance(method, str | None) and not views else results


def _each(
    model: nn.Module, processor: Any, sources: Sequence[Any], views: bool, progress: Progress, options: dict[str, Any]
) -> list[Attribution]:
    """Return the result of each of several texts or pictures.

    Raises:
        InputError: if there are none, several methods or the views of a page are asked for, or one cannot be explained;
            the message says which.
    """
    if not sources:
        raise InputError("the list of texts is empty; pass at least one")
    if views or not isinstance(options["method"], str | None):
        raise InputError("a list of texts is explained by one method, without views; explain each text by itself")
    if not isinstance(progress, bool):
        callback(progress, "progress")
    results = []
    with told(progress, f"explaining {len(sources)} texts") as steps:
        for number, source in enumerate(sources):
            if isinstance(source, (list, tuple)):
                raise InputError(f"item {number} is a list itself, {shown(source)}; pass one list of texts")
            try:
                results.append(explain(model, processor, source, progress=False, **options))
            except MambascopeError as error:
                raise type(error)(f"item {number}: {error}") from error
            if steps is not None:
                steps(number + 1, len(sources))
    return results
