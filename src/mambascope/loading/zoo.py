"""The zoo's models by name, `zoo:NAME`: from a clone of the repository, else from the user's cache, else downloaded.

Every file is checked against its hash in the manifest that comes with the package (`zoo.json`), so that a name always
means the same model. Models of the zoo are never looked up on a hub.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mambascope.errors import CheckpointError, OutputError
from mambascope.files import write_whole

PREFIX = "zoo:"
MANIFEST = Path(__file__).with_name("zoo.json")
#: The repository's root, if the package is in a clone of it.
CLONE = Path(__file__).parents[3]
#: Describes a model to people. No program reads it, so an edited one does no harm.
CARD = "README.md"
#: The environment variable that names the cache folder, instead of the platform's own.
CACHE = "MAMBASCOPE_CACHE"
#: How long to wait for a server to respond, in seconds.
TIMEOUT = 30.0
#: How much larger than its files an archive may be, in bytes.
SPARE = 65_536


@dataclass(frozen=True)
class ZooModel:
    """What the manifest says about a model.

    Attributes:
        name: Its name, without `zoo:`.
        task: What it does, in a few words.
        size: Total size of its files, in bytes.
        folder: Their folder in a clone.
        address: Address of the zip archive of a release that has them; None if no release has.
        files: The sha256 of each file, by file name.
    """

    name: str
    task: str
    size: int
    folder: str
    address: str | None
    files: Mapping[str, str]


@functools.cache
def zoo_models() -> dict[str, ZooModel]:
    """Return the zoo's models by name, such as `zoo:copying-mamba2`."""
    entries = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return {PREFIX + name: ZooModel(name, **entry) for name, entry in entries.items()}


def spelling(name: str) -> str:
    """Return `zoo:NAME` for the old spelling `zoo/NAME`, and any other name unchanged."""
    named = PREFIX + name.removeprefix("zoo/")
    return named if name.startswith("zoo/") and named in zoo_models() else name


def place(name: str) -> Path | None:
    """Return the folder with every file of a model, in a clone or in the cache; None if there is none."""
    model = _find(name)
    in_clone = [CLONE / model.folder] if (CLONE / "pyproject.toml").is_file() else []
    for folder in (*in_clone, _cached(model)):
        if all((folder / file).is_file() for file in model.files):
            return folder
    return None


def folder_of(name: str) -> Path:
    """Return the folder of a model, fetched if necessary, with its files checked against the manifest.

    Raises:
        CheckpointError: if there is no such model, if it cannot be found or fetched, or if a file has the wrong hash.
        OutputError: if the cache cannot be written.
    """
    model, found = _find(name), place(name)
    if found is None:
        found = _fetch(model)
    for file, expected in model.files.items():
        if file != CARD and _sha256((found / file).read_bytes()) != expected:
            remedy = (
                "remove it and load the model again"
                if found == _cached(model)
                else f"restore it with git, or load the folder {found} by its path if this file is meant"
            )
            raise CheckpointError(f"{found / file} is not the file that {name} has (another sha256): {remedy}")
    return found


def refuse_path(path: str | Path) -> None:
    """Raise CheckpointError for a path in a missing folder `zoo`, which a hub would take for an organisation's name.

    The message names the model of the zoo that was probably meant, if there is one.
    """
    parts = Path(path).parts
    if parts[:1] == ("zoo",):
        meant = PREFIX + "/".join(parts[1:])
        has = f"load it as {meant}" if meant in zoo_models() else "`mambascope models` lists the models of the zoo"
        raise CheckpointError(f"there is no folder {path} here; {has}")


def cache_folder() -> Path:
    """Return the folder for fetched models: the one that MAMBASCOPE_CACHE names, else one in the user's cache."""
    home = Path(os.path.expanduser("~"))
    if named := os.environ.get(CACHE):
        return Path(os.path.expanduser(named))
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "mambascope"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "mambascope" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mambascope"


def how_to_get(folder: str) -> str:
    """Return how to get a model of the zoo by hand, as the end of a sentence."""
    return f"copy {folder} from a clone of mambascope's repository into {cache_folder() / 'zoo'}"


def _find(name: str) -> ZooModel:
    if name not in zoo_models():
        raise CheckpointError(f"there is no model {name}; `mambascope models` lists the models of the zoo")
    return zoo_models()[name]


def _cached(model: ZooModel) -> Path:
    return cache_folder() / "zoo" / model.name


def _fetch(model: ZooModel) -> Path:
    """Download a release's files into the cache, each one whole and with the right hash, and return the folder."""
    name, target = PREFIX + model.name, _cached(model)
    if model.address is None:
        raise CheckpointError(f"{name} does not come with the installed package: {how_to_get(model.folder)}")
    try:
        contents = _unpacked(model, _downloaded(model.address, model.size + SPARE))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{name} could not be fetched from {model.address} ({reason}); try again, or {how_to_get(model.folder)}"
        ) from error
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target} could not be created ({error}); name another cache folder in {CACHE}") from error
    for file, content in contents.items():
        write_whole(target / file, content)
    return target


def _downloaded(address: str, most: int) -> bytes:
    """Return the contents of an address; raises OSError or ValueError if that fails or is larger than `most` bytes."""
    from http.client import HTTPException  # imported here because it is slow, and listing models does not need it
    from urllib.request import urlopen

    try:
        with urlopen(address, timeout=TIMEOUT) as reply:
            content: bytes = reply.read(most + 1)
    except HTTPException as error:
        raise OSError(repr(error)) from error
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes, too large for an archive of this model")
    return content


def _unpacked(model: ZooModel, archive: bytes) -> dict[str, bytes]:
    """Return the files of a model from its zip archive; raises ValueError if one is absent or has another hash."""
    contents = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            for file in model.files:
                if opened.getinfo(file).file_size > model.size:
                    raise ValueError(f"{file} is larger than the whole model")
                contents[file] = opened.read(file)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        raise ValueError(f"it is not the zip archive of this model: {error}") from error
    for file, expected in model.files.items():
        if _sha256(contents[file]) != expected:
            raise ValueError(f"{file} is not the file that was released: it has another sha256")
    return contents


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
