"""The folder of the data sets, named in MAMBASCOPE_DATA, and what reading a damaged one raises."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from pathlib import Path

from mambascope.errors import InputError

#: What Python raises for an archive that is cut short, damaged, encrypted, or of another kind.
DAMAGED_ARCHIVE = (
    *(OSError, EOFError, KeyError, ValueError, RuntimeError),
    *(zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
)


def data_file(*parts: str) -> Path:
    """Return the path of a file or folder in the data folder.

    Raises:
        InputError: if MAMBASCOPE_DATA is not set, or the data folder has no such file or folder.
    """
    root = os.environ.get("MAMBASCOPE_DATA")
    if not root:
        raise InputError(f"this task reads {'/'.join(parts)} of the data folder; say where that is in MAMBASCOPE_DATA")
    path = Path(root, *parts)
    if not os.path.exists(path):
        raise InputError(f"the data folder {root} (MAMBASCOPE_DATA) holds no {'/'.join(parts)}")
    return path
