"""Perturbation of pictures: does the answer fall when the pixels that a map points at are erased, and stay otherwise?

Image perturbation as in Chefer et al. 2021 (arXiv 2012.09838, section 4.1) and Ali, Zimerman & Wolf (arXiv 2403.01590):
a tenth to nine tenths of the pixels are erased, and the area under the curve of accuracy is reported, for the map of
the class that the model predicts and for that of the class that the picture is of. Beside it, patches are erased one
tenth after another, and the predicted class's logit is followed (ΔA_F of Jafari et al., arXiv 2406.07592). Patches that
are inserted into an empty picture, most relevant first, give the curve of erasing the least relevant first read
backwards: the area of insertion is `flipping_area_least_first`, that of deletion `flipping_area_most_first`, and ΔA_I
is ΔA_F. Only scores of the whole model are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mambascope.evaluate.data.picture_sets import JudgedPicture, picture_set
from mambascope.evaluate.metrics.image_perturbation import image_perturbation
from mambascope.evaluate.metrics.kept_patches import kept_patches
from mambascope.evaluate.metrics.perturbation_curve import perturbation_curves
from mambascope.evaluate.metrics.pixel_map import pixel_map
from mambascope.evaluate.patch_maps import class_grid, patch_maps
from mambascope.evaluate.picture_task import OnPictures, model_inputs, pixels_of
from mambascope.evaluate.task import NO_LAYER, MainTable, Metric, Row, Sample
from mambascope.readouts import logits_of
from mambascope.trace import capture
from mambascope.trace.intervene import intervening
from mambascope.trace.running import call

#: Whose map is asked for: the class that the model finds likeliest, or one that the picture is of.
ANSWERS = ("predicted", "target")
MAPS = ("maps of the class that the model predicts", "maps of the class that the picture is of")


@dataclass(frozen=True)
class Perturbation(OnPictures):
    """The task."""

    name: str = "perturbation"
    metrics: Sequence[Metric] = (
        *(
            Metric(
                f"perturbation_{sign}_area:{answer}",
                better,
                f"area under the accuracy as pixels go, {order} relevant first",
            )
            for answer in ANSWERS
            for sign, better, order in (("positive", False, "most"), ("negative", True, "least"))
        ),
        Metric("flipping_gap", title="area of the logit as patches go, least relevant first less most"),
        Metric("flipping_area_most_first", higher_is_better=False, title="area of the logit as patches are deleted"),
        Metric("flipping_area_least_first", title="area of the logit as patches are inserted"),
        Metric("accuracy", title="share of pictures (of exclusive classes) or of classes judged right"),
    )
    main: Sequence[MainTable] = tuple(
        MainTable(tuple(f"perturbation_{sign}_area:{answer}" for sign in ("positive", "negative")), about)
        for answer, about in zip(ANSWERS, MAPS, strict=True)
    )

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the areas of both answers' maps, and the gaps of the predicted one's, for every method."""
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
                # the answer that is watched is the picture's own where it has one class, else the class of the map
                holds = stays(model, target if exclusive else number, exclusive)
                curves = image_perturbation(pixel_map(scores, picture.pixels.shape[:2]), pixels, holds)
                rows += [Row(found.method, name, value) for name, value in curves.rows(answer).items()]
            flat = found.maps[asked.index(predicted)].flatten()
            readout = logit_of_kept(model, pixels, (grid.rows, grid.columns), predicted)
            flipped = perturbation_curves(flat, readout, "flipping", batch=32)
            rows += [Row(found.method, name, value) for name, value in flipped.rows().items()]
        return rows


def target_class(picture: JudgedPicture, logits: Float[Tensor, " classes"]) -> int:
    """Return the picture's class; of several, that of which the model is surest."""
    return max(picture.classes, key=lambda number: float(logits[number]))


def accuracy(picture: JudgedPicture, logits: Float[Tensor, " classes"], exclusive: bool) -> float:
    """Return 1 or 0 for a picture of one class, else the share of classes that are rightly said to be there or not."""
    if exclusive:
        return float(int(logits.argmax()) in picture.classes)
    there = torch.zeros(len(logits), dtype=torch.bool)
    there[list(picture.classes)] = True
    return float(((logits > 0) == there).float().mean())


def stays(model: nn.Module, number: int, exclusive: bool) -> Callable[[Tensor], Tensor]:
    """Return what says whether pictures are (of exclusive classes) or show a class, in a model's eyes."""

    def holds(pictures: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
        logits = _logits(model, pictures)
        return (logits.argmax(dim=1) == number if exclusive else logits[:, number] > 0).float()

    return holds


def logit_of_kept(
    model: nn.Module, pixels: Float[Tensor, "3 H W"], grid: tuple[int, int], number: int
) -> Callable[[Tensor], Tensor]:
    """Return what gives a class's logit for pictures with some of their patches kept."""

    def readout(kept: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
        return _logits(model, kept_patches(pixels, kept, grid))[:, number]

    return readout


def _logits(model: nn.Module, pictures: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b classes"]:
    device = next(model.parameters()).device
    with torch.no_grad(), intervening(model, None):
        return logits_of(call(model, {"pixel_values": pictures.to(device)})).float().cpu()
