"""Running an evaluation: every method on every sample of a task, on every model, so that interruptions cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mambascope.errors import InputError
from mambascope.evaluate.fingerprint import Fingerprint, fingerprint, versions
from mambascope.evaluate.local_engine import judge_here
from mambascope.evaluate.manifest import Manifest, read_manifest
from mambascope.evaluate.results import Damaged, PartWriter, StoredRun, claim, read_run, tidy
from mambascope.evaluate.sample_runner import Verdict, Work, in_shard
from mambascope.evaluate.task import Sample, Task
from mambascope.loading.load import load as load_model
from mambascope.loading.zoo import spelling

#: Yields the verdicts on what is left to do, and stops when it is closed.
Engine = Callable[[Work], Generator[Verdict, None, None]]
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Attributes:
        folder: Where the results lie.
        manifest: What the run is.
        found: How many (model, sample) pairs of this shard were stored before.
        computed: How many it computed.
        damaged: Parts that could not be used and were computed again.
    """

    folder: Path
    manifest: Manifest
    found: int
    computed: int
    damaged: tuple[Damaged, ...] = ()

    def read(self) -> StoredRun:
        """Return the results, those of other shards included."""
        return read_run(self.folder)


def run(
    task: Task,
    models: Sequence[str] | None,
    methods: Sequence[str],
    out: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    gpus: float = 0.0,
    resume: bool = False,
    overwrite: bool = False,
    shard: tuple[int, int] = (0, 1),
    options: Mapping[str, Any] | None = None,
    load: Callable[[str], Any] = load_model,
    mark: Callable[[Any], Fingerprint] = fingerprint,
    progress: Progress = None,
) -> RunResult:
    """Judge methods on a task and store what came out, sample by sample.

    A run that was stopped, killed too, goes on with `resume`: no stored sample is lost or computed again. Neither the
    order, nor shards, nor the engine change a row.

    Args:
        task: The task.
        models: Names of models; None for the task's own.
        methods: Names of methods.
        out: The folder for the results; it is made if need be.
        limit: Judge only so many samples.
        seed: What each sample's own seed derives from, together with the sample's id.
        engine: `local` for this process, `ray` for the machines of a Ray cluster.
        address: The Ray cluster's address; without one, this machine is the cluster.
        gpus: GPUs that each of Ray's actors takes.
        resume: Go on with the same run in that folder.
        overwrite: Replace the run in that folder, whichever it is.
        shard: (k, n) for the k-th of n shards, counted from 0; all may write to one folder at the same time.
        options: What else the results depend on; noted in the manifest and compared like the rest of it.
        load: Loads a model by name; for Ray it must be picklable.
        mark: Gives the fingerprint of what `load` returned.
        progress: Called with (pairs of model and sample done, pairs to do).

    Raises:
        InputError: if the task, models or methods cannot be judged, or the folder holds another run, or this one
            without `resume`.
        UnsupportedModelError, CheckpointError: as `load` and the task raise them.
        OutputError: if the disk is full or refuses; what was stored before stays readable.
    """
    folder, methods, asked = Path(out), tuple(methods), tuple(models or task.default_models)
    _check_asked(asked, methods, shard, resume=resume, overwrite=overwrite)
    names = asked if overwrite else _as_stored(asked, folder)
    load = load if names == asked else partial(_load_as_asked, load, dict(zip(names, asked, strict=True)))
    judge_all = _engine(engine, address, gpus)
    samples = _samples(task, limit)
    cache = _LastLoaded(load)
    marks = _marks(task, names, methods, cache, mark)
    manifest = Manifest(
        task.name, task.data_hash(), len(samples), marks, methods, seed, limit, dict(options or {}), versions()
    )
    claim(folder, manifest, overwrite=overwrite)
    stored = read_run(folder)
    mine = [sample for sample in samples if in_shard(sample.id, shard)]
    todo = {name: [sample for sample in mine if (name, sample.id) not in stored.done] for name in names}
    total, left = len(mine) * len(names), sum(map(len, todo.values()))
    if left < total and not resume:
        raise InputError(
            f"{folder} already holds {total - left} of the {total} results of this run: continue with --resume, or "
            f"start over with --overwrite"
        )
    tidy(folder, stored.damaged, shard)
    work = Work(task, methods, seed, cache if engine == "local" else load, mark, marks, todo)
    done = total - left
    report = progress or (lambda done, total: None)
    report(done, total)
    with PartWriter(folder, manifest, shard) as writer, closing(judge_all(work)) as verdicts:
        for verdict in verdicts:
            writer.add(verdict)
            done += 1
            report(done, total)
    return RunResult(folder, manifest, total - left, left, stored.damaged)


def _as_stored(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the names as the run in a folder spells them: older runs have zoo/NAME for zoo:NAME, the same model."""
    stored = read_manifest(folder)
    same = stored is not None and list(map(spelling, stored.models)) == list(map(spelling, names))
    return tuple(stored.models) if stored is not None and same else names


def _load_as_asked(load: Callable[[str], Any], asked: Mapping[str, str], name: str) -> Any:
    """Return a model by the name that it was asked for by, which loads here, given the one that the run stores."""
    return load(asked[name])


class _LastLoaded:
    """Loads models by name and keeps the last one."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load, self._name, self._loaded = load, "", None

    def __call__(self, name: str) -> Any:
        if self._loaded is None or self._name != name:
            self._loaded = None  # before the next one is loaded
            self._name, self._loaded = name, self._load(name)
        return self._loaded


def _marks(
    task: Task, names: Sequence[str], methods: Sequence[str], load: Callable[[str], Any], mark: Callable[[Any], Any]
) -> dict[str, Fingerprint]:
    """Return every model's fingerprint, by name, after the task has agreed to judge the methods on it."""
    marks = {}
    for name in reversed(names):  # so that the first one, which is needed first, is still there
        loaded = load(name)
        task.check(loaded, methods)
        marks[name] = mark(loaded)
    return {name: marks[name] for name in names}


def _samples(task: Task, limit: int | None) -> Sequence[Sample]:
    """Return the samples of a task; refuse ids that are not unique, on which resuming and shards rest."""
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1, found {limit}")
    samples = task.samples(limit)
    if not samples:
        raise InputError(f"task {task.name} has no samples")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise InputError(f"task {task.name} has two samples with the id {sample.id!r}")
        seen.add(sample.id)
    return samples


def _engine(engine: str, address: str | None, gpus: float) -> Engine:
    if engine == "local":
        if address is not None or gpus:
            raise InputError("an address and GPUs for actors are for the engine ray; pass --engine ray with them")
        return judge_here
    if engine != "ray":
        raise InputError(f"unknown engine {engine!r}; choose local or ray")
    from mambascope.evaluate.ray_engine import ray_engine

    return ray_engine(address, gpus)


def _check_asked(
    models: Sequence[str], methods: Sequence[str], shard: tuple[int, int], *, resume: bool, overwrite: bool
) -> None:
    for what, names in (("model", [*map(spelling, models)]), ("method", methods)):
        if not names:
            raise InputError(f"no {what} is named; name at least one")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{what} {twice} is named twice; name it once")
    k, n = shard
    if not 0 <= k < n:
        raise InputError(f"shard {k}/{n} does not exist; with n shards they are 0/n to n-1/n")
    if resume and overwrite:
        raise InputError("--resume keeps the run in the folder and --overwrite replaces it; choose one")
    if overwrite and n > 1:
        raise InputError("--overwrite would remove what other shards have written; empty the folder before they start")
