"""Which way each metric is better: what is known to be right must beat what is known to be wrong."""

import itertools

import pandas
import pytest
import torch

from mambascope.evaluate.metrics.perturbation_curve import MODES, perturbation_curves
from mambascope.evaluate.metrics.registry import METRICS, Metric, find_metric
from mambascope.evaluate.summary import COLUMNS, summarise
from mambascope.evaluate.tasks import TASKS

#: The best value that there is, and one of chance or worse; counts are those of one sample.
KNOWN = {
    "roc_auc": (1.0, 0.5),
    "average_precision": (1.0, 0.1),
    "recall_at_k": (1.0, 0.0),
    "aer": ({"links": 8, "sure": 8, "intersection_sure": 8, "intersection_possible": 8}, {"links": 8, "sure": 8}),
    "alignment_precision": ({"intersection_possible": 8, "links": 8}, {"links": 8}),
    "alignment_recall": ({"intersection_sure": 8, "sure": 8}, {"sure": 8}),
    "span_mass": (1.0, 0.0),
    "span_rank": (1.0, 99.0),
    "idle_mass": (0.0, 1.0),
    "sign_agreement": (1.0, 0.0),
    "conservation_error": (0.0, 1.0),
    "rank_correlation": (1.0, -1.0),
    "perturbation_positive_area": (0.1, 0.9),
    "perturbation_negative_area": (0.9, 0.1),
    "pixel_accuracy": ({"correct": 9, "pixels": 9}, {"pixels": 9}),
    "mean_iou": (
        {"object_both": 4, "object_either": 4, "rest_both": 5, "rest_either": 5},
        {"object_either": 9, "rest_either": 9},
    ),
    "pointing_game": (1.0, 0.0),
    "mask_auc": (1.0, 0.5),
    "accuracy": (1.0, 0.0),
    "seconds": (0.1, 10.0),
}


def best_of(rows):
    """Return the method that `summarise` calls the best by each metric, from {method: {metric: value}}."""
    lines = [
        ("task", "model", method, -1, sample, metric, float(value))
        for method, sample in itertools.product(rows, ("s0", "s1"))
        for metric, value in rows[method].items()
    ]
    (summary,) = summarise(pandas.DataFrame(lines, columns=list(COLUMNS)))
    return {column.metric.name: method for (method, column), cell in summary.cells.items() if cell.best}


@pytest.mark.parametrize("mode", MODES)
def test_the_right_order_of_sources_is_better_than_its_reverse(mode):
    """Flipping and insertion of a readout that is the sum of the sources' weights, from curves to the summary."""
    weights = torch.linspace(-1.0, 3.0, 12)
    rows = {
        name: perturbation_curves(sign * weights, lambda kept: kept.double() @ weights.double(), mode).rows()
        for name, sign in (("reversed", -1.0), ("right", 1.0))
    }
    assert best_of(rows) == dict.fromkeys(
        (f"{mode}_area_most_first", f"{mode}_area_least_first", f"{mode}_gap"), "right"
    )


@pytest.mark.parametrize("name", KNOWN)
def test_the_best_value_is_better_than_chance(name):
    right, wrong = KNOWN[name]
    if isinstance(right, dict):
        prefix = METRICS[name].counts[0].partition("_")[0]
        names = {count: count.removeprefix(f"{prefix}_") for count in METRICS[name].counts}
        right, wrong = ({count: side.get(short, 0) for count, short in names.items()} for side in (right, wrong))
    else:
        right, wrong = {name: right}, {name: wrong}
    assert best_of({"wrong": wrong, "right": right})[name] == "right"


def test_every_metric_that_has_a_direction_is_held_to_it():
    curves = {f"{mode}_{what}" for mode in MODES for what in ("area_most_first", "area_least_first", "gap")}
    assert set(KNOWN) | curves == {name for name, metric in METRICS.items() if metric.better is not None}


@pytest.mark.parametrize("task", TASKS)
def test_tasks_list_known_metrics_as_they_are_known(task):
    for metric in TASKS[task].metrics:
        name = metric.name if isinstance(metric, Metric) else metric
        known = METRICS.get(name.partition(":")[0])
        if isinstance(metric, str):
            assert known is not None, f"{name} is not known"
        elif known is not None:
            assert metric == find_metric(name).titled(metric.title), name
        else:
            assert metric.better is not None, name
            assert metric.title, name
