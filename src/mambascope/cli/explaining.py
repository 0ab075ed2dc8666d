"""`mambascope explain`: check what was asked for, explain, print, write."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mambascope.cli.asked import layers_asked, patch_asked, positions_asked, short
from mambascope.cli.delivering import check_out, deliver
from mambascope.errors import InputError
from mambascope.explanation.defaults import DEFAULT_METHOD, default_method
from mambascope.explanation.explaining import answer, ask, check_options, check_targets
from mambascope.explanation.stages import stage_number
from mambascope.explanation.subject import read_subject
from mambascope.explanation.views import with_views
from mambascope.inputs.preparation import reads_pictures
from mambascope.methods.registry import find_method


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
    keep_size: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Explain one text or picture and print or write the result; refuses what it can before the model is loaded."""
    if is_picture and not Path(argument).is_file():
        raise InputError(f"there is no picture {argument}")
    source = sys.stdin.read() if argument == "-" and not is_picture else argument
    if not source:
        raise InputError("the text is empty; pass at least one word")
    layers, places, place = layers_asked(layer), positions_asked(positions), patch_asked(patch)
    check_out(out)
    if method is not None:
        check_options([find_method(method)], layers, variant)
        check_targets([find_method(method)], target, foil)
    model, processor = load()
    if reads_pictures(model) and not is_picture:
        raise InputError(
            f"{type(model).__name__} reads pictures, and there is no file {short(source)} that is one; name a picture"
        )
    started = time.perf_counter()
    asks = target is not None or foil is not None or continuation is not None or generate is not None
    default = DEFAULT_METHOD if place else default_method(model, asks, layer=layers, every=places == "all")
    chosen = [find_method(method or default)]
    check_targets(chosen, target, foil)
    read = Path(source) if is_picture else source
    subject = read_subject(model, processor, read, continuation=continuation, generate=generate, keep_size=keep_size)
    stage = stage_number(model, chosen, stage)
    question = ask(
        subject, chosen, target=target, foil=foil, position=position, positions=places, patch=place,
        each=generate is not None, stage=stage,
    )  # fmt: skip
    results = answer(subject, chosen, question, layer=layers, stage=stage, variant=variant)
    if out is not None and out.suffix.lower() == ".html" and variant == "published":
        results = with_views(subject, results[0], question, layer=layers, stage=stage, started=started)
    deliver(results, as_json, out, **({} if is_picture else {"text": source}))
