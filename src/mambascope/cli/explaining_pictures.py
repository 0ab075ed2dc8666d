"""`mambascope explain PICTURE`: the same verb where the argument names a picture's file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mambascope.attribution import Attribution
from mambascope.cli.asked import layers_asked, patch_asked
from mambascope.cli.delivering import check_out, deliver
from mambascope.errors import InputError
from mambascope.explanation import DEFAULT_METHOD, default_method, explain_picture_methods
from mambascope.explanation.explaining import check_options, check_targets
from mambascope.explanation.stages import explains_stage, stage_number
from mambascope.explanation.views import readable_methods, with_views
from mambascope.inputs.pictures import read_picture
from mambascope.methods.method import Method
from mambascope.methods.registry import find_method
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import Layers


def explain_picture(
    file: str,
    load: Callable[[], tuple[Any, Any]],
    *,
    method: str | None,
    target: str | None,
    foil: str | None,
    patch: str | None,
    stage: int | None,
    layer: str,
    targets: Literal["position", "all"],
    variant: Literal["published", "reference-code"],
    keep_size: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Explain one picture and print or write the result; refuses what cannot work before the model is loaded."""
    number, place = layers_asked(layer), patch_asked(patch)
    check_out(out)
    if not Path(file).is_file():
        raise InputError(f"there is no picture {file}")
    if method is not None:
        check_options([find_method(method)], number, targets, variant)
        check_targets([find_method(method)], target, foil)
    model, _ = load()
    picture = read_picture(file, model, keep_size=keep_size)
    default = DEFAULT_METHOD if place else default_method(model, target, foil, layer=number)
    chosen = find_method(method or (DEFAULT_METHOD if targets == "all" else default))
    stage = stage_number(model, [chosen], stage)

    def explained(methods: Sequence[Method], every: bool) -> list[Attribution]:
        """Return results from one capture; methods that score a position are told of no class."""
        told = methods[0].asks or methods[0] is chosen
        return explain_picture_methods(
            model,
            picture,
            methods=[one.name for one in methods],
            target=target if told else None,
            foil=foil if told else None,
            patch=place,
            layer=number,
            targets="all" if every else "position",
            variant=variant,
            stage=stage,
        )

    started = time.perf_counter()
    results = explained([chosen], targets == "all")
    if out is not None and out.suffix.lower() == ".html" and variant == "published":
        results = with_views(results[0], _others(model, number, place, stage), explained, started=started)
    deliver(results, as_json, out)


def _others(model: Any, layer: Layers, patch: tuple[int, int] | None, stage: int | None) -> list[Method]:
    """Return the methods that can read the model and what is asked."""
    able = [one for one in readable_methods(model) if layer == "all" or one.scope == "layer"]
    if isinstance(model, StagedModel) and stage is not None:
        able = [one for one in able if explains_stage(model, one, stage)]
    return [one for one in able if patch is None or one.by_place]
