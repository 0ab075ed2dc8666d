"""Judging one sample, so that neither order, nor shards, nor machines change what comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mambascope.errors import InputError
from mambascope.evaluate.fingerprint import Fingerprint
from mambascope.evaluate.metrics.registry import find_metric
from mambascope.evaluate.task import Row, Sample, Task


@dataclass(frozen=True)
class Work:
    """What an engine has to do.

    Attributes:
        task: The task.
        methods: The methods to judge.
        seed: The run's seed.
        load: Loads a model by its name.
        mark: Gives a loaded model's fingerprint.
        marks: The fingerprint that each model must have.
        todo: The samples that are left, by the name of the model.
    """

    task: Task
    methods: tuple[str, ...]
    seed: int
    load: Callable[[str], Any]
    mark: Callable[[Any], Fingerprint]
    marks: Mapping[str, Fingerprint]
    todo: Mapping[str, Sequence[Sample]]

    def loaded(self, model: str) -> Any:
        """Return a model, loaded; raises InputError if it is not the one that the manifest names."""
        loaded = self.load(model)
        if self.mark(loaded) != self.marks[model]:
            raise InputError(
                f"{model} is not the model that the run began with: its weights, configuration or tokenizer differ, "
                f"here or on a machine of the cluster; give it back its files, or start over with --overwrite"
            )
        return loaded


@dataclass(frozen=True)
class Verdict:
    """Everything that a run says about one model on one sample."""

    model: str
    sample: str
    rows: tuple[Row, ...]


def judge(work: Work, model: str, loaded: Any, sample: Sample) -> Verdict:
    """Return the verdict on one sample, with torch's generators seeded for it and put back afterwards.

    Raises:
        InputError: if the task speaks of a method or metric that is not part of the run, or says something twice.
    """
    seed = sample_seed(work.seed, sample.id)
    with _seeded(seed):
        rows = work.task.evaluate(loaded, sample, work.methods, seed)
    _check_rows(work, sample, rows)
    return Verdict(model, sample.id, tuple(rows))


def sample_seed(seed: int, sample: str) -> int:
    """Return the seed of one sample, from 0 to 2³² - 1: a hash of the run's seed and the sample's id."""
    return _hash(f"{seed}:{sample}") % 2**32


def in_shard(sample: str, shard: tuple[int, int]) -> bool:
    """Return whether a sample belongs to shard (k, n): a hash of its id modulo n is k."""
    k, n = shard
    return _hash(sample) % n == k


def _check_rows(work: Work, sample: Sample, rows: Sequence[Row]) -> None:
    metrics = [name for metric in work.task.metrics for name in (metric.name, *find_metric(metric.name).counts)]
    said: set[tuple[str, str, int]] = set()
    for row in rows:
        what = f"task {work.task.name} returned {row.metric!r} of {row.method!r} for sample {sample.id}"
        if row.method not in work.methods or row.metric not in metrics:
            raise InputError(f"{what}, and this run is about {', '.join(metrics)} of {', '.join(work.methods)}")
        if (row.method, row.metric, row.layer) in said:
            raise InputError(f"{what} twice for layer {row.layer}; one row each is expected")
        said.add((row.method, row.metric, row.layer))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield
