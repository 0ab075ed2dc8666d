"""Read a checkpoint of the public MambaVision repository (NVlabs/MambaVision): one file.

The shapes of its tensors give all sizes except the heads and the windows, which are by default those of the published
model of that width. The largest models scale every layer's output by a learned factor per channel (`gamma_1`,
`gamma_2`); it is folded into the last projection of the layer, which gives the same function.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mambascope.errors import CheckpointError
from mambascope.loading.checkpoint import build_model
from mambascope.loading.released_files import released_tensors
from mambascope.models.mambavision.model import MambaVision, MambaVisionConfig

#: Names of tensors that every MambaVision has, and no other model.
MARKS = ("patch_embed.conv_down.0.weight", "levels.2.blocks.0.mixer.conv1d_z.weight", "head.weight")

#: First-stage width from which the published models have twice as many heads.
WIDE = 196

#: Number of heads by stage in the narrower published models.
HEADS = (2, 4, 8, 16)

#: Sides of the windows by stage in the models published for pictures of 224 pixels.
WINDOWS = (8, 8, 14, 7)


def load_released(
    path: str | Path,
    *,
    num_heads: Sequence[int] | None = None,
    windows: Sequence[int] = WINDOWS,
    dtype: torch.dtype | None = None,
) -> MambaVision:
    """Return the model in a released file, in eval mode and without gradients.

    Args:
        path: A file with the tensors, alone or with the rest of a training run's state.
        num_heads: Number of heads by stage; by default those of the published model of that width.
        windows: Sides of the windows by stage; 8, 8, 16 and 8 in the models for pictures of 256 pixels.
        dtype: Precision of the model; by default float32.

    Raises:
        CheckpointError: if the file is not a MambaVision checkpoint, is damaged, or its tensors do not fit together.
    """
    tensors = released_tensors(Path(path))
    if not recognises(tensors):
        raise CheckpointError(f"{path} is not a MambaVision checkpoint: it lacks one of {', '.join(MARKS)}")
    tensors = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    config = _configuration(tensors, num_heads, windows, name=str(path))
    held = dtype or torch.float32
    model = build_model(MambaVision, config, _folded(tensors, held), name=str(path), dtype=held)
    model.name_or_path = model.config.name_or_path = Path(path).stem
    return model


def recognises(names: Container[str]) -> bool:
    """Return whether these are the tensor names of a MambaVision."""
    return all(mark in names for mark in MARKS)


def _configuration(
    tensors: Mapping[str, Tensor], num_heads: Sequence[int] | None, windows: Sequence[int], *, name: str
) -> MambaVisionConfig:
    found = re.compile(r"levels\.(\d+)\.blocks\.(\d+)\..*")
    places = {tuple(map(int, match.groups())) for match in map(found.fullmatch, tensors) if match}
    depths = [1 + max(block for at, block in places if at == stage) for stage in range(1 + max(places)[0])]
    mixer = "levels.2.blocks.0.mixer"
    try:
        stem, channels, _, _ = tensors["patch_embed.conv_down.0.weight"].shape
        width = len(tensors["patch_embed.conv_down.3.weight"])
        return MambaVisionConfig(
            num_channels=channels,
            depths=depths,
            hidden_size=width,
            stem_size=stem,
            num_heads=num_heads or [heads * (2 if width >= WIDE else 1) for heads in HEADS],
            windows=windows,
            state_size=tensors[f"{mixer}.A_log"].shape[1],
            conv_kernel=tensors[f"{mixer}.conv1d_x.weight"].shape[-1],
            mlp_ratio=len(tensors["levels.2.blocks.0.mlp.fc1.weight"]) / (4 * width),
            num_labels=len(tensors["head.weight"]),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{name} lacks a tensor of a MambaVision, or it has another shape there: {error}"
        ) from error


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
