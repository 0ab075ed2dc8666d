"""`mambascope explain`: check the options, explain, print, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from mambascope.cli.asked import layers_asked, patch_asked, positions_asked, short, spans_asked, text_asked
from mambascope.cli.delivering import check_out, command_line, continued_later, deliver, show_written
from mambascope.errors import InputError
from mambascope.explanation import explain as explain_source
from mambascope.explanation.defaults import DEFAULT_METHOD
from mambascope.explanation.gallery import head_gallery, quick_gallery
from mambascope.explanation.options import check_options, check_precision, check_targets
from mambascope.explanation.writing import write_maps
from mambascope.inputs.preparation import reads_pictures
from mambascope.methods.registry import METHODS, find_method
from mambascope.results.path_graph import no_parts
from mambascope.saved_results import COMPLETE
from mambascope.show.saving import GRAPH, ending


def explain(
    argument: str,
    load: Callable[[], tuple[Any, Any]],
    *,
    is_picture: bool,
    method: str | None,
    target: str | None,
    foil: str | None,
    continuation: str | None,
    generate: int | None,
    position: int | None,
    positions: str | None,
    patch: str | None,
    stage: int | None,
    layer: str,
    variant: Literal["published", "reference-code"],
    precision: Literal["own", "bfloat16"],
    keep_size: bool,
    words: bool,
    span: list[str],
    verify: int | None,
    heads: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Explain one text or picture and print or write the result; refuses what it can before the model is loaded."""
    if is_picture and not os.path.isfile(argument):
        raise InputError(f"there is no picture {short(argument)}")
    source = argument if is_picture else text_asked(argument)
    if not source:
        raise InputError("the text is empty; pass at least one word")
    layers, places, place = layers_asked(layer), positions_asked(positions), patch_asked(patch)
    spans = spans_asked(words, span)
    if spans is not None and is_picture:
        raise InputError("--words and --span are for texts; a picture has patches")
    if verify and spans is not None:
        raise InputError("--verify removes single tokens; leave out --words and --span")
    check_out(out)
    page = out is not None and out.suffix.lower() == ".html"
    if heads:
        _check_heads(page, is_picture, spans is not None)
    if out is not None and ending(out) == GRAPH:
        method = method or next(one.name for one in METHODS.values() if one.split)
        if not find_method(method).split:
            raise InputError(no_parts(method))
    if method is not None:
        check_options([find_method(method)], layers, variant)
        check_targets([find_method(method)], target, foil)
        check_precision([find_method(method)], precision, every=places == "all")
    removed = isinstance(spans, dict) and method is not None and find_method(method).score_spans is not None
    model, processor = load()
    if reads_pictures(model) and not is_picture:
        raise InputError(
            f"{type(model).__name__} reads pictures, not the text {short(source)}; give the path of a picture"
        )
    asked: dict[str, Any] = {
        "method": method,
        "target": target,
        "foil": foil,
        "continuation": continuation,
        "generate": generate,
        "position": position,
        "positions": places,
        "patch": place,
        "stage": stage,
        "layer": layers,
        "variant": variant,
        "precision": precision,
        "keep_size": keep_size,
        "verify": verify if spans is None else 0,
    }
    if removed:
        asked["spans"] = spans
    read = Path(source) if is_picture else source
    if out is not None and _band_by_band(out, asked, is_picture or spans is not None):
        kept = {"command": command_line(), "text": source}
        with continued_later(out):
            written = write_maps(
                out, model, processor, source, method=method or DEFAULT_METHOD, layer=layers, precision=precision,
                facts=kept,
            )  # fmt: skip
        show_written(out, written, as_json)
        return
    if page and not removed:
        results = explain_source(model, processor, read, views=True, **asked)
    else:
        results = [explain_source(model, processor, read, **asked)]
    if spans is not None and not removed:
        results = [one.spans(spans) for one in results]
    gallery = None
    if page and not is_picture and spans is None:
        make = head_gallery if heads else quick_gallery
        with Console(stderr=True).status("measuring what heads do"):
            gallery = make(model, processor, read, continuation=continuation, generate=generate)
    deliver(results, as_json, out, gallery=gallery, **({} if is_picture else {"text": source}))


def _band_by_band(out: Path, asked: Mapping[str, Any], changed: bool) -> bool:
    """Return whether the maps of all positions of a text go to their file as they are computed."""
    if ending(out) != COMPLETE or asked["positions"] != "all" or changed or asked["verify"]:
        return False
    others = ("target", "foil", "position", "patch", "continuation", "generate", "stage")  # explain takes or refuses
    if asked["variant"] != "published" or any(asked[name] is not None for name in others):
        return False
    method = find_method(asked["method"] or DEFAULT_METHOD)
    return method.map is not None and not method.asks


def _check_heads(page: bool, is_picture: bool, merged: bool) -> None:
    """Refuse a gallery of heads where there is no page of a text to show it."""
    if is_picture:
        raise InputError("--heads is for texts; it shows what heads do with tokens")
    if merged:
        raise InputError("--heads shows single tokens; leave out --words and --span")
    if not page:
        raise InputError("--heads is a part of the page; add --out with a .html file")
