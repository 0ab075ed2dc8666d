"""Fetch the files of a model from the Hugging Face hub, or say in one sentence why that failed."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from mambascope.errors import CheckpointError
from mambascope.loading.bundled import bundled_names
from mambascope.loading.json_files import one_line
from mambascope.loading.zoo import refuse_path

#: Small files, fetched first: they show whether the weights are worth fetching.
SETTINGS = ("config.json",)
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")


def is_repository(name: str) -> bool:
    """Return whether this can be the name of a repository, organisation/name; no path of a file is one."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)) and ".." not in name and len(name) <= 200


def fetch(repository: str, patterns: tuple[str, ...]) -> Path:
    """Return the local folder of a hub repository, with at least the files that match the patterns.

    Raises:
        CheckpointError: if the repository does not exist, is not accessible to the user, or cannot be reached; or if
            its name is a path in the zoo, which anyone could register on the hub.
    """
    refuse_path(repository)
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client passes on errors of several HTTP and storage libraries
        raise CheckpointError(
            f"{repository} is neither a folder nor a bundled model ({bundled_names()}), and it could not be fetched "
            f"from the Hugging Face hub: {_reason(error)}"
        ) from error


def fetch_weights(repository: str) -> Path:
    """Return the local folder of a hub repository with its weights: safetensors if it has them, else pickles."""
    folder = fetch(repository, ("model*.safetensors", "model.safetensors.index.json"))
    if any(folder.glob("model*.safetensors")):
        return folder
    return fetch(repository, ("pytorch_model*.bin", "pytorch_model.bin.index.json"))


def _reason(error: Exception) -> str:
    """Return why a download failed, as the end of a sentence."""
    if isinstance(error, GatedRepoError):
        return "its terms must be accepted on huggingface.co first, and `hf auth login` run here"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private and needs `hf auth login`"
    if isinstance(error, HFValidationError):
        return "this is not a possible name for a repository (organisation/name)"
    if isinstance(error, LocalEntryNotFoundError):
        cause = type(error.__cause__ or error).__name__
        return f"the hub cannot be reached from here ({cause}) and there is no complete copy in the local cache"
    return one_line(error)
