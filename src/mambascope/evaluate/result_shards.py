"""A part of a run: one parquet file with the rows of a few whole samples of one model, in long format.

Columns: task, model, method, layer, sample, metric, value, extra (JSON or null). The file's metadata name the run, the
model and the samples, so that a sample without rows is known to be done too.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mambascope.errors import InputError, MambascopeError
from mambascope.evaluate.manifest import Manifest
from mambascope.evaluate.packages import package
from mambascope.evaluate.sample_runner import Verdict
from mambascope.files import whole_file

if TYPE_CHECKING:
    import pyarrow

#: The key of our own metadata in a part.
KEY = b"mambascope"

#: A part's name: shard, number of shards, number of the part, and a token that no other process draws.
NAME = re.compile(r"\d+-of-\d+-\d+-[0-9a-f]{8}\.parquet")


class DamagedShardError(MambascopeError):
    """A part is half-written, not parquet, or not of this run; the message is the reason."""


@dataclass(frozen=True, eq=False)
class ResultShard:
    """What one part holds.

    Attributes:
        name: Name of the file.
        model: The model that it is about.
        samples: The samples that it holds whole.
        table: The rows.
    """

    name: str
    model: str
    samples: tuple[str, ...]
    table: pyarrow.Table


def schema() -> pyarrow.Schema:
    """Return the columns of a part."""
    pa = package("pyarrow")
    texts = {name: pa.string() for name in ("task", "model", "method", "sample", "metric", "extra")}
    kinds = {**texts, "layer": pa.int32(), "value": pa.float64()}
    order = ("task", "model", "method", "layer", "sample", "metric", "value", "extra")
    return pa.schema([(name, kinds[name]) for name in order])


def write_result_shard(
    folder: Path, manifest: Manifest, verdicts: Sequence[Verdict], *, shard: tuple[int, int], number: int
) -> Path:
    """Write the verdicts of one model to a new part in a folder, whole or not at all, and return its path.

    Raises:
        OutputError: if the disk is full or refuses.
    """
    pa, parquet = package("pyarrow"), package("pyarrow.parquet")
    lines = [
        {
            "task": manifest.task,
            "model": verdict.model,
            "method": row.method,
            "layer": row.layer,
            "sample": verdict.sample,
            "metric": row.metric,
            "value": float(row.value),
            "extra": None if row.extra is None else json.dumps(row.extra, sort_keys=True, ensure_ascii=False),
        }
        for verdict in verdicts
        for row in verdict.rows
    ]
    mark = {"run": manifest.run, "model": verdicts[0].model, "samples": [verdict.sample for verdict in verdicts]}
    table = pa.Table.from_pylist(lines, schema=schema().with_metadata({KEY: json.dumps(mark)}))
    content = pa.BufferOutputStream()
    parquet.write_table(table, content, write_page_checksum=True)
    path = folder / f"{shard[0]}-of-{shard[1]}-{number:06d}-{secrets.token_hex(4)}.parquet"
    with whole_file(path) as partial:
        partial.write_bytes(content.getvalue())
    return path


def read_result_shard(path: Path, manifest: Manifest) -> ResultShard:
    """Return what a part holds.

    Raises:
        DamagedShardError: if it is half-written, not parquet, or of another run.
        InputError: if the file may not be read.
    """
    pa, parquet = package("pyarrow"), package("pyarrow.parquet")
    try:
        table = parquet.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        mark = json.loads((table.schema.metadata or {})[KEY])
    except PermissionError as error:
        raise InputError(f"{path} may not be read: {error}") from error
    except KeyError as error:
        raise DamagedShardError("it is not a part of a run") from error
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these two
        raise DamagedShardError(" ".join(str(error).split()).rstrip(".")) from error
    if mark["run"] != manifest.run or not table.schema.equals(schema()):
        raise DamagedShardError("it is a part of another run")
    return ResultShard(path.name, mark["model"], tuple(mark["samples"]), table)
