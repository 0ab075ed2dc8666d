"""Running single samples, so that order, subsets of the samples, engines and machines do not change any result.

`run_locally` is the local engine: it runs all samples one after the other in this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mambascope.errors import InputError
from mambascope.evaluate.fingerprint import Fingerprint
from mambascope.evaluate.metrics.registry import listed_metrics
from mambascope.evaluate.task import Row, Sample, Task

#: The samples still to be run, by the name of the model.
Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class SampleResult:
    """All rows of one sample on one model."""

    model: str
    sample: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class SampleRunner:
    """Runs single samples of a run; engines use it on this or on other machines.

    Attributes:
        task: The task.
        methods: The methods to evaluate.
        seed: The run's seed.
        load: Loads a model by its name.
        fingerprint: Returns a loaded model's fingerprint.
        expected: The fingerprint that each model must have, by name.
    """

    task: Task
    methods: tuple[str, ...]
    seed: int
    load: Callable[[str], Any]
    fingerprint: Callable[[Any], Fingerprint]
    expected: Mapping[str, Fingerprint]

    def load_model(self, name: str) -> Any:
        """Return the loaded model of this name.

        Raises:
            InputError: if it is not the model in the run's manifest.
        """
        loaded = self.load(name)
        if self.fingerprint(loaded) != self.expected[name]:
            raise InputError(
                f"{name} is not the model that the run began with: its weights, configuration or tokenizer differ, "
                f"here or on a machine of the cluster; restore its files, or start over with --overwrite"
            )
        return loaded

    def run_sample(self, model: str, loaded: Any, sample: Sample) -> SampleResult:
        """Return the result of one sample; torch's generators are seeded for it and restored afterwards.

        Raises:
            InputError: if the task returns a row for a method or metric that is not part of the run, or a row twice.
        """
        seed = sample_seed(self.seed, sample.id)
        with _seeded(seed):
            rows = self.task.evaluate(loaded, sample, self.methods, seed)
        self._check_rows(sample, rows)
        return SampleResult(model, sample.id, tuple(rows))

    def _check_rows(self, sample: Sample, rows: Sequence[Row]) -> None:
        listed = listed_metrics(self.task.metrics).values()
        metrics = list(dict.fromkeys(name for metric in listed for name in (metric.name, *metric.counts)))
        seen: set[tuple[str, str, int]] = set()
        for row in rows:
            what = f"task {self.task.name} returned {row.metric!r} of {row.method!r} for sample {sample.id}"
            if row.method not in self.methods or row.metric not in metrics:
                raise InputError(
                    f"{what}, but this run has only the metrics {', '.join(metrics)} and the methods "
                    f"{', '.join(self.methods)}"
                )
            if (row.method, row.metric, row.layer) in seen:
                raise InputError(f"{what} twice for layer {row.layer}; one row each is expected")
            seen.add((row.method, row.metric, row.layer))


def run_locally(runner: SampleRunner, samples: Samples) -> Generator[SampleResult, None, None]:
    """Yield the result of every sample, in order, one model after the other."""
    for model, of_model in samples.items():
        if of_model:
            loaded = runner.load_model(model)
            for sample in of_model:
                yield runner.run_sample(model, loaded, sample)
            del loaded  # before the next one is loaded


def sample_seed(seed: int, sample: str) -> int:
    """Return the seed of one sample, from 0 to 2³² - 1: a hash of the run's seed and the sample's id."""
    return _hash(f"{seed}:{sample}") % 2**32


def in_subset(sample: str, subset: tuple[int, int]) -> bool:
    """Return whether a sample belongs to subset (k, n) of the samples: whether a hash of its id modulo n is k."""
    k, n = subset
    return _hash(sample) % n == k


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield
