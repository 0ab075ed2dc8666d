"""From a vision model and a picture to a result: which patches a class, or one patch, drew from."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import UInt8
from torch import Tensor
from transformers import PreTrainedModel

from mambascope.attribution import Attribution
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation.asking import Question
from mambascope.explanation.defaults import DEFAULT_METHOD, default_method
from mambascope.explanation.explaining import Progress, check_options, check_targets, explain_inputs
from mambascope.explanation.stages import stage_number
from mambascope.families import check_model, find_mixers
from mambascope.grid import Grid
from mambascope.inputs.patches import patch_grid, stage_grid
from mambascope.inputs.pictures import Picture, read_picture
from mambascope.inputs.preparation import own_size
from mambascope.methods.method import Method
from mambascope.methods.reference_code import Variant
from mambascope.methods.registry import METHODS, find_method
from mambascope.models.picture_models import StagedModel
from mambascope.models.vim import VisionMamba
from mambascope.numbering import LayersAsked, read_layers, shown, whole_numbers


def explain_picture(
    model: PreTrainedModel,
    picture: Any,
    *,
    method: str | None = None,
    target: str | int | None = None,
    foil: str | int | None = None,
    patch: tuple[int, int] | None = None,
    layer: LayersAsked = "all",
    targets: Literal["position", "all"] = "position",
    variant: Variant = "published",
    stage: int | None = None,
    keep_size: bool = False,
    progress: Progress = None,
) -> Attribution:
    """Return which patches of a picture an output drew from.

    Args:
        model: A vision model, as `load` returns it.
        picture: A file, an image of Pillow, pixels (h, w, 3) as uint8, or what `read_picture` returned.
        method: Name of a method, see `METHODS`; by default the one that explains a prediction, for a patch `latim`.
        target: The class to explain, by name or number, in place of the likeliest.
        foil: A class to contrast with.
        patch: Explain what stands at this row and column of the patches, from 0, in place of where classes are read;
            where no class is named, methods that explain a number explain the size of the patch's features.
        layer, targets, variant, progress: As in `explain`.
        stage: Of VMamba and MambaVision, whose stages read fewer and fewer patches, the one that is explained, from its
            own patches: the number among those that mix tokens; see `explain_inputs`.
        keep_size: Leave the picture at its own size, with the model's positions interpolated.

    Raises:
        InputError: if the picture cannot be read, the model reads none, or what is asked does not exist or cannot be
            combined.
        UnsupportedModelError: as `explain` does, or if the model's tokens cannot be laid over the picture.
        ReconstructionError: as `capture` does.
    """
    check_model(model)
    layer = read_layers(layer)
    default = DEFAULT_METHOD if patch is not None else default_method(model, target, foil, layer=layer, targets=targets)
    return explain_picture_methods(
        model,
        picture,
        methods=[method or default],
        target=target,
        foil=foil,
        patch=patch,
        layer=layer,
        targets=targets,
        variant=variant,
        stage=stage,
        keep_size=keep_size,
        progress=progress,
    )[0]


def explain_picture_methods(
    model: PreTrainedModel,
    picture: Any,
    *,
    methods: Sequence[str],
    target: str | int | None = None,
    foil: str | int | None = None,
    patch: tuple[int, int] | None = None,
    layer: LayersAsked = "all",
    targets: Literal["position", "all"] = "position",
    variant: Variant = "published",
    stage: int | None = None,
    keep_size: bool = False,
    progress: Progress = None,
) -> list[Attribution]:
    """Return one result per method, all from a single capture; arguments as in `explain_picture`."""
    find_mixers(model)
    chosen = [find_method(name) for name in methods]
    check_options(chosen, layer, targets, variant)
    check_targets(chosen, target, foil)
    named = target is not None or foil is not None
    check_patch(chosen, patch, features=not named and has_features(model))
    prepared = picture if isinstance(picture, Picture) else read_picture(picture, model, keep_size=keep_size)
    inputs = _inputs(model, prepared)
    position = None
    if patch is not None:
        grid = picture_grid(model, inputs, stage_number(model, chosen, stage))
        if grid is None:
            raise UnsupportedModelError(f"{type(model).__name__} does not say how it cuts pictures into patches")
        position = grid.position(*_place(patch))
    results = explain_inputs(
        model,
        inputs,
        None,
        chosen,
        Question(target, foil, position, features=patch is not None and not named and has_features(model)),
        layer=layer,
        targets=targets,
        variant=variant,
        stage=stage,
        progress=progress,
    )
    return [_with_picture(result, prepared, inputs) for result in results]


def picture_grid(model: PreTrainedModel, inputs: dict[str, Any], stage: int | None) -> Grid | None:
    """Return how the tokens that are explained lie in the picture; None if the model does not say."""
    if isinstance(model, StagedModel):
        return stage_grid(model, stage or 0, inputs)
    return patch_grid(model, inputs)


def _place(patch: Any) -> tuple[int, int]:
    """Return the row and the column of a patch."""
    place = whole_numbers(patch, "patch")
    if len(place) != 2:
        raise InputError(f"a patch is a row and a column from 0, such as (3, 7), found {shown(patch)}")
    return place[0], place[1]


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


def has_features(model: PreTrainedModel) -> bool:
    """Return whether a model returns the features of its patches beside the classes."""
    return isinstance(model, VisionMamba)


def _inputs(model: PreTrainedModel, picture: Picture) -> dict[str, Any]:
    """Return what the model is called with; a Transformer is told where its positions must be interpolated."""
    inputs: dict[str, Any] = {"pixel_values": picture.pixel_values.to(model.device, model.dtype)}
    other = tuple(picture.pixel_values.shape[-2:]) != own_size(model)
    if other and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        inputs["interpolate_pos_encoding"] = True
    return inputs


def _with_picture(result: Attribution, picture: Picture, inputs: dict[str, Any]) -> Attribution:
    """Return the result with the picture that it is of, and what was done to it, among the evidence."""
    if result.grid is None:
        raise UnsupportedModelError(
            f"the {len(result.tokens)} tokens of {result.model.class_name} are not whole patches of its picture with "
            "one class token or none, so scores cannot be laid over it; in Python explain_inputs scores them by number"
        )
    height, width = inputs["pixel_values"].shape[-2:]
    notes = [*picture.notes, *_unread(result.grid, height, width)]
    facts = {"picture": picture.name, **({"preparation": "; ".join(notes)} if notes else {})}
    return dataclasses.replace(
        result,
        image=_covered(picture.image, result.grid, height, width),
        diagnostics={**result.diagnostics, **facts},
    )


def _unread(grid: Grid, height: int, width: int) -> list[str]:
    """Return what there is to say of pixels at the right and below that make no patch."""
    below, right = height - grid.size[0], width - grid.size[1]
    if not below and not right:
        return []
    return [f"{right} columns of pixels at the right and {below} rows below are not read: they make no patch"]


def _covered(image: UInt8[Tensor, "h w 3"], grid: Grid, height: int, width: int) -> UInt8[Tensor, "H W 3"]:
    """Return the part of the picture that the patches cover."""
    rows = round(image.shape[0] * grid.size[0] / height)
    columns = round(image.shape[1] * grid.size[1] / width)
    return image[: max(rows, 1), : max(columns, 1)].contiguous()
