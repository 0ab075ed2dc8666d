"""Checkpoints in Mistral's own layout (params.json, consolidated.safetensors), of which Codestral Mamba is one.

Mistral's program builds the model of `mamba_ssm` from these settings, as a part named `model`; so its settings and
tensors are those of `mamba_ssm` under other names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.loading import mamba_ssm
from mambascope.loading.json_files import is_file, read_json
from mambascope.numbering import shown

SETTINGS = "params.json"

#: Settings of a Mamba model, with their names in `mamba_ssm`; all but the last must be there.
_NAMES = {
    "dim": "d_model", "n_layers": "n_layer", "vocab_size": "vocab_size", "rms_norm": "rms_norm",
    "residual_in_fp32": "residual_in_fp32", "pad_vocab_size_multiple": "pad_vocab_size_multiple",
    "tie_embeddings": "tie_embeddings", "fused_add_norm": "fused_add_norm",
}  # fmt: skip


def is_mistral(folder: Path) -> bool:
    """Return whether a folder has Mistral's own settings, and not those of transformers beside them."""
    return is_file(folder / SETTINGS) and not is_file(folder / "config.json")


def to_transformers(folder: Path, *, name: str) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """Return the transformers class and configuration that are equivalent to a model in Mistral's layout.

    Args:
        folder: the folder with params.json.
        name: what the user called the checkpoint, for messages.

    Raises:
        UnsupportedModelError: if it is no Mamba model, or has settings that are not known.
        CheckpointError: if a setting is missing or invalid.
    """
    settings: dict[str, Any] = read_json(folder / SETTINGS)
    kind = settings.get("model_type", "transformer")
    if kind != "mamba":
        raise UnsupportedModelError(
            f"{name} is a {shown(kind)[1:-1]} in Mistral's own layout ({SETTINGS}), of which only Mamba models are "
            "read; pass the same checkpoint in the layout of transformers, which has a config.json"
        )
    missing = sorted({*_NAMES, "n_groups"} - {*settings, "fused_add_norm"})
    if missing:
        raise CheckpointError(f"{name}: its {SETTINGS} lacks {', '.join(missing)}")
    unknown = sorted({*settings} - {*_NAMES, "n_groups", "model_type"})
    if unknown:
        raise UnsupportedModelError(f"{name} has settings in its {SETTINGS} that are not known: {', '.join(unknown)}")
    translated = {theirs: settings[ours] for ours, theirs in _NAMES.items() if ours in settings}
    mixer = {"layer": "Mamba2", "ngroups": settings["n_groups"]}
    try:
        return mamba_ssm.to_transformers(translated | {"ssm_cfg": mixer}, name=name)
    except CheckpointError as error:
        raise CheckpointError(_in_their_words(str(error))) from error


def rename_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by their names in `mamba_ssm`."""
    return {key.removeprefix("model."): value for key, value in tensors.items()}


def _in_their_words(message: str) -> str:
    """Return a message about settings of `mamba_ssm` with the names that they have in params.json."""
    for theirs, ours in (("config.json", SETTINGS), ("d_model", "dim"), ("n_layer ", "n_layers ")):
        message = message.replace(theirs, ours)
    return message
