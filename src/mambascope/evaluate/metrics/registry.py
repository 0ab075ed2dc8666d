"""What the metrics are called in a table of results, which way is better, and which are made of summed counts.

A name may carry a variant after a colon, `recall_at_k:5` or `aer:intersection`: the same metric, computed another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from mambascope.brief import brief
from mambascope.evaluate.metrics.alignment_error_rate import alignment_error_rate, share
from mambascope.evaluate.metrics.segmentation import mean_iou
from mambascope.registry import Registry


@dataclass(frozen=True)
class Measure:
    """A metric as tables of results know it.

    Attributes:
        name: The name of its rows, without a variant; for a derived metric, the name of what is derived.
        label: What readers call it.
        better: Which way is better; None for metrics that are not ranked.
        counts: For a derived metric, the names of the counts that each sample has; no mean of samples' values but a
            function of the counts' sums is the result.
        formula: That function: arrays of sums, in the order of `counts`, to an array of values, element by element.
        title: What it says in a few words, where no task does.
    """

    name: str
    label: str
    better: Literal["higher", "lower"] | None
    counts: tuple[str, ...] = ()
    formula: Callable[..., np.ndarray] | None = None
    title: str = ""

    __repr__ = brief


_AER = ("aer_links", "aer_sure", "aer_intersection_sure", "aer_intersection_possible")
_SIDES = ("object_both", "object_either", "rest_both", "rest_either")
_IOU = tuple(f"segmentation_{side}" for side in _SIDES)

METRICS: Registry[Measure] = Registry(
    "metric",
    Measure,
    (
        Measure("roc_auc", "AUC", "higher"),
        Measure("average_precision", "AP", "higher"),
        Measure("recall_at_k", "recall@K", "higher"),
        Measure("aer", "AER", "lower", _AER, alignment_error_rate, "alignment error rate against people's links"),
        Measure(
            "alignment_precision", "precision", "higher", (_AER[3], _AER[0]), share, "share of links that are right"
        ),
        Measure("alignment_recall", "recall", "higher", (_AER[2], _AER[1]), share, "share of the sure links found"),
        Measure("flipping_area_most_first", "flipping MoRF area", "lower"),
        Measure("flipping_area_least_first", "flipping LeRF area", "higher"),
        Measure("flipping_gap", "ΔA_F", "higher"),
        Measure("insertion_area_most_first", "insertion MoRF area", "higher"),
        Measure("insertion_area_least_first", "insertion LeRF area", "lower"),
        Measure("insertion_gap", "ΔA_I", "higher"),
        Measure("span_mass", "span mass", "higher"),
        Measure("span_rank", "span rank", "lower"),
        Measure("conservation_error", "conservation error", "lower"),
        Measure("rank_correlation", "Spearman's ρ", "higher"),
        Measure("perturbation_positive_area", "pos. AUC", "lower"),
        Measure("perturbation_negative_area", "neg. AUC", "higher"),
        Measure("pixel_accuracy", "pixel accuracy", "higher", ("segmentation_correct", "segmentation_pixels"), share),
        Measure("mean_iou", "mIoU", "higher", _IOU, mean_iou),
        Measure("pointing_game", "pointing game", "higher"),
        Measure("mask_auc", "mask AUC", "higher"),
        Measure("accuracy", "accuracy", "higher"),
        Measure("seconds", "seconds", "lower"),
    ),
)

register = METRICS.register


@runtime_checkable
class Declared(Protocol):
    """A metric as a task declares it: its name, which direction is better, and a few words."""

    @property
    def name(self) -> str:
        """Its name, without a variant."""

    @property
    def higher_is_better(self) -> bool:
        """Which way."""

    @property
    def title(self) -> str:
        """What readers call it."""


def declared_by_tasks(metrics: Iterable[Declared]) -> dict[str, Measure]:
    """Return tasks' own metrics as `more` takes them; those of `METRICS` keep what is known of them here."""
    own = (metric for metric in metrics if metric.name.partition(":")[0] not in METRICS)
    return {m.name: Measure(m.name, m.title or m.name, "higher" if m.higher_is_better else "lower") for m in own}


def find_metric(name: str, more: Mapping[str, Measure] | None = None) -> Measure:
    """Return what is known of a metric, its variant added to the names; one that is not known is not ranked.

    Args:
        name: As in the table, with or without a variant.
        more: Metrics beside `METRICS`, by name; they come first.
    """
    plain, colon, variant = name.partition(":")
    known = (more or {}).get(name) or (more or {}).get(plain) or METRICS.get(plain) or Measure(plain, plain, None)
    if known.name == name:
        return known
    label = f"{known.label} ({variant})" if variant else known.label
    counts = tuple(f"{count}{colon}{variant}" for count in known.counts)
    return Measure(name, label, known.better, counts, known.formula, known.title)


def results_of(names: Iterable[str], more: Mapping[str, Measure] | None = None) -> list[Measure]:
    """Return the metrics that a table with these names holds: derived ones take the place of their counts.

    Args:
        names: The names in a table, in the order wanted.
        more: Metrics beside `METRICS`, by name.
    """
    names = list(dict.fromkeys(names))
    derived = [metric for metric in {**METRICS, **(more or {})}.values() if metric.counts]
    found: dict[str, Measure] = {}
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
