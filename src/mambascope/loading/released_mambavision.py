"""Read a checkpoint of the public MambaVision repository (NVlabs/MambaVision): one file.

The shapes of its tensors give all sizes except the heads and the windows, which are assumed to be those of the
published model of that width and for pictures of 224 pixels; both are told. The largest models scale every layer's
output by a learned factor per channel (`gamma_1`, `gamma_2`); it is folded into the last projection of the layer, which
gives the same function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mambascope.errors import CheckpointError
from mambascope.loading.checkpoint import build_model
from mambascope.loading.released import PUBLISHED_IMAGE_SIZE, Layout, Released, require_released
from mambascope.models.mambavision.model import MambaVision, MambaVisionConfig

#: The first mixer, which has a tensor that no other model has.
FIRST = "levels.2.blocks.0"

LAYOUT = Layout(
    "MambaVision",
    f"{FIRST}.mixer.conv1d_z.weight",
    ("patch_embed.conv_down.0.weight", f"{FIRST}.mixer.conv1d_z.weight", "head.weight"),
)

#: First-stage width from which the published models have twice as many heads.
WIDE = 196

#: Number of heads by stage in the narrower published models.
HEADS = (2, 4, 8, 16)

#: Side of the pictures that most published models read, and the reduction of its resolution by which a window of a
#: later stage covers a picture of this size.
REDUCTIONS = (16, 32)

#: Sides of the windows of the first two stages, which do not use them.
UNUSED = (8, 8)


def load_released(
    path: str | Path,
    *,
    num_heads: Sequence[int] | None = None,
    windows: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> MambaVision:
    """Return the model in a released file, in eval mode and without gradients.

    Args:
        path: A file with the tensors, alone or with the rest of a training run's state.
        num_heads: Number of heads by stage; by default those of the published model of that width.
        windows: Sides of the windows by stage; by default 8, 8, 14 and 7, as in the models for pictures of 224 pixels.
        dtype: Precision of the model; by default float32.

    Raises:
        CheckpointError: if the file is not a MambaVision checkpoint, is damaged, or its tensors do not fit together.
    """
    return build(require_released(path, LAYOUT), num_heads=num_heads, windows=windows, dtype=dtype)[0]


def build(
    found: Released,
    *,
    image_size: int | None = None,
    num_heads: Sequence[int] | None = None,
    windows: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[MambaVision, tuple[str, ...]]:
    """Return the model of a file's tensors, and what was assumed, a clause each; raises as `load_released` does.

    `image_size` is the side of the pictures that it was made for, which determines the windows if they are not given.
    """
    kept = {name: value for name, value in found.tensors.items() if not name.endswith("num_batches_tracked")}
    width, held, notes = found.shape("patch_embed.conv_down.3.weight", 4)[0], dtype or torch.float32, []
    heads = num_heads or [count * (2 if width >= WIDE else 1) for count in HEADS]
    if num_heads is None:
        notes.append(f"{', '.join(map(str, heads))} heads by stage, as in the published models of that width")
    if windows is None:
        side = image_size or PUBLISHED_IMAGE_SIZE
        windows = (*UNUSED, *(side // reduction for reduction in REDUCTIONS))
        if side % REDUCTIONS[-1]:
            raise CheckpointError(
                f"{found.name}: image_size={side} is not a multiple of {REDUCTIONS[-1]}, so no windows fit it"
            )
        if image_size is None:
            notes.append(f"windows for pictures of {PUBLISHED_IMAGE_SIZE} pixels (image_size=… says otherwise)")
    config = _configuration(found, heads, windows)
    model = build_model(MambaVision, config, _folded(kept, held), name=found.name, dtype=held)
    model.name_or_path = model.config.name_or_path = Path(found.name).stem
    return model, (*found.notes, *notes)


def _configuration(found: Released, heads: Sequence[int], windows: Sequence[int]) -> MambaVisionConfig:
    pattern = re.compile(r"levels\.([0-9]{1,9})\.blocks\.([0-9]{1,9})\..*")
    places = {tuple(map(int, match.groups())) for match in map(pattern.fullmatch, found.tensors) if match}
    stages = found.count({stage for stage, _ in places}, "stage")
    if not len(heads) == len(windows) == stages:
        raise CheckpointError(f"{found.name} has {stages} stages, but there are {len(heads)} heads and windows for it")
    width = found.shape("patch_embed.conv_down.3.weight", 4)[0]
    stem, channels, _, _ = found.shape("patch_embed.conv_down.0.weight", 4)
    return MambaVisionConfig(
        num_channels=channels,
        depths=[found.count({block for at, block in places if at == stage}, "block") for stage in range(stages)],
        hidden_size=width,
        stem_size=stem,
        num_heads=heads,
        windows=windows,
        state_size=found.shape(f"{FIRST}.mixer.A_log", 2)[1],
        conv_kernel=found.shape(f"{FIRST}.mixer.conv1d_x.weight", 3)[-1],
        mlp_ratio=found.shape(f"{FIRST}.mlp.fc1.weight", 2)[0] / (4 * width),
        num_labels=found.shape("head.weight", 2)[0],
    )


def _folded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors with the factors of layers' outputs folded into the projections before them.

    Products are computed in the precision of the model or of the file, whichever is higher.
    """
    folded = dict(tensors)
    for name in tensors:
        block, _, factor = name.rpartition(".")
        if factor not in ("gamma_1", "gamma_2"):
            continue
        scale = folded.pop(name)
        scale = scale.to(torch.promote_types(scale.dtype, dtype))
        for part in ("mlp.fc2",) if factor == "gamma_2" else ("mixer.out_proj", "mixer.proj"):
            for kind in ("weight", "bias"):
                key = f"{block}.{part}.{kind}"
                if key in folded:
                    folded[key] = torch.einsum("f,f...->f...", scale, folded[key].to(scale.dtype))
    return folded
