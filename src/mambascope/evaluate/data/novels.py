"""Haystacks: running text of the novels that no bundled model was trained on, or of files that a user names."""

from __future__ import annotations

import re
import tarfile
from functools import lru_cache
from pathlib import Path

from mambascope.errors import InputError

#: Held out from every model of this project (training/README.md).
HELD_OUT = (
    "Bennet_Babylon_1902",
    "Bennet_Helen_1910",
    "Dickens_Expectations_1861",
    "Doyle_Lost_1912",
    "Woolf_Night_1919",
)


@lru_cache(maxsize=1)
def held_out_novels(archive: Path) -> dict[str, str]:
    """Return each held-out novel of `lm_novels/novels.tar.xz` with its white space closed.

    Raises:
        InputError: if the archive cannot be read or lacks one of them.
    """
    novels = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).stem
                file = tar.extractfile(member) if name in HELD_OUT and member.isfile() else None
                if file is not None:
                    novels[name] = re.sub(r"\s+", " ", file.read().decode("utf-8-sig"))
    except (OSError, EOFError, UnicodeDecodeError, tarfile.TarError) as error:
        raise InputError(f"{archive} could not be read: {error}") from error
    missing = [name for name in HELD_OUT if name not in novels]
    if missing:
        raise InputError(f"{archive} holds no novel {missing[0]}")
    return novels


def text_files(source: str) -> dict[str, str]:
    """Return the texts of a folder's .txt files, or of the one file that is named, with white space closed.

    Raises:
        InputError: if there is none, or one cannot be read as UTF-8.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source} does not exist; name a folder of .txt files, or one of them")
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{source} holds no .txt files")
    texts = {}
    for file in files:
        try:
            texts[file.stem] = re.sub(r"\s+", " ", file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} could not be read: {error}") from error
    return texts
