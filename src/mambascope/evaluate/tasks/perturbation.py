"""Perturbation of pictures: does the answer change when the pixels that a map points at are erased, and stay otherwise?

Image perturbation as in Chefer et al. 2021 (arXiv 2012.09838, section 4.1) and Ali, Zimerman & Wolf (arXiv 2403.01590):
a tenth to nine tenths of the pixels are erased, and the area under the accuracy curve is reported, for the map of the
class that the model predicts and for that of the picture's own class. In addition, patches are erased in steps of a
tenth, and the predicted class's logit is recorded (ΔA_F of Jafari et al., arXiv 2406.07592). Inserting patches into an
empty picture, most relevant first, gives the curve of erasing the least relevant first, read backwards: the area of
insertion is `flipping_area_least_first`, that of deletion `flipping_area_most_first`, and ΔA_I equals ΔA_F. Only scores
of the whole model are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mambascope.evaluate.data.picture_sets import LabelledPicture, picture_set
from mambascope.evaluate.metrics.image_perturbation import image_perturbation, kept_patches
from mambascope.evaluate.metrics.perturbation_curve import perturbation_curves
from mambascope.evaluate.metrics.registry import Metric, find_metric
from mambascope.evaluate.patch_maps import class_grid, patch_maps, pixel_map
from mambascope.evaluate.picture_task import PictureTask, model_inputs, pixels_of
from mambascope.evaluate.task import NO_LAYER, MainTable, Row, Sample
from mambascope.readouts import logits_of
from mambascope.trace import capture
from mambascope.trace.intervene import intervening
from mambascope.trace.running import call, running

#: The class whose map is evaluated: the class that the model finds likeliest, or the picture's own.
ANSWERS = ("predicted", "target")
SIGNS = ("positive", "negative")
MAPS = ("maps of the class that the model predicts", "maps of the class that the picture is of")


@dataclass(frozen=True)
class Perturbation(PictureTask):
    """The perturbation task."""

    name: str = "perturbation"
    metrics: Sequence[Metric | str] = (
        *(f"perturbation_{sign}_area:{answer}" for answer in ANSWERS for sign in SIGNS),
        find_metric("flipping_gap").titled("area of the logit as patches go, least relevant first less most"),
        find_metric("flipping_area_most_first").titled("area of the logit as patches are deleted"),
        find_metric("flipping_area_least_first").titled("area of the logit as patches are inserted"),
        find_metric("accuracy").titled("share of pictures (of exclusive classes) or of classes judged right"),
    )
    main: Sequence[MainTable] = tuple(
        MainTable(tuple(f"perturbation_{sign}_area:{answer}" for sign in SIGNS), about)
        for answer, about in zip(ANSWERS, MAPS, strict=True)
    )

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the areas for the maps of both answers, and the gap for the predicted one, for every method."""
        model, _ = loaded
        exclusive = picture_set(self.pictures).exclusive
        picture = self.picture(sample)
        inputs = model_inputs(model, picture)
        trace = capture(model, **inputs)
        logits = logits_of(trace.outputs)[0].float().cpu()
        predicted, target = int(logits.argmax()), target_class(picture, logits)
        rows = [Row(name, "accuracy", accuracy(picture, logits, exclusive)) for name in methods]
        grid, _ = class_grid(model, inputs)
        pixels = pixels_of(picture)
        asked = list(dict.fromkeys((predicted, target)))
        for found in patch_maps(model, inputs, methods, asked, trace):
            if found.layer != NO_LAYER:
                continue
            for answer, number in zip(ANSWERS, (predicted, target), strict=True):
                scores = found.maps[asked.index(number)]
                # watch the picture's own class if classes are exclusive, else the class of the map
                holds = stays(model, target if exclusive else number, exclusive)
                curves = image_perturbation(pixel_map(scores, picture.pixels.shape[:2]), pixels, holds)
                rows += [Row(found.method, name, value) for name, value in curves.rows(answer).items()]
            flat = found.maps[asked.index(predicted)].flatten()
            readout = logit_of_kept(model, pixels, (grid.rows, grid.columns), predicted)
            flipped = perturbation_curves(flat, readout, "flipping", batch=32)
            rows += [Row(found.method, name, value) for name, value in flipped.rows().items()]
        return rows


def target_class(picture: LabelledPicture, logits: Float[Tensor, " classes"]) -> int:
    """Return the picture's class; of several, the one with the highest logit."""
    return max(picture.classes, key=lambda number: float(logits[number]))


def accuracy(picture: LabelledPicture, logits: Float[Tensor, " classes"], exclusive: bool) -> float:
    """Return 1 or 0 for exclusive classes, else the share of classes that the model gets right, present or absent."""
    if exclusive:
        return float(int(logits.argmax()) in picture.classes)
    present = torch.zeros(len(logits), dtype=torch.bool)
    present[list(picture.classes)] = True
    return float(((logits > 0) == present).float().mean())


def stays(model: nn.Module, number: int, exclusive: bool) -> Callable[[Tensor], Tensor]:
    """Return a function that tells whether a model sees a class in pictures; of exclusive classes, the likeliest."""

    def holds(pictures: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
        logits = _logits(model, pictures)
        return (logits.argmax(dim=1) == number if exclusive else logits[:, number] > 0).float()

    return holds


def logit_of_kept(
    model: nn.Module, pixels: Float[Tensor, "3 H W"], grid: tuple[int, int], number: int
) -> Callable[[Tensor], Tensor]:
    """Return a function that gives a class's logit for a picture with only some patches kept."""

    def readout(kept: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
        return _logits(model, kept_patches(pixels, kept, grid))[:, number]

    return readout


def _logits(model: nn.Module, pictures: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b classes"]:
    device = next(model.parameters()).device
    with running(model) as own, intervening(own, None):
        return logits_of(call(own, {"pixel_values": pictures.to(device)})).float().cpu()
