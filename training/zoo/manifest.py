"""Write the manifest of the zoo: `python -m training.zoo.manifest`, after a model or its card has changed.

src/mambascope/loading/zoo.json then says of every folder in zoo/ what zoo/README.md calls its task, and the hash of
each file. For a release, `--pack FOLDER` writes an archive of each model, and `--release ADDRESS`
notes where they were put.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from mambascope.files import whole_file, write_whole
from mambascope.loading.zoo import MANIFEST

ZOO = Path(__file__).parents[2] / "zoo"
#: The date of every file in an archive, so that the same files make the same archive.
DATE = (1980, 1, 1, 0, 0, 0)


def tasks(readme: str) -> dict[str, str]:
    """Return the task of every model in the table of zoo/README.md: `| names, with commas | task | licence |`."""
    rows = re.findall(r"^\| (\S[^|]*?) \| ([^|]+?) \|", readme, re.MULTILINE)
    return {name: task.replace("`", "") for names, task in rows for name in names.split(", ")}


def files_of(folder: Path) -> list[Path]:
    """Return the files of a model, by name, without those that a file manager hides there."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def manifest(zoo: Path, before: dict[str, Any], release: str | None = None) -> dict[str, Any]:
    """Return the manifest of a folder of models; where their files are what they were `before`, so is the address.

    Raises:
        SystemExit: if the folder's README says nothing of a model.
    """
    named, entries = tasks((zoo / "README.md").read_text(encoding="utf-8")), {}
    for folder in sorted(config.parent for config in zoo.glob("*/config.json")):
        if folder.name not in named:
            raise SystemExit(f"{zoo / 'README.md'} says nothing of {folder.name}; add its name and task to the table")
        contents = {path.name: path.read_bytes() for path in files_of(folder)}
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        old = before.get(folder.name, {})
        address = old.get("address") if old.get("files") == hashes else None
        entries[folder.name] = {
            "task": named[folder.name],
            "size": sum(map(len, contents.values())),
            "folder": f"zoo/{folder.name}",
            "address": f"{release}/{folder.name}.zip" if release else address,
            "files": hashes,
        }
    return entries


def pack(folder: Path, archive: Path) -> None:
    """Write the archive of a model that a release offers: its files, without a folder."""
    with whole_file(archive) as partial, zipfile.ZipFile(partial, "w") as opened:
        for path in files_of(folder):
            opened.writestr(zipfile.ZipInfo(path.name, DATE), path.read_bytes(), zipfile.ZIP_DEFLATED)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--release", metavar="ADDRESS", help="where the release has NAME.zip of each model")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write NAME.zip of each model there")
    options = parser.parse_args()
    before = json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.is_file() else {}
    entries = manifest(ZOO, before, options.release)
    write_whole(MANIFEST, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    for name in entries if options.pack else ():
        options.pack.mkdir(parents=True, exist_ok=True)
        pack(ZOO / name, options.pack / f"{name}.zip")
    print(f"{MANIFEST}: {len(entries)} models, {sum(entry['size'] for entry in entries.values()):,} bytes")


if __name__ == "__main__":
    main()
