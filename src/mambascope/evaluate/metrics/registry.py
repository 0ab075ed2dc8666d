"""The metrics: what each is called, which way is better, and which are computed from summed counts.

A name may carry a variant after a colon, as in `recall_at_k:5` or `aer:intersection`: the same metric, computed another
way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mambascope.brief import brief
from mambascope.evaluate.metrics.alignment_error_rate import alignment_error_rate, share
from mambascope.evaluate.metrics.masks import mean_iou
from mambascope.registry import Registry


@dataclass(frozen=True)
class Metric:
    """A number by which methods are compared.

    Attributes:
        name: What tables of results call it; after a colon, its variant.
        better: Which way is better; None if the metric is not ranked.
        title: What it measures, in a few words.
        label: What readers call it, as in the head of a column; by default the title, or the name if there is none.
        counts: For a derived metric, the names of the counts that each sample has. Its value over many samples is
            computed from the sums of these counts; it is not a mean over samples.
        formula: How a derived metric is computed: a function from arrays of sums, in the order of `counts`, to an array
            of values, element by element.
    """

    name: str
    better: Literal["higher", "lower"] | None
    title: str = ""
    label: str = ""
    counts: tuple[str, ...] = ()
    formula: Callable[..., np.ndarray] | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.title or self.name)

    def titled(self, title: str) -> Metric:
        """Return the same metric with another title, for a task that can say more precisely what it measures."""
        return replace(self, title=title)


_AER = ("aer_links", "aer_sure", "aer_intersection_sure", "aer_intersection_possible")
_PIXELS = ("segmentation_correct", "segmentation_pixels")
_IOU = tuple(f"segmentation_{side}" for side in ("object_both", "object_either", "rest_both", "rest_either"))

METRICS: Registry[Metric] = Registry(
    "metric",
    Metric,
    (
        Metric("roc_auc", "higher", "area under the ROC curve of each row, averaged", "AUC"),
        Metric("average_precision", "higher", "average precision of each row, averaged", "AP"),
        Metric(
            "recall_at_k",
            "higher",
            "share of the gold sources among the K highest, K as many as there are gold ones",
            "recall@K",
        ),
        Metric("aer", "lower", "alignment error rate against people's links", "AER", _AER, alignment_error_rate),
        Metric(
            "alignment_precision", "higher", "share of links that are right", "precision", (_AER[3], _AER[0]), share
        ),
        Metric("alignment_recall", "higher", "share of the sure links found", "recall", (_AER[2], _AER[1]), share),
        Metric("flipping_area_most_first", "lower", label="flipping MoRF area"),
        Metric("flipping_area_least_first", "higher", label="flipping LeRF area"),
        Metric("flipping_gap", "higher", label="ΔA_F"),
        Metric("insertion_area_most_first", "higher", label="insertion MoRF area"),
        Metric("insertion_area_least_first", "lower", label="insertion LeRF area"),
        Metric("insertion_gap", "higher", label="ΔA_I"),
        Metric("span_mass", "higher", label="span mass"),
        Metric("span_rank", "lower", label="span rank"),
        Metric("idle_mass", "lower", label="idle mass"),
        Metric("sign_agreement", "higher", label="right signs"),
        Metric("conservation_error", "lower", label="conservation error"),
        Metric("rank_correlation", "higher", label="Spearman's ρ"),
        Metric(
            "perturbation_positive_area",
            "lower",
            "area under the accuracy as pixels go, most relevant first",
            "pos. AUC",
        ),
        Metric(
            "perturbation_negative_area",
            "higher",
            "area under the accuracy as pixels go, least relevant first",
            "neg. AUC",
        ),
        Metric(
            "pixel_accuracy",
            "higher",
            "share of pixels that the map marks rightly, cut at its mean",
            "pixel accuracy",
            _PIXELS,
            share,
        ),
        Metric(
            "mean_iou",
            "higher",
            "mean intersection over union of the map, cut at its mean, and the object",
            "mIoU",
            _IOU,
            mean_iou,
        ),
        Metric("pointing_game", "higher", "share of maps whose highest pixel is on the object", "pointing game"),
        Metric("mask_auc", "higher", "AUC of the object's pixels against all others", "mask AUC"),
        Metric("accuracy", "higher", label="accuracy"),
        Metric("seconds", "lower", label="seconds"),
    ),
)

register = METRICS.register


def find_metric(name: str, more: Mapping[str, Metric] | None = None) -> Metric:
    """Return the metric of this name, with its variant in its name, label and counts; an unknown one is not ranked.

    Args:
        name: The name, with or without a variant.
        more: Metrics beside `METRICS`, by name; they are looked up first.
    """
    plain, colon, variant = name.partition(":")
    known = (more or {}).get(name) or (more or {}).get(plain) or METRICS.get(plain) or Metric(plain, None)
    if known.name == name:
        return known
    label = f"{known.label} ({variant})" if variant else known.label
    counts = tuple(f"{count}{colon}{variant}" for count in known.counts)
    return replace(known, name=name, label=label, counts=counts)


def listed_metrics(listed: Iterable[Metric | str]) -> dict[str, Metric]:
    """Return the metrics that tasks list, by name.

    What `METRICS` says of a metric holds for every task; a task that lists the same name can only give it another
    title.
    """
    found: dict[str, Metric] = {}
    for one in listed:
        name, title = (one, "") if isinstance(one, str) else (one.name, one.title)
        if isinstance(one, str) or name.partition(":")[0] in METRICS:
            known = find_metric(name)
            found[name] = known.titled(title) if title else known
        else:
            found[name] = one
    return found


def results_of(names: Iterable[str], more: Mapping[str, Metric] | None = None) -> list[Metric]:
    """Return the metrics in a table with these names: derived metrics take the place of their counts.

    Args:
        names: The names in the table, in the order wanted.
        more: Metrics beside `METRICS`, by name.
    """
    names = list(dict.fromkeys(names))
    derived = [metric for metric in {**METRICS, **(more or {})}.values() if metric.counts]
    found: dict[str, Metric] = {}
    hidden: set[str] = set()
    for name in names:
        plain, colon, variant = name.partition(":")
        for metric in derived:
            full = find_metric(f"{metric.name}{colon}{variant}", more)
            if plain in metric.counts and set(full.counts) <= set(names):
                found.setdefault(full.name, full)
                hidden.add(name)
        if name not in hidden:
            found.setdefault(name, find_metric(name, more))
    return list(found.values())
