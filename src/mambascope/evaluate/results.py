"""The results of a run: a folder with a manifest and parts, that every moment of a run leaves readable."""

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
from mambascope.evaluate.sample_runner import Verdict

if TYPE_CHECKING:
    import pyarrow

PARTS = "parts"

#: A part is written after so many samples, or seconds since the last one.
PART_SAMPLES = 64
PART_SECONDS = 10.0


@dataclass(frozen=True)
class Damaged:
    """A part that cannot be used, and why."""

    part: str
    reason: str


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A run as it lies in its folder.

    Attributes:
        folder: The folder.
        manifest: What the run is.
        table: All rows, each once, by model, sample id, and then as the task gave them.
        done: The (model, sample) pairs that are stored.
        damaged: Parts that cannot be used; `run` with resume computes their samples again.
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
    """Return the run that a folder holds, whether it is complete or not.

    Raises:
        InputError: if the folder holds no run, may not be read, or pyarrow is absent.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} holds no run (there is no {manifests.FILE}); name the folder given to --out")
    parts, damaged = [], []
    for path in part_files(folder):
        try:
            parts.append(read_result_shard(path, manifest))
        except DamagedShardError as error:
            damaged.append(Damaged(path.name, str(error)))
    table, done = _join(parts, manifest)
    return StoredRun(folder, manifest, table, done, tuple(damaged))


def part_files(folder: Path) -> list[Path]:
    """Return the parts in a run's folder, by name."""
    return sorted(path for path in (folder / PARTS).glob("*.parquet") if NAME.fullmatch(path.name))


def claim(folder: Path, manifest: Manifest, *, overwrite: bool) -> None:
    """Make a folder that of a run, or find that it is already.

    Raises:
        InputError: if it holds another run, or something that only looks like one.
        OutputError: if it cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the results")
    found = read_manifest(folder)
    if overwrite:
        _clear(folder)
        found = None
    if found is None and part_files(folder):
        raise InputError(f"{folder} holds parts of a run without its manifest; choose another folder or --overwrite it")
    if found is not None:
        differences = manifest.differences(found)
        if differences:
            raise InputError(
                f"{folder} holds another run, which differs in {'; '.join(differences)}: choose another folder, or "
                f"replace that run with --overwrite"
            )
        return
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} could not be created: {error}") from error
    write_manifest(folder, manifest)


def tidy(folder: Path, damaged: Sequence[Damaged], shard: tuple[int, int]) -> None:
    """Clear the way for a shard to go on: what its killed process had half-written goes, damaged parts are renamed.

    Damaged parts get another ending, so that they are said once and stay for inspection.
    """
    for path in (folder / PARTS).glob(f"{shard[0]}-of-{shard[1]}-*.partial.parquet"):
        path.unlink(missing_ok=True)
    for one in damaged:
        path = folder / PARTS / one.part
        with suppress(FileNotFoundError):  # another shard that starts at this moment may be first
            path.rename(path.with_suffix(".damaged"))


class PartWriter:
    """Writes verdicts to parts: every few samples or seconds, when the model changes, and at the end.

    Whatever ends the work, what was judged before is written, unless writing itself is what failed.
    """

    def __init__(self, folder: Path, manifest: Manifest, shard: tuple[int, int]) -> None:
        self._folder, self._manifest, self._shard = folder, manifest, shard
        self._number, self._written = len(part_files(folder)), time.monotonic()
        self._waiting: list[Verdict] = []

    def add(self, verdict: Verdict) -> None:
        """Take one verdict, and write a part when it is time."""
        if self._waiting and self._waiting[0].model != verdict.model:
            self.flush()
        self._waiting.append(verdict)
        if len(self._waiting) >= PART_SAMPLES or time.monotonic() - self._written >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OutputError: if the disk is full or refuses; parts written before stay readable.
        """
        if self._waiting:
            folder = self._folder / PARTS
            write_result_shard(folder, self._manifest, self._waiting, shard=self._shard, number=self._number)
            self._number, self._waiting = self._number + 1, []
        self._written = time.monotonic()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(error, OutputError):
            self.flush()


def _clear(folder: Path) -> None:
    """Remove a run from its folder: the manifest first, so that no part can be taken for one of the next run."""
    try:
        for path in [folder / manifests.FILE, *part_files(folder)]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"the run in {folder} could not be removed: {error}") from error


def _join(parts: Sequence[ResultShard], manifest: Manifest) -> tuple[pyarrow.Table, frozenset[tuple[str, str]]]:
    """Return all rows in order, and what is done; of a sample that two parts hold, the first is taken."""
    pa, compute = package("pyarrow"), package("pyarrow.compute")
    done: set[tuple[str, str]] = set()
    tables = []
    for part in parts:
        fresh = [sample for sample in part.samples if (part.model, sample) not in done]
        done |= {(part.model, sample) for sample in fresh}
        kept = part.table.filter(compute.is_in(part.table["sample"], pa.array(fresh, pa.string())))
        tables.append(kept.replace_schema_metadata(None))
    table = pa.concat_tables(tables) if tables else schema().empty_table()
    rank = compute.index_in(table["model"], pa.array(list(manifest.models), pa.string()))
    keyed = table.append_column("rank", rank).append_column("row", pa.array(range(table.num_rows), pa.int64()))
    order = compute.sort_indices(keyed, sort_keys=[(key, "ascending") for key in ("rank", "sample", "row")])
    return table.take(order), frozenset(done)
