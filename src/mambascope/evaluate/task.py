"""What an evaluation task is: samples whose answer is known, and a verdict on what each method says of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

#: The layer of a row that is about the whole model.
NO_LAYER = -1


@dataclass(frozen=True)
class Sample:
    """One thing to judge methods on.

    Attributes:
        id: Its name, unique in the task and the same in every run: seeds and shards derive from it.
        data: What the task needs to judge it, as values that JSON can hold.
    """

    id: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One number about one method on one sample.

    Attributes:
        method: The method judged.
        metric: Name of one of the task's metrics, or of one of the counts that a derived metric is made of.
        value: The number; NaN where the metric is undefined on this sample.
        layer: The layer that it is about, or `NO_LAYER` for the whole model.
        extra: More about it, as values that JSON can hold.
    """

    method: str
    metric: str
    value: float
    layer: int = NO_LAYER
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Metric:
    """A number that a task reports: its name, which direction is better, and what it says in a few words.

    What the names in `metrics/registry.py` mean is known there already.
    """

    name: str
    higher_is_better: bool = True
    title: str = ""


@dataclass(frozen=True)
class MainTable:
    """Results of a task to be looked at first, side by side.

    Attributes:
        metrics: Their names as tables of results have them, `aer:predicts-target`; one that is derived from counts goes
            by its own name.
        about: What the table is about, where a task has several.
    """

    metrics: tuple[str, ...]
    about: str = ""


@runtime_checkable
class Task(Protocol):
    """A question with known answers, put to models, on which methods are judged.

    `evaluate` must depend on its arguments alone, so that order, interruptions and machines change nothing. A task
    travels to other machines by pickle, and its samples as JSON.
    """

    @property
    def name(self) -> str:
        """What people type."""

    @property
    def default_models(self) -> Sequence[str]:
        """Names of the models that it is for."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """What it reports, most telling first."""

    @property
    def main(self) -> Sequence[MainTable]:
        """The few results to be looked at first; a run ends with these tables, and a report has everything."""

    def samples(self, limit: int | None) -> Sequence[Sample]:
        """Return the samples, or the first `limit` of them; the same at every call.

        Raises:
            InputError: if the data are absent or damaged, naming the file, the line and the reason.
        """

    def data_hash(self) -> str:
        """Return a hash that changes whenever the samples or their answers do."""

    def check(self, loaded: Any, methods: Sequence[str]) -> None:
        """Raise InputError or UnsupportedModelError if a loaded model or one of the methods cannot be judged here."""

    def evaluate(self, loaded: Any, sample: Sample, methods: Sequence[str], seed: int) -> list[Row]:
        """Return the verdict on one sample.

        Args:
            loaded: What loading the model's name gave: by default the model and its tokenizer.
            sample: One of `samples`.
            methods: The methods to judge.
            seed: For whatever is drawn at random; the generators of torch are already seeded with it.
        """
