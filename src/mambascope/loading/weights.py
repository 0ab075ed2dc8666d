"""The weights of a checkpoint folder: which of its files hold them, and their tensors by name."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from mambascope.errors import CheckpointError
from mambascope.loading.containers import SUFFIXES, read_contents
from mambascope.loading.json_files import is_file, read_json
from mambascope.loading.schemas import WeightIndex
from mambascope.numbering import shown

#: Names of weights files; the first that exists in a folder is read.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
    "pytorch_model.pt",
    "pytorch_model.ckpt",
    "checkpoint.pth",
    "checkpoint.pt",
)

#: Files beside the weights that hold tensors of something else.
OTHERS = re.compile(r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|adapter_model).*")

#: What marks the folder of a peft adapter.
ADAPTER = "adapter_config.json"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder by name, on the CPU, in the precision of the file, where its values still are.

    Raises:
        CheckpointError: if there is no weights file, a shard is missing, or a file is damaged or holds no tensors.
    """
    path = next((folder / name for name in WEIGHT_FILES if is_file(folder / name)), None) or _only_file(folder)
    if path.suffix != ".json":
        return _tensors(path)
    tensors: dict[str, Tensor] = {}
    for shard in _shards(path):
        tensors.update(_tensors(shard))
    return tensors


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError, with the remedy, if a folder holds a peft adapter and not the model that it adapts."""
    if is_file(folder / ADAPTER):
        base = read_json(folder / ADAPTER).get("base_model_name_or_path")
        named = f" of {shown(base)}" if isinstance(base, str) else ""
        raise CheckpointError(
            f"{folder} holds a peft adapter{named} and not a whole model; load the base model with peft, join them "
            "with merge_and_unload(), save the result with save_pretrained, and load that"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    contents = read_contents(path)
    if not contents.state_dicts or not contents.state_dicts[0].held:
        raise CheckpointError(f"{path} holds no tensors by name; save the model's state_dict() in it")
    return contents.state_dicts[0].tensors()


def _only_file(folder: Path) -> Path:
    """Return the only file of weights of a folder, whatever its name."""
    refuse_adapter(folder)
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and is_file(path))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}") from error
    found = [path for path in found if not OTHERS.fullmatch(path.name)]
    if len(found) != 1:
        several = f" or one file that ends in {', '.join(SUFFIXES)}, and found {len(found)}"
        raise CheckpointError(f"{folder} holds no weights; looked for {', '.join(WEIGHT_FILES)},{several}")
    return found[0]


def _shards(index: Path) -> list[Path]:
    """Return the weights files that an index names; all must be in the same folder."""
    try:
        names = read_json(index, WeightIndex)["weight_map"]
    except CheckpointError as error:
        if "weight_map" not in str(error):
            raise
        raise CheckpointError(f"{index} has no usable weight_map; copy or download it again") from error
    shards = [index.parent / name for name in sorted(set(names.values()))]
    for shard in shards:
        if shard.parent != index.parent or shard.name in {"", ".", ".."}:
            raise CheckpointError(f"{index} names a weights file outside its folder: {shown(str(shard))}")
        if not is_file(shard):
            raise CheckpointError(
                f"{index} names {shown(shard.name)[1:-1]}, which is missing; copy or download it again"
            )
    return shards
