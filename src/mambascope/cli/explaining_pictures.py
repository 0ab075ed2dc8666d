"""`mambascope explain PICTURE`: the same verb where the argument names a picture's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mambascope.cli.asked import layers_asked, patch_asked
from mambascope.cli.delivering import check_out, deliver
from mambascope.cli.progress import LateProgress
from mambascope.errors import InputError
from mambascope.explanation import DEFAULT_METHOD, default_method, explain_picture_methods
from mambascope.explanation.explaining import check_asked, check_heard
from mambascope.explanation.pictures import WHEREVER_IT_IS_READ, picture_grid
from mambascope.explanation.stages import explains_stage, stage_number
from mambascope.grid import Grid
from mambascope.methods.attribution import Attribution
from mambascope.methods.registry import METHODS, Method, find_method
from mambascope.trace.families import AttentionFamily, find_mixers
from mambascope.trace.picture_models import StagedModel
from mambascope.trace.pictures import read_picture

#: Most tokens of which a page shows every one's sources unless told otherwise: 14 x 14 patches and their kin.
EVERY_TARGET = 260

#: What a page can switch to beside the chosen method and `latim`, which shows the sources of every patch: one of a
#: kind, none of them slow.
SWITCHES = (
    "hidden-attention",
    "raw-attention",
    "rollout",
    "mamba-attribution",
    "transformer-attribution",
    "mamba-lrp",
    "alti-logit",
)


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
    targets: Literal["auto", "position", "all"],
    compat: Literal["published", "released"],
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
        check_asked([find_method(method)], number, "position" if targets == "auto" else targets, compat)
        check_heard([find_method(method)], target, foil)
    model, _ = load()
    picture = read_picture(file, model, keep_size=keep_size)
    default = DEFAULT_METHOD if place else default_method(model, target, foil, layer=number)
    chosen = find_method(method or (DEFAULT_METHOD if targets == "all" else default))
    page = out is not None and out.suffix.lower() == ".html"
    stage = stage_number(model, [chosen], stage)
    grid = picture_grid(model, {"pixel_values": picture.pixel_values}, stage)
    roomy = page and targets == "auto" and compat == "published" and grid is not None and grid.tokens <= EVERY_TARGET

    def scored(group: list[Method], every: bool, label: str) -> list[Attribution]:
        """Return results from one capture; methods that hear of no class are not told of one unless it was chosen."""
        told = group[0].asks or group[0] is chosen
        with LateProgress(label) as progress:
            return explain_picture_methods(
                model,
                picture,
                methods=[one.name for one in group],
                target=target if told else None,
                foil=foil if told else None,
                patch=place,
                layer=number,
                targets="all" if every else "position",
                compat=compat,
                stage=stage,
                progress=progress,
            )

    results = scored([chosen], targets == "all" or (roomy and chosen.scope == "layer"), "explaining")
    if page and compat == "published":
        others = _others(model, chosen, number, place, stage, grid)
        for group in ([one for one in others if one.asks], [one for one in others if not one.asks]):
            results += scored(group, False, "other methods") if group else []
        if roomy and chosen.name != DEFAULT_METHOD:
            results += scored([METHODS[DEFAULT_METHOD]], True, "every patch")
    deliver(results, as_json, out)


def _others(
    model: Any,
    chosen: Method,
    layer: int | slice | str,
    patch: tuple[int, int] | None,
    stage: int | None,
    grid: Grid | None,
) -> list[Method]:
    """Return the methods that a page can switch to: those of `SWITCHES` that can read the model and what is asked."""
    kinds = {"attention" if isinstance(family, AttentionFamily) else "scan" for _, _, family in find_mixers(model)}
    able = [METHODS[name] for name in SWITCHES if kinds <= METHODS[name].kinds and name != chosen.name]
    able = [one for one in able if layer == "all" or one.scope == "layer"]
    if isinstance(model, StagedModel) and stage is not None:
        if grid is None or grid.tokens > EVERY_TARGET:  # a class is then asked of thousands of patches
            return []
        able = [one for one in able if explains_stage(model, one, stage)]
    return [one for one in able if patch is None or one.name not in WHEREVER_IT_IS_READ]
