"""The results of a run: a folder with a manifest and result shards, readable at every moment of the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mambascope.errors import InputError, OutputError
from mambascope.evaluate import manifest as manifests
from mambascope.evaluate.manifest import Manifest, read_manifest, write_manifest
from mambascope.evaluate.packages import package
from mambascope.evaluate.result_shards import (
    NAME,
    DamagedShardError,
    ResultShard,
    read_result_shard,
    schema,
    write_result_shard,
)
from mambascope.evaluate.sample_runner import SampleResult
from mambascope.files import make_folder

if TYPE_CHECKING:
    import pyarrow

#: The folder of the result shards in a run's folder; stored runs have it under this name.
SHARDS = "parts"

#: A result shard is written after so many samples, or so many seconds after the last one.
SHARD_SAMPLES = 64
SHARD_SECONDS = 10.0


@dataclass(frozen=True)
class Damaged:
    """A result shard that cannot be used, and why."""

    shard: str
    reason: str


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A run as stored in its folder.

    Attributes:
        folder: The folder.
        manifest: The run's manifest.
        table: All rows, each once, sorted by model and sample id; within a sample in the task's order.
        done: The (model, sample) pairs that are stored.
        damaged: Result shards that cannot be used; `run` with `resume` computes their samples again.
    """

    folder: Path
    manifest: Manifest
    table: pyarrow.Table
    done: frozenset[tuple[str, str]]
    damaged: tuple[Damaged, ...]

    @property
    def missing(self) -> int:
        """How many (model, sample) pairs are not stored yet."""
        return self.manifest.samples * len(self.manifest.models) - len(self.done)


def read_run(folder: str | Path) -> StoredRun:
    """Return the run in a folder, complete or not.

    Raises:
        InputError: if the folder holds no run or cannot be read, or pyarrow is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} holds no run (there is no {manifests.FILE}); name the folder given to --out")
    shards, damaged = [], []
    for path in shard_files(folder):
        try:
            shards.append(read_result_shard(path, manifest))
        except DamagedShardError as error:
            damaged.append(Damaged(path.name, str(error)))
    table, done = _join(shards, manifest)
    return StoredRun(folder, manifest, table, done, tuple(damaged))


def shard_files(folder: Path) -> list[Path]:
    """Return the result shards in a run's folder, sorted by name."""
    return sorted(path for path in (folder / SHARDS).glob("*.parquet") if NAME.fullmatch(path.name))


def check_folder(folder: Path) -> None:
    """Raise InputError if a folder cannot be one of a run: it is a file, or its manifest is of something else."""
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder for the results")
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise InputError(f"{str(folder)!r} cannot be a folder ({error}); choose another name") from error
    read_manifest(folder)


def claim(folder: Path, manifest: Manifest, *, overwrite: bool) -> None:
    """Make a folder that this process has locked that of a run, or check that it holds this run.

    Raises:
        InputError: if it holds another run, or result shards without a manifest.
        OutputError: if it cannot be written to.
    """
    found = read_manifest(folder)
    if overwrite:
        _clear(folder)
        found = None
    make_folder(folder / SHARDS)
    if found is None and shard_files(folder):
        raise InputError(
            f"{folder} holds result shards without their run's manifest; choose another folder or --overwrite it"
        )
    if found is not None:
        differences = manifest.differences(found)
        if differences:
            raise InputError(
                f"{folder} holds another run, which differs in {'; '.join(differences)}: choose another folder, or "
                f"replace that run with --overwrite"
            )
        return
    write_manifest(folder, manifest)


def tidy(folder: Path, damaged: Sequence[Damaged], subset: tuple[int, int]) -> None:
    """Remove the incomplete files that a killed process left for a subset of the samples, and rename damaged shards.

    Damaged result shards get another ending, so that they are reported only once and can be inspected.
    """
    for path in (folder / SHARDS).glob(f"{subset[0]}-of-{subset[1]}-*.partial.parquet"):
        path.unlink(missing_ok=True)
    for one in damaged:
        path = folder / SHARDS / one.shard
        with suppress(FileNotFoundError):  # the process of another subset may have renamed it first
            path.rename(path.with_suffix(".damaged"))


class ShardWriter:
    """Writes results to result shards: every few samples or seconds, when the model changes, and at the end.

    Results are written even if the run ends with an error, unless writing itself failed.
    """

    def __init__(self, folder: Path, manifest: Manifest, subset: tuple[int, int]) -> None:
        self._folder, self._manifest, self._subset = folder, manifest, subset
        self._number, self._written = len(shard_files(folder)), time.monotonic()
        self._waiting: list[SampleResult] = []

    def add(self, result: SampleResult) -> None:
        """Take the result of one sample, and write a result shard when it is time."""
        if self._waiting and self._waiting[0].model != result.model:
            self.flush()
        self._waiting.append(result)
        if len(self._waiting) >= SHARD_SAMPLES or time.monotonic() - self._written >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the results that are waiting.

        Raises:
            OutputError: if the disk is full or cannot be written to, or another run has taken the folder; earlier
                result shards stay readable.
        """
        if self._waiting:
            self._check_ours()
            folder = self._folder / SHARDS
            write_result_shard(folder, self._manifest, self._waiting, subset=self._subset, number=self._number)
            self._number, self._waiting = self._number + 1, []
        self._written = time.monotonic()

    def _check_ours(self) -> None:
        try:
            found = read_manifest(self._folder)
        except InputError as error:
            raise OutputError(f"the run stopped because its manifest was changed: {error}") from error
        if found is None or found.run != self._manifest.run:
            raise OutputError(
                f"the run stopped because {self._folder} {'is gone' if found is None else 'now holds another run'}; "
                f"its results since the last result shard were not written: start it again in another folder"
            )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(error, OutputError):
            self.flush()


def _clear(folder: Path) -> None:
    """Remove a run from its folder; the manifest goes first, so that no shard can be taken for one of the next run."""
    try:
        for path in [folder / manifests.FILE, *shard_files(folder)]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"the run in {folder} could not be removed: {error}") from error


def _join(shards: Sequence[ResultShard], manifest: Manifest) -> tuple[pyarrow.Table, frozenset[tuple[str, str]]]:
    """Return all rows in order, and the (model, sample) pairs; if two shards have a sample, the first one counts."""
    pa, compute = package("pyarrow"), package("pyarrow.compute")
    done: set[tuple[str, str]] = set()
    tables = []
    for shard in shards:
        fresh = [sample for sample in shard.samples if (shard.model, sample) not in done]
        done |= {(shard.model, sample) for sample in fresh}
        kept = shard.table.filter(compute.is_in(shard.table["sample"], pa.array(fresh, pa.string())))
        tables.append(kept.replace_schema_metadata(None))
    table = pa.concat_tables(tables) if tables else schema().empty_table()
    rank = compute.index_in(table["model"], pa.array(list(manifest.models), pa.string()))
    keyed = table.append_column("rank", rank).append_column("row", pa.array(range(table.num_rows), pa.int64()))
    order = compute.sort_indices(keyed, sort_keys=[(key, "ascending") for key in ("rank", "sample", "row")])
    return table.take(order), frozenset(done)
