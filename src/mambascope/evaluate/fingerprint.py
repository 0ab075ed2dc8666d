"""What results depend on besides the code: a model's weights and configuration, and the versions of the libraries."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from mambascope.errors import InputError


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a loaded model's weights (names, precisions and values) and of its configuration and tokenizer."""

    weights: str
    config: str


def fingerprint(loaded: Any) -> Fingerprint:
    """Return the fingerprint of what `load` returned: a model, or a model and its tokenizer.

    Raises:
        InputError: if it is something else.
    """
    pair: tuple[Any, Any] = loaded if isinstance(loaded, tuple) and len(loaded) == 2 else (loaded, None)
    model, tokenizer = pair
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"a model was expected, found a {type(model).__name__}; pass a fingerprint function for it")
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    settings: Any = getattr(model, "config", None)
    config = {} if settings is None else settings.to_dict()
    for where in ("_name_or_path", "name_or_path", "transformers_version"):  # not part of what the model computes
        config.pop(where, None)
    described = json.dumps(config, sort_keys=True, default=str)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described += "" if backend is None else backend.to_str()
    return Fingerprint(_short(weights), _short(hashlib.sha256(described.encode())))


def versions() -> dict[str, str]:
    """Return the versions of mambascope, torch, transformers and Python."""
    found = {name: version(name) for name in ("mambascope", "torch", "transformers")}
    return {**found, "python": platform.python_version()}


def _short(hashed: Any) -> str:
    return str(hashed.hexdigest()[:32])
