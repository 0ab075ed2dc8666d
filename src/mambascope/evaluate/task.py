"""What an evaluation task is: samples with known answers, and rows that say how well each method did on a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mambascope.evaluate.metrics.registry import Metric

#: The layer of rows about the whole model.
NO_LAYER = -1


@dataclass(frozen=True)
class Sample:
    """One thing to evaluate methods on.

    Attributes:
        id: Its name, unique in the task and the same in every run; its seed and its subset of the samples derive from
            it.
        data: What the task needs to evaluate it, as values that JSON can hold.
    """

    id: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One number about one method on one sample.

    Attributes:
        method: The method.
        metric: The name of one of the task's metrics, or of one of the counts of a derived metric.
        value: The number; NaN if the metric is undefined on this sample.
        layer: The layer, or `NO_LAYER` for the whole model.
        extra: Further facts, as values that JSON can hold.
    """

    method: str
    metric: str
    value: float
    layer: int = NO_LAYER
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class MainTable:
    """A task's most important results, to be shown side by side.

    Attributes:
        metrics: The metrics' names, such as `aer:predicts-target`; for a derived metric its own name, not its counts.
        about: What the table shows, if a task has several.
    """

    metrics: tuple[str, ...]
    about: str = ""


@runtime_checkable
class Task(Protocol):
    """Questions to models, with known answers, on which methods are evaluated.

    `evaluate` must depend on its arguments alone, so that order, interruptions and machines change nothing. Tasks are
    sent to other machines by pickle, and their samples as JSON.
    """

    @property
    def name(self) -> str:
        """The name that people type."""

    @property
    def default_models(self) -> Sequence[str]:
        """Names of the models that are evaluated by default."""

    @property
    def metrics(self) -> Sequence[Metric | str]:
        """What it reports, most important first: names of known metrics (`metrics/registry.py`), or its own."""

    @property
    def main(self) -> Sequence[MainTable]:
        """The few results to be shown at the end of a run; a report shows all of them."""

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the samples, or the first `limit` of them; the same on every call.

        Raises:
            InputError: if the data are missing or damaged; the message names file, line and reason.
        """

    def data_hash(self) -> str:
        """Return a hash that changes whenever the samples or their answers do."""

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise InputError or UnsupportedModelError if the task cannot evaluate the loaded model or a method."""

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the rows of one sample.

        Args:
            loaded: The loaded model: by default the model and its tokenizer.
            sample: One of `samples`.
            methods: The methods to evaluate.
            seed: The seed for anything random; torch's generators are already seeded with it.
        """
