"""The novels: where they are found, how their line ends are mended, and which are held out."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import numpy as np

#: Whole novels that no model, tokenizer or baseline sees while it is trained. Two are by authors of whom other novels
#: are in the training text (Dickens, Doyle); three are by authors of whom nothing is (both of Bennett's, and Woolf's).
HELD_OUT = (
    "Bennet_Babylon_1902",
    "Bennet_Helen_1910",
    "Dickens_Expectations_1861",
    "Doyle_Lost_1912",
    "Woolf_Night_1919",
)

#: A file is hard-wrapped when nearly all its lines are shorter than this.
WRAPPED_WIDTH = 100


def data_folder(argument: Path | None = None) -> Path:
    """Return the data folder: the argument, else `MAMBASCOPE_DATA`, else `../shared/data`."""
    return argument or Path(os.environ.get("MAMBASCOPE_DATA", "../shared/data"))


def read_novels(folder: Path) -> dict[str, str]:
    """Return every novel's text by name, in the order of the names.

    `folder` holds `lm_novels/novels.tar.xz` or `novels.tar.xz`, or is a plain folder of `.txt` files.
    """
    for archive in (folder / "lm_novels" / "novels.tar.xz", folder / "novels.tar.xz"):
        if archive.is_file():
            raw = _read_archive(archive)
            break
    else:
        raw = {path.stem: path.read_bytes() for path in folder.glob("*.txt")}
    if not raw:
        raise FileNotFoundError(
            f"{folder} holds neither lm_novels/novels.tar.xz nor .txt files; give --data or set MAMBASCOPE_DATA."
        )
    return {name: mend(raw[name].decode("utf-8-sig")) for name in sorted(raw)}


def _read_archive(archive: Path) -> dict[str, bytes]:
    novels = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".txt"):
                file = tar.extractfile(member)
                assert file is not None
                novels[Path(member.name).stem] = file.read()
    return novels


def split_novels(novels: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return (training novels, held-out novels); with none of the named ones present the last novel is held out."""
    held = [name for name in novels if name in HELD_OUT] or [max(novels)]
    return (
        {name: text for name, text in novels.items() if name not in held},
        {name: novels[name] for name in held},
    )


def mend(text: str) -> str:
    """Return the text with one paragraph per line: line ends normalised, hard wraps joined, runs of spaces closed."""
    text = re.sub(r"\r\n?", "\n", text).replace("\f", " ")
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.split("\n")]
    lengths = np.array([len(line) for line in lines if line] or [0])
    if np.quantile(lengths, 0.98) <= WRAPPED_WIDTH:
        lines = _join_wrapped(lines, width=int(np.quantile(lengths, 0.95)))
    return "\n".join(line for line in lines if line) + "\n"


def _join_wrapped(lines: list[str], width: int) -> list[str]:
    """Join the lines of a paragraph; it ends at an empty line, or where the next line's first word would have fitted.

    The second sign is only trusted in files that do not part their paragraphs by empty lines.
    """
    parted = sum(not line for line in lines) > len(lines) / 50
    paragraphs: list[str] = []
    current = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        current = f"{current} {line}".strip()
        first = following.split(" ", 1)[0]
        fitted = len(line) + 1 + len(first) < width - 3 and line[-1:] in tuple(".!?:;-\"'")
        if not following or (not parted and fitted):
            paragraphs.append(current)
            current = ""
    return paragraphs
