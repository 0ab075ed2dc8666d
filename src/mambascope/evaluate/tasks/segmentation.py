"""Segmentation: does a map mark the object of its class, and not the other objects in the picture?

For each class that is in the picture and that the model sees, a method's map is compared with the object's mask as in
Chefer et al. 2021 (arXiv 2012.09838, section 4.2): by pixel accuracy and intersection over union of the pixels above
the map's own mean (pooled over all pictures), and by average precision. In pictures with several objects,
`mask_auc:others` measures how far the map of one class scores its own object above the others: a map that ignores the
class gets 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.evaluate.metrics.masks import (
    SegmentationCounts,
    mask_auc,
    pointing_game,
    released_average_precision,
    segmentation_counts,
)
from mambascope.evaluate.metrics.ranking import average_precision
from mambascope.evaluate.metrics.registry import Metric, find_metric
from mambascope.evaluate.patch_maps import patch_maps, pixel_map
from mambascope.evaluate.picture_task import PictureTask, model_inputs
from mambascope.evaluate.task import MainTable, Row, Sample
from mambascope.readouts import logits_of
from mambascope.trace import capture


@dataclass(frozen=True)
class Segmentation(PictureTask):
    """The segmentation task."""

    name: str = "segmentation"
    metrics: Sequence[Metric | str] = (
        find_metric("mask_auc:others").titled("AUC of the object's pixels against the other objects'"),
        "mask_auc",
        "pointing_game",
        find_metric("average_precision").titled("average precision of each map, averaged"),
        find_metric("average_precision:released").titled("mAP as the code of arXiv 2012.09838 computes it"),
        "pixel_accuracy",
        "mean_iou",
        find_metric("accuracy").titled("share of (picture, class) pairs that the model judges right"),
    )
    main: Sequence[MainTable] = (MainTable(("pixel_accuracy", "average_precision", "mean_iou", "mask_auc:others")),)

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the metrics of every method in every layer, averaged (counts: summed) over the classes seen."""
        model, _ = loaded
        picture = self.picture(sample)
        inputs = model_inputs(model, picture)
        trace = capture(model, **inputs)
        seen = (logits_of(trace.outputs)[0] > 0).cpu().numpy()
        present = np.isin(np.arange(len(seen)), picture.classes)
        rows = [Row(name, "accuracy", float((seen == present).mean())) for name in methods]
        chosen = [k for k, number in enumerate(picture.classes) if seen[number]]
        if not chosen:
            return rows
        assert picture.masks is not None
        masks = torch.from_numpy(picture.masks)
        labelled = torch.ones_like(masks[0]) if picture.labelled is None else torch.from_numpy(picture.labelled)
        asked = [picture.classes[k] for k in chosen]
        for found in patch_maps(model, inputs, methods, asked, trace):
            maps = pixel_map(found.maps, picture.pixels.shape[:2])
            results = [map_metrics(one, masks, k, labelled) for one, k in zip(maps, chosen, strict=True)]
            counts = sum((counted for _, counted in results), SegmentationCounts())
            values: dict[str, float] = {name: float(value) for name, value in counts.rows().items()}
            for name in results[0][0]:
                known = [of_map[name] for of_map, _ in results if not np.isnan(of_map[name])]
                values[name] = float(np.mean(known)) if known else float("nan")
            rows += [Row(found.method, name, value, found.layer) for name, value in values.items()]
        return rows


def map_metrics(
    scores: Float[Tensor, "H W"], masks: Tensor, number: int, labelled: Tensor
) -> tuple[dict[str, float], SegmentationCounts]:
    """Return the metrics of one object's map, and the counts for the derived metrics.

    Args:
        scores: The map.
        masks: The masks of all objects, (objects, H, W).
        number: The number of the map's object.
        labelled: The pixels with a label.
    """
    mask = masks[number]
    others = masks.any(dim=0) & ~mask
    values = {
        "mask_auc:others": mask_auc(scores, mask, others),
        "mask_auc": mask_auc(scores, mask, labelled & ~mask),
        "pointing_game": pointing_game(scores, mask),
        "average_precision": float(average_precision(scores[labelled], mask[labelled])),
        "average_precision:released": released_average_precision(scores, mask),
    }
    return values, segmentation_counts(scores, mask, labelled)
