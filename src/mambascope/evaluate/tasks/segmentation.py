"""Segmentation: does a map mark the object that the class is about, and not the other objects in the picture?

A model says which classes it sees; for each that is there and seen, a method's map is laid over the picture, and judged
as in Chefer et al. 2021 (arXiv 2012.09838, section 4.2) by pixel accuracy and intersection over union above its own
mean (pooled over all pictures) and by average precision. Where several objects stand side by side, `mask_auc:others`
asks how far the map of one class scores its own object above the others: a map that is not about the class gets 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.evaluate.metrics.average_precision import average_precision
from mambascope.evaluate.metrics.mask_auc import mask_auc
from mambascope.evaluate.metrics.pixel_map import pixel_map
from mambascope.evaluate.metrics.pointing_game import pointing_game
from mambascope.evaluate.metrics.segmentation import (
    SegmentationCounts,
    released_average_precision,
    segmentation_counts,
)
from mambascope.evaluate.patch_maps import patch_maps
from mambascope.evaluate.picture_task import OnPictures, model_inputs
from mambascope.evaluate.task import MainTable, Metric, Row, Sample
from mambascope.readouts import logits_of
from mambascope.trace import capture


@dataclass(frozen=True)
class Segmentation(OnPictures):
    """The task."""

    name: str = "segmentation"
    metrics: Sequence[Metric] = (
        Metric("mask_auc:others", title="AUC of the object's pixels against the other objects'"),
        Metric("mask_auc", title="AUC of the object's pixels against all others"),
        Metric("pointing_game", title="share of maps whose highest pixel is on the object"),
        Metric("average_precision", title="average precision of each map, averaged"),
        Metric("average_precision:released", title="mAP as the code of arXiv 2012.09838 computes it"),
        Metric("pixel_accuracy", title="share of pixels that the map marks rightly, cut at its mean"),
        Metric("mean_iou", title="mean intersection over union of the map, cut at its mean, and the object"),
        Metric("accuracy", title="share of (picture, class) pairs that the model judges right"),
    )
    main: Sequence[MainTable] = (MainTable(("pixel_accuracy", "average_precision", "mean_iou", "mask_auc:others")),)

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the metrics of every method in every layer, averaged (and counts summed) over the classes seen."""
        model, _ = loaded
        picture = self.picture(sample)
        inputs = model_inputs(model, picture)
        trace = capture(model, **inputs)
        seen = (logits_of(trace.outputs)[0] > 0).cpu().numpy()
        there = np.isin(np.arange(len(seen)), picture.classes)
        rows = [Row(name, "accuracy", float((seen == there).mean())) for name in methods]
        chosen = [k for k, number in enumerate(picture.classes) if seen[number]]
        if not chosen:
            return rows
        assert picture.masks is not None
        masks = torch.from_numpy(picture.masks)
        labelled = torch.ones_like(masks[0]) if picture.labelled is None else torch.from_numpy(picture.labelled)
        asked = [picture.classes[k] for k in chosen]
        for found in patch_maps(model, inputs, methods, asked, trace):
            maps = pixel_map(found.maps, picture.pixels.shape[:2])
            verdicts = [judged_map(one, masks, k, labelled) for one, k in zip(maps, chosen, strict=True)]
            counts = sum((counted for _, counted in verdicts), SegmentationCounts())
            figures: dict[str, float] = {name: float(value) for name, value in counts.rows().items()}
            for name in verdicts[0][0]:
                known = [values[name] for values, _ in verdicts if not np.isnan(values[name])]
                figures[name] = float(np.mean(known)) if known else float("nan")
            rows += [Row(found.method, name, value, found.layer) for name, value in figures.items()]
        return rows


def judged_map(
    scores: Float[Tensor, "H W"], masks: Tensor, number: int, labelled: Tensor
) -> tuple[dict[str, float], SegmentationCounts]:
    """Return the figures of one object's map, and the counts that others are made of.

    Args:
        scores: The map.
        masks: The masks of all objects, (objects, H, W).
        number: Which of them the map is about.
        labelled: The pixels of which it is known what they show.
    """
    mask = masks[number]
    others = masks.any(dim=0) & ~mask
    figures = {
        "mask_auc:others": mask_auc(scores, mask, others),
        "mask_auc": mask_auc(scores, mask, labelled & ~mask),
        "pointing_game": pointing_game(scores, mask),
        "average_precision": float(average_precision(scores[labelled], mask[labelled])),
        "average_precision:released": released_average_precision(scores, mask),
    }
    return figures, segmentation_counts(scores, mask, labelled)
