"""A result shard: a parquet file with all rows of a few samples of one model, in long format.

Columns: task, model, method, layer, sample, metric, value, extra (JSON or null). The file's metadata name the run, the
model and the samples, so that samples without rows are known to be done too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from mambascope.errors import InputError, MambascopeError
from mambascope.evaluate.manifest import Manifest
from mambascope.evaluate.packages import package
from mambascope.evaluate.sample_runner import SampleResult
from mambascope.files import write_whole
from mambascope.numbering import shown
from mambascope.schemas import checked, read_json

if TYPE_CHECKING:
    import pyarrow

#: The key of our own metadata in a result shard.
KEY = b"mambascope"

#: The name of a result shard: subset of the samples, number of subsets, number of the shard, and a random token.
NAME = re.compile(r"\d+-of-\d+-\d+-[0-9a-f]{8}\.parquet")


class DamagedShardError(MambascopeError):
    """A result shard is incomplete, not parquet, or of another run; the message is the reason."""


@dataclass(frozen=True, eq=False)
class ResultShard:
    """The content of one result shard.

    Attributes:
        name: The file's name.
        model: The model.
        samples: The samples whose rows it holds.
        table: The rows.
    """

    name: str
    model: str
    samples: tuple[str, ...]
    table: pyarrow.Table


class _Mark(BaseModel):
    """What a result shard says about itself."""

    run: str
    model: str
    samples: tuple[str, ...]


def schema() -> pyarrow.Schema:
    """Return the columns of a result shard."""
    pa = package("pyarrow")
    texts = {name: pa.string() for name in ("task", "model", "method", "sample", "metric", "extra")}
    kinds = {**texts, "layer": pa.int32(), "value": pa.float64()}
    order = ("task", "model", "method", "layer", "sample", "metric", "value", "extra")
    return pa.schema([(name, kinds[name]) for name in order])


def write_result_shard(
    folder: Path, manifest: Manifest, results: Sequence[SampleResult], *, subset: tuple[int, int], number: int
) -> Path:
    """Write results of one model to a new result shard in a folder, whole or not at all, and return its path.

    Raises:
        OutputError: if the disk is full or cannot be written to.
    """
    pa, parquet = package("pyarrow"), package("pyarrow.parquet")
    lines = [
        {
            "task": manifest.task,
            "model": result.model,
            "method": row.method,
            "layer": row.layer,
            "sample": result.sample,
            "metric": row.metric,
            "value": float(row.value),
            "extra": None if row.extra is None else json.dumps(row.extra, sort_keys=True, ensure_ascii=False),
        }
        for result in results
        for row in result.rows
    ]
    about = {"run": manifest.run, "model": results[0].model, "samples": [result.sample for result in results]}
    table = pa.Table.from_pylist(lines, schema=schema().with_metadata({KEY: json.dumps(about)}))
    content = pa.BufferOutputStream()
    parquet.write_table(table, content, write_page_checksum=True)
    path = folder / f"{subset[0]}-of-{subset[1]}-{number:06d}-{secrets.token_hex(4)}.parquet"
    write_whole(path, content.getvalue().to_pybytes())
    return path


def read_result_shard(path: Path, manifest: Manifest) -> ResultShard:
    """Return the content of a result shard.

    Raises:
        DamagedShardError: if it is incomplete, not parquet, or of another run.
        InputError: if there is no permission to read it.
    """
    pa, parquet = package("pyarrow"), package("pyarrow.parquet")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DamagedShardError("it is not a file")
    try:
        table = parquet.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        mark = (table.schema.metadata or {}).get(KEY)
        if mark is None:
            raise DamagedShardError("it is not a result shard")
        about = checked(_Mark, read_json(mark))
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedShardError(" ".join(str(error).split()).rstrip(".")) from error
    if about.run != manifest.run or about.model not in manifest.models or not table.schema.equals(schema()):
        raise DamagedShardError("it belongs to another run")
    _check_rows(table, manifest, about)
    return ResultShard(path.name, about.model, about.samples, table)


def _check_rows(table: pyarrow.Table, manifest: Manifest, about: _Mark) -> None:
    """Raise DamagedShardError if a row is not about the shard's model and samples, or lacks an entry."""
    allowed = {"task": [manifest.task], "model": [about.model], "sample": about.samples, "method": manifest.methods}
    for name in table.column_names:
        found = table[name]
        if name != "extra" and found.null_count:
            raise DamagedShardError(f"a row has no {name}")
        strange = set(found.unique().to_pylist()) - set(allowed[name]) if name in allowed else ()
        if strange:
            raise DamagedShardError(f"it has rows of the {name} {shown(min(strange))}, which it should not hold")
