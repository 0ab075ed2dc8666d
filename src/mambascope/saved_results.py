"""Complete results in files: everything that a result consists of, checked before it is believed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from mambascope.errors import CheckpointError
from mambascope.explained import WHOLE_MODEL, Model, Target, Text
from mambascope.grid import Grid
from mambascope.schemas import DamagedError, checked, read_json
from mambascope.tensor_files import write_tensors

FORMAT = "mambascope-attribution-1"

#: The ending of files that hold a whole result.
COMPLETE = ".safetensors"

#: The most pixels that a picture's patches may claim to cover, which is far more than any model reads.
MOST_PIXELS = 2**24

#: Above every number of layers, and every width, that a model has.
LARGEST = 2**31


class _Verified(TypedDict):
    """What removing sources did to the number explained at one position."""

    position: NonNegativeInt
    asked: Text
    value: float
    sources: list[NonNegativeInt]
    scores: list[float]
    knockout: list[float | None]
    occlusion: list[float | None]
    rank_correlation: dict[Literal["knockout", "occlusion"], float | None]


class _Lens(TypedDict):
    """What the residual stream predicts at one position, layer by layer."""

    position: NonNegativeInt
    layers: list[NonNegativeInt | None]
    likeliest: list[list[tuple[Text, float]]]
    explained: list[float] | None
    rank: list[NonNegativeInt] | None
    error: float


class _Evidence(TypedDict, total=False):
    """The entries that are written out in words; there may be others."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    reconstruction_error: float | None
    reconstruction_error_per_layer: list[float]
    conservation_error: float | None
    completeness_error: float | None
    residual: float | None
    products: Text | None
    products_error: float | None
    pixel_share: float | None
    terms: dict[str, float] | None
    seconds: float | None
    seconds_in_all: float | None
    seconds_capture: float | None
    caution: Text | None
    command: Text | None
    text: Text | None
    picture: Text | None
    written: Text | None
    preparation: Text | None
    variant: str | None
    layer_kinds: list[str] | None  # in files of earlier versions; now the model has them
    direct_by_kind: dict[Text, float | None]
    share_by_kind: dict[Text, float | None]
    stage: int | None
    stages: int
    per_target: list[dict[str, Any]]
    verified: list[_Verified]
    seconds_verified: float | None
    lens: list[_Lens]


class _Axes(BaseModel):
    layer: tuple[NonNegativeInt | Literal["all"], ...] = Field(min_length=1)
    target: tuple[NonNegativeInt, ...] = Field(min_length=1)
    source: tuple[NonNegativeInt, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> _Axes:
        last = max((layer for layer in self.layer if isinstance(layer, int)), default=0)
        if last >= LARGEST:
            raise ValueError(f"no model has a layer {last}")
        for name, axis in (("layer", self.layer), ("target", self.target)):
            if len(set(axis)) < len(axis):
                raise ValueError(f"the axis {name} names something twice")
        if WHOLE_MODEL in self.layer and len(self.layer) > 1:
            raise ValueError("the axis layer names the whole model among its layers")
        if self.source != tuple(range(len(self.source))):
            raise ValueError("the axis source does not count the positions from 0")
        return self


class _Facts(BaseModel):
    """Everything in a result except its tensors; entries of later versions are left out."""

    tokens: tuple[Text, ...]
    axes: _Axes
    method: str
    target: Target
    targets: tuple[Target, ...] = ()
    model: Model
    signed: bool
    diagnostics: _Evidence
    over_layers: Literal["mean", "sum"] = "mean"
    grid: Grid | None = None

    @model_validator(mode="after")
    def _fits(self) -> _Facts:
        length, rows, focus = len(self.tokens), self.axes.target, self.target
        if length != len(self.axes.source):
            raise ValueError(f"there are {length} tokens for {len(self.axes.source)} source positions")
        if max(rows) >= length:
            raise ValueError(f"position {max(rows)} is explained, but there are only {length} tokens")
        if self.targets and tuple(one.position for one in self.targets) != rows:
            raise ValueError(f"{len(self.targets)} targets do not match the positions of {len(rows)} rows")
        for one in (focus, *self.targets):
            _check_target(one, length)
        if focus.position not in rows and not 1 < focus.pooled == len(rows):
            raise ValueError(f"position {focus.position} is in focus, but has no scores")
        if not (0 < self.model.layers < LARGEST and 0 < self.model.hidden_size < LARGEST):
            raise ValueError(f"no model has {self.model.layers} layers of width {self.model.hidden_size}")
        if self.model.kinds and len(self.model.kinds) != self.model.layers:
            raise ValueError(f"{len(self.model.kinds)} kinds were given for {self.model.layers} layers")
        if self.grid is not None:
            _check_grid(self.grid, length)
        for entry in self.diagnostics.get("verified", ()):
            _check_verified(entry, rows, length)
        for lens in self.diagnostics.get("lens", ()):
            each = (lens["likeliest"], lens["explained"], lens["rank"])
            if any(values is not None and len(values) != len(lens["layers"]) for values in each):
                raise ValueError("the logit lens has more or fewer predictions than streams")
        return self


def _check_target(target: Target, length: int) -> None:
    places = (target.position, target.position if target.generated is None else target.generated, target.pooled - 1)
    if min(places) < 0 or max(places) >= length:
        raise ValueError(f"a target lies outside the {length} tokens")
    if target.value is not None and not math.isfinite(target.value):
        raise ValueError(f"the value of a target is {target.value}")
    if not all(0 <= probability <= 1.001 for _, probability in target.next_tokens):  # the sum of rounded numbers
        raise ValueError("a probability does not lie between 0 and 1")


def _check_verified(entry: _Verified, rows: tuple[int, ...], length: int) -> None:
    sources = entry["sources"]
    if entry["position"] not in rows or any(source >= length for source in sources):
        raise ValueError("sources were removed of a target or at a place that the result does not have")
    if any(len(found) != len(sources) for found in (entry["scores"], entry["knockout"], entry["occlusion"])):
        raise ValueError(f"{len(sources)} sources were removed, but there are more or fewer measurements")


def _check_grid(grid: Grid, length: int) -> None:
    if min(grid.rows, grid.columns, grid.patch, grid.stride) < 1 or not 0 <= (grid.class_position or 0) < length:
        raise ValueError(f"{grid} is no arrangement of patches")
    if grid.tokens != length:
        raise ValueError(f"a grid of {grid.tokens} tokens was given for {length} source positions")
    if grid.size[0] * grid.size[1] > MOST_PIXELS:
        raise ValueError(f"patches cover {grid.size[0]} × {grid.size[1]} pixels, which is more than a model reads")


def write_saved(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a result's facts and tensors to a file, whole or not at all.

    Raises:
        InputError, OutputError: as `whole_file`.
    """
    write_tensors(path, tensors, texts_of(facts))


def texts_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the header of a file that holds a result with these facts."""
    return {"format": FORMAT, "attribution": json.dumps(facts)}


def read_saved(path: Path) -> dict[str, Any]:
    """Return what a saved result consists of: the arguments of `Attribution`.

    Raises:
        CheckpointError: if the file is of another kind, missing, cut short, or its parts do not fit each other.
    """
    if path.suffix.lower() != COMPLETE:
        raise CheckpointError(
            f"{path} is not a {COMPLETE} file, the only kind that holds a whole result and can be loaded"
        )
    try:
        texts, tensors = _contents(path)
        if texts.get("format") != FORMAT:
            raise CheckpointError(f"{path} is not a saved attribution (no {FORMAT} mark in its header)")
        stored = read_json(texts.get("attribution", ""))
        facts = checked(_Facts, stored)
        fitting = _fitting(tensors, facts)
    except (OSError, SafetensorError, DamagedError) as error:
        raise CheckpointError(f"{path} could not be read as a saved attribution: {error}") from error
    evidence = facts.diagnostics
    return {
        "tokens": facts.tokens,
        "axes": dict(facts.axes),
        "method": facts.method,
        "target": facts.target,
        "targets": facts.targets,
        "model": facts.model,
        "signed": facts.signed,
        "diagnostics": {name: evidence[name] for name in stored["diagnostics"]},  # type: ignore[literal-required]
        "over_layers": facts.over_layers,
        "grid": facts.grid,
        **fitting,
    }


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return a file's texts and its tensors of the names that a result has."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DamagedError("it is not a file")
    with safe_open(path, framework="pt") as file:
        names = set(file.keys()) & {"scores", "image", "pixels"}
        return file.metadata() or {}, {name: file.get_tensor(name) for name in names}


def _fitting(tensors: Mapping[str, Tensor], facts: _Facts) -> dict[str, Tensor]:
    """Return the tensors of a result, scores and pixels as float32, if they fit the facts and each other."""
    axes = (len(facts.axes.layer), len(facts.axes.target), len(facts.axes.source))
    if "scores" not in tensors:
        raise DamagedError("it holds no scores")
    if tuple(tensors["scores"].shape) != axes:
        raise DamagedError(f"scores of shape {tuple(tensors['scores'].shape)} do not match axes of lengths {axes}")
    for name in ("scores", "pixels"):
        if name in tensors and not tensors[name].is_floating_point():
            raise DamagedError(f"{name} of type {tensors[name].dtype} are not floating-point numbers")
    image, pixels = tensors.get("image"), tensors.get("pixels")
    if facts.grid is None and (image is not None or pixels is not None):
        raise DamagedError("it holds a picture, but not which tokens are its patches")
    if image is not None and (
        image.dtype != torch.uint8 or image.dim() != 3 or image.shape[2] != 3 or not image.numel()
    ):
        raise DamagedError(
            f"a picture of shape {tuple(image.shape)} and type {image.dtype} is not (height, width, 3) bytes"
        )
    if pixels is not None and (pixels.dim() != 2 or not pixels.numel()):
        raise DamagedError(f"pixels of shape {tuple(pixels.shape)} are not (height, width)")
    return {name: tensor if name == "image" else tensor.float() for name, tensor in tensors.items()}
