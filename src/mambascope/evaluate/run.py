"""Running an evaluation: every method on every sample of a task, on every model; it can be interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mambascope.errors import InputError
from mambascope.evaluate.fingerprint import Fingerprint, versions
from mambascope.evaluate.fingerprint import fingerprint as model_fingerprint
from mambascope.evaluate.manifest import Manifest, read_manifest
from mambascope.evaluate.results import Damaged, ShardWriter, StoredRun, check_folder, claim, read_run, tidy
from mambascope.evaluate.run_lock import LOCKS, locked
from mambascope.evaluate.sample_runner import SampleResult, SampleRunner, Samples, in_subset, run_locally
from mambascope.evaluate.task import Sample, Task
from mambascope.loading.load import load as load_model
from mambascope.loading.zoo import spelling
from mambascope.numbering import shown

#: Yields the results of samples, and stops when it is closed.
Engine = Callable[[SampleRunner, Samples], Generator[SampleResult, None, None]]
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class RunResult:
    """What a call of `run` did.

    Attributes:
        folder: The folder of the results.
        manifest: The run's manifest.
        found: How many of its (model, sample) pairs were stored before.
        computed: How many it computed.
        damaged: Result shards that could not be used and were computed again.
    """

    folder: Path
    manifest: Manifest
    found: int
    computed: int
    damaged: tuple[Damaged, ...] = ()

    def read(self) -> StoredRun:
        """Return the results, including those of other subsets of the samples."""
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
    fingerprint: Callable[[Any], Fingerprint] = model_fingerprint,
    progress: Progress = None,
) -> RunResult:
    """Evaluate methods on a task and store the results sample by sample.

    A run that was interrupted or killed continues with `resume`: no stored sample is lost or computed again. The order
    of the samples, subsets of them and the engine do not change any row.

    Args:
        task: The task.
        models: Names of models; None for the task's own.
        methods: Names of methods.
        out: The folder for the results; it is created if it does not exist.
        limit: Use only so many samples.
        seed: Each sample's own seed derives from this one and from the sample's id.
        engine: `local` for this process, `ray` for the machines of a Ray cluster.
        address: The Ray cluster's address; without one, this machine is the cluster.
        gpus: How many GPUs each of Ray's actors uses.
        resume: Continue the same run in that folder.
        overwrite: Replace any run in that folder.
        shard: (k, n) for the k-th of n subsets of the samples, counted from 0. Runs of different subsets can write to
            one folder at the same time.
        options: Other choices that the results depend on; the manifest lists them.
        load: Loads a model by name; for Ray it must be picklable.
        fingerprint: Returns the fingerprint of what `load` returned.
        progress: Called with the number of (model, sample) pairs that are done, and that of all pairs.

    Raises:
        InputError: if the task does not fit the models or methods, or the folder holds another run, or this one and
            `resume` is not set, or another process is still writing to it.
        UnsupportedModelError, CheckpointError: as `load` and the task raise them.
        OutputError: if the disk is full or cannot be written to, or another run has taken the folder; earlier results
            stay readable.
    """
    folder, methods, asked, subset = Path(out), tuple(methods), tuple(models or task.default_models), shard
    _check_asked(asked, methods, subset, resume=resume, overwrite=overwrite)
    names = asked if overwrite else _as_stored(asked, folder)
    load = load if names == asked else partial(_load_as_asked, load, dict(zip(names, asked, strict=True)))
    run_samples = _engine(engine, address, gpus)
    samples = _samples(task, limit)
    cache = _LastLoaded(load)
    expected = _fingerprints(task, names, methods, cache, fingerprint)
    manifest = Manifest(
        task.name, task.data_hash(), len(samples), expected, methods, seed, limit, dict(options or {}), versions()
    )
    check_folder(folder)
    with locked(folder / LOCKS, subset):
        claim(folder, manifest, overwrite=overwrite)
        stored = read_run(folder)
        mine = [sample for sample in samples if in_subset(sample.id, subset)]
        todo = {name: [sample for sample in mine if (name, sample.id) not in stored.done] for name in names}
        total, left = len(mine) * len(names), sum(map(len, todo.values()))
        if left < total and not resume:
            raise InputError(
                f"{folder} already holds {total - left} of the {total} results of this run: continue with --resume, or "
                f"start over with --overwrite"
            )
        tidy(folder, stored.damaged, subset)
        runner = SampleRunner(task, methods, seed, cache if engine == "local" else load, fingerprint, expected)
        done = total - left
        report = progress or (lambda done, total: None)
        report(done, total)
        with ShardWriter(folder, manifest, subset) as writer, closing(run_samples(runner, todo)) as results:
            for result in results:
                writer.add(result)
                done += 1
                report(done, total)
    return RunResult(folder, manifest, total - left, left, stored.damaged)


def _as_stored(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the names as the run in a folder spells them: older runs have zoo/NAME for the same model as zoo:NAME."""
    stored = read_manifest(folder)
    same = stored is not None and list(map(spelling, stored.models)) == list(map(spelling, names))
    return tuple(stored.models) if stored is not None and same else names


def _load_as_asked(load: Callable[[str], Any], asked: Mapping[str, str], name: str) -> Any:
    """Return the model with this name in the stored run, loaded by the name that the user gave."""
    return load(asked[name])


class _LastLoaded:
    """Loads models by name and keeps the last one in memory."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load, self._name, self._loaded = load, "", None

    def __call__(self, name: str) -> Any:
        if self._loaded is None or self._name != name:
            self._loaded = None  # before the next one is loaded
            self._name, self._loaded = name, self._load(name)
        return self._loaded


def _fingerprints(
    task: Task,
    names: Sequence[str],
    methods: Sequence[str],
    load: Callable[[str], Any],
    fingerprint: Callable[[Any], Fingerprint],
) -> dict[str, Fingerprint]:
    """Return every model's fingerprint, by name, after the task has checked that it can evaluate the methods on it."""
    found = {}
    for name in reversed(names):  # so that the first model, which is needed first, is still loaded at the end
        loaded = load(name)
        task.check(loaded, methods)
        found[name] = fingerprint(loaded)
    return {name: found[name] for name in names}


def _samples(task: Task, limit: int | None) -> Sequence[Sample]:
    """Return the samples of a task, whose ids must be unique because resuming and subsets rely on them."""
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1, found {limit}")
    samples = task.samples(limit)
    if not samples:
        raise InputError(f"task {task.name} has no samples")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise InputError(f"task {task.name} has two samples with the id {shown(sample.id)}")
        seen.add(sample.id)
    return samples


def _engine(engine: str, address: str | None, gpus: float) -> Engine:
    if engine == "local":
        if address is not None or gpus:
            raise InputError("an address and GPUs for actors are only for the engine ray; add --engine ray")
        return run_locally
    if engine != "ray":
        raise InputError(f"unknown engine {shown(engine)}; choose local or ray")
    from mambascope.evaluate.ray_engine import ray_engine

    return ray_engine(address, gpus)


def _check_asked(
    models: Sequence[str], methods: Sequence[str], subset: tuple[int, int], *, resume: bool, overwrite: bool
) -> None:
    for what, names in (("model", [*map(spelling, models)]), ("method", methods)):
        if not names:
            raise InputError(f"no {what} is named; name at least one")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{what} {twice} is named twice; name it once")
    k, n = subset
    if not 0 <= k < n:
        raise InputError(f"shard {k}/{n} does not exist; for N subsets of the samples choose 0/N to N-1/N")
    if resume and overwrite:
        raise InputError("--resume keeps the run in the folder and --overwrite replaces it; choose one")
    if overwrite and n > 1:
        raise InputError(
            "--overwrite would remove the results of other subsets of the samples; empty the folder before any "
            "of them starts"
        )
