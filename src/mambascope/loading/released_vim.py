"""Read a checkpoint of the public Vim repository (hustvl/Vim): one file, which does not state most sizes.

They follow from the shapes of its tensors. The exceptions, the picture's size, the position of the class token and
whether the directions are averaged, are taken from the training settings in the file, if any; without them they are as
in every published checkpoint: pictures of 224 pixels, class token in the middle, averaged.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mambascope.errors import CheckpointError
from mambascope.loading.checkpoint import build_model, read_file, unpickled
from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.models.vim.grid import ClassToken
from mambascope.models.vim.model import VisionMamba

#: Side of the pictures that the published checkpoints were trained on.
PUBLISHED_IMAGE_SIZE = 224

#: Names of tensors that every Vim has, and no other model.
MARKS = ("patch_embed.proj.weight", "layers.0.mixer.A_b_log", "head.weight")

#: Suffixes of files that may hold tensors.
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".tar")


def load_released(path: str | Path, *, image_size: int | None = None, dtype: torch.dtype | None = None) -> VisionMamba:
    """Return the model in a released file, in eval mode and without gradients.

    Args:
        path: A `.pth` file as the repository's training code writes it (`{"model": tensors, …}`), or the tensors alone
            in a `.pth` or `.safetensors` file.
        image_size: Side of the square pictures that the position embedding fits, which determines the stride; by
            default what the file says, or 224.
        dtype: Precision of the model; by default float32.

    Raises:
        CheckpointError: if the file is not a Vim checkpoint, is damaged, or its tensors do not fit together.
    """
    path = Path(path)
    tensors, settings = _read(path)
    if not is_vim(tensors):
        raise CheckpointError(f"{path} is not a Vim checkpoint: it lacks one of {', '.join(MARKS)}")
    config = _configuration(tensors, settings, image_size, name=str(path))
    model = build_model(VisionMamba, config, tensors, name=str(path), dtype=dtype or torch.float32)
    model.name_or_path = model.config.name_or_path = path.stem
    return model


def is_released(path: Path) -> bool:
    """Return whether a file holds a Vim; reads only the names of its tensors, but the whole of a pickle.

    Raises:
        CheckpointError: if it is a damaged pickle.
    """
    if not path.is_file() or path.suffix not in SUFFIXES:
        return False
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return is_vim(dict.fromkeys(file.keys()))
        except (SafetensorError, OSError):
            return False
    return is_vim(_read(path)[0])


def is_vim(tensors: Mapping[str, Any]) -> bool:
    """Return whether these are the tensors of a Vim, judging by their names."""
    return all(mark in tensors for mark in MARKS)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a file's tensors by name, and the settings of the training run, if any."""
    if path.suffix == ".safetensors":
        return read_file(path), {}
    found = unpickled(path, allowed=(argparse.Namespace,))
    settings = vars(found["args"]) if isinstance(found.get("args"), argparse.Namespace) else {}
    held = found["model"] if isinstance(found.get("model"), Mapping) else found
    tensors = {str(key).removeprefix("module."): value for key, value in held.items() if isinstance(value, Tensor)}
    return tensors, settings


def _configuration(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], image_size: int | None, *, name: str
) -> VisionMambaConfig:
    try:
        E, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
        D, N = tensors["layers.0.mixer.A_log"].shape
        positions, taps = tensors["pos_embed"].shape[1], tensors["layers.0.mixer.conv1d.weight"].shape[-1]
        rank, classes = tensors["layers.0.mixer.dt_proj.weight"].shape[1], tensors["head.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{name} lacks a tensor of a Vim, or it has another shape there: {error}") from error
    trained = str(settings.get("model") or "")
    has_class = "cls_token" in tensors
    place: ClassToken = "middle" if not trained or "mid" in trained else "first"
    size = image_size or int(settings.get("input_size") or PUBLISHED_IMAGE_SIZE)
    return VisionMambaConfig(
        image_size=size,
        patch_size=patch,
        stride=_stride(size, patch, positions - has_class, name=name),
        num_channels=channels,
        hidden_size=E,
        num_hidden_layers=1 + max(int(key.split(".")[1]) for key in tensors if re.match(r"layers\.\d+\.", key)),
        state_size=N,
        conv_kernel=taps,
        expand=D // E,
        time_step_rank=rank,
        class_token=place if has_class else "none",
        divide_output=not trained or "div2" in trained,
        use_bias="layers.0.mixer.out_proj.bias" in tensors,
        num_labels=classes,
    )


def _stride(size: int, patch: int, patches: int, *, name: str) -> int:
    """Return the stride at which a square picture of this size has this many patches."""
    side = math.isqrt(patches)
    stride = (size - patch) // (side - 1) if side > 1 else patch
    if side**2 != patches or stride < 1 or (size - patch) // stride + 1 != side:
        raise CheckpointError(
            f"{name} has {patches} positions of patches, which pictures of {size} x {size} pixels in patches of "
            f"{patch} do not have at any stride; name their size in Python (image_size), or save it as a folder with "
            "config.json"
        )
    return stride
