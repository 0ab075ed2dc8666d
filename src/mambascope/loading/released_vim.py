"""Read a checkpoint of the public Vim repository (hustvl/Vim): one file, which does not state most sizes.

They follow from the shapes of its tensors. The exceptions, the picture's size, the position of the class token and
whether the directions are averaged, are taken from the training settings in the file. Without them they are assumed to
be as in every published checkpoint: pictures of 224 pixels, class token in the middle, averaged. That is told, and
accepted only if it explains the number of positions: with patches side by side, or with a stride that divides them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from mambascope.errors import CheckpointError
from mambascope.loading.checkpoint import build_model
from mambascope.loading.json_files import checked
from mambascope.loading.released import PUBLISHED_IMAGE_SIZE, Layout, Released, require_released
from mambascope.loading.schemas import Named
from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.models.vim.grid import ClassToken
from mambascope.models.vim.model import VisionMamba

LAYOUT = Layout("Vim", "layers.0.mixer.A_b_log", ("patch_embed.proj.weight", "layers.0.mixer.A_b_log", "head.weight"))


class Arguments(Named):
    """The arguments of a training run of the Vim repository, as far as they say how the model is built."""

    model: str | None = None
    input_size: Annotated[int, Field(ge=1, le=100_000)] | None = None


def load_released(path: str | Path, *, image_size: int | None = None, dtype: torch.dtype | None = None) -> VisionMamba:
    """Return the model in a released file, in eval mode and without gradients.

    Args:
        path: A `.pth` file as the repository's training code writes it (`{"model": tensors, …}`), or the tensors alone
            in a `.pth` or `.safetensors` file.
        image_size: Side of the square pictures that the position embedding fits, which determines the stride; by
            default what the file says, or 224 if that explains it.
        dtype: Precision of the model; by default float32.

    Raises:
        CheckpointError: if the file is not a Vim checkpoint, is damaged, or its tensors do not fit together; or if it
            does not say for pictures of which size it is, and 224 pixels do not fit.
    """
    return build(require_released(path, LAYOUT), image_size=image_size, dtype=dtype)[0]


def build(
    found: Released, *, image_size: int | None = None, dtype: torch.dtype | None = None
) -> tuple[VisionMamba, tuple[str, ...]]:
    """Return the model of a file's tensors, and what was assumed, a clause each; raises as `load_released` does."""
    config, notes = _configuration(found, image_size)
    model = build_model(VisionMamba, config, dict(found.tensors), name=found.name, dtype=dtype or torch.float32)
    model.name_or_path = model.config.name_or_path = Path(found.name).stem
    return model, (*found.notes, *notes)


def _configuration(found: Released, image_size: int | None) -> tuple[VisionMambaConfig, tuple[str, ...]]:
    E, channels, patch, _ = found.shape("patch_embed.proj.weight", 4)
    D, N = found.shape("layers.0.mixer.A_log", 2)
    has_class = "cls_token" in found.tensors
    patches = found.shape("pos_embed", 3)[1] - has_class
    numbers = {int(match[1]) for match in (re.match(r"layers\.([0-9]{1,9})\.", key) for key in found.tensors) if match}
    said = Arguments(**checked(_known(found.settings), Arguments, f"{found.name}: the arguments in it"))
    size = image_size or said.input_size
    if D % E:
        raise CheckpointError(f"{found.name}: its inner width {D} is not a multiple of its width {E}")
    place: ClassToken = "middle" if not said.model or "mid" in said.model else "first"
    stride = _stride(size or PUBLISHED_IMAGE_SIZE, patch, patches, told=size is not None, name=found.name)
    notes = []
    if size is None:
        notes.append(f"pictures of {PUBLISHED_IMAGE_SIZE} pixels, a stride of {stride} (image_size=… says otherwise)")
    if not said.model:
        notes.append(
            "its class token in the middle and its directions averaged" if has_class else "averaged directions"
        )
    config = VisionMambaConfig(
        image_size=size or PUBLISHED_IMAGE_SIZE,
        patch_size=patch,
        stride=stride,
        num_channels=channels,
        hidden_size=E,
        num_hidden_layers=found.count(numbers, "layer"),
        state_size=N,
        conv_kernel=found.shape("layers.0.mixer.conv1d.weight", 3)[-1],
        expand=D // E,
        time_step_rank=found.shape("layers.0.mixer.dt_proj.weight", 2)[1],
        class_token=place if has_class else "none",
        divide_output=not said.model or "div2" in said.model,
        use_bias="layers.0.mixer.out_proj.bias" in found.tensors,
        num_labels=found.shape("head.weight", 2)[0],
    )
    return config, tuple(notes)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("model", "input_size") if key in settings}


def _stride(size: int, patch: int, patches: int, *, told: bool, name: str) -> int:
    """Return the stride at which a square picture of this size has this many patches.

    Args:
        size: Its side in pixels.
        patch: The side of a patch.
        patches: How many there are.
        told: Whether the size was told; if it is only assumed, the stride must divide the patch.
        name: The file, for messages.
    """
    side = math.isqrt(max(patches, 0))
    fitting = [stride for stride in range(1, patch + 1) if (size - patch) // stride + 1 == side and patch % stride == 0]
    if side**2 == patches and side > 0 and size >= patch:
        largest = (size - patch) // (side - 1) if side > 1 else patch
        if fitting:
            return fitting[-1]
        if told and largest >= 1 and (size - patch) // largest + 1 == side:
            return largest
    without = "" if told else " (the file does not say their size, and 224 is that of the published models)"
    meant = f"image_size={side * patch} if patches are side by side" if side**2 == patches else "image_size=…"
    raise CheckpointError(
        f"{name} has {patches} positions of patches, which pictures of {size} x {size} pixels{without} in patches of "
        f"{patch} do not have at a plausible stride; say which size with {meant}, or save the model as a folder with "
        "config.json"
    )
