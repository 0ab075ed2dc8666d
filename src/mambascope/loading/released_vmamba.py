"""Read a checkpoint of the public VMamba repository (MzeroMiko/VMamba): one file; its tensors' shapes give all sizes.

Supported are models of forward type `v05_noz` and, with a gate, `v05`, with patches `v2` and downsampling `v3`, as
published under `vmambav2v` (`vssm1_tiny_0230s`, `vssm1_small_0229s`, `vssm1_base_0229s`). What shapes do not give, the
activations (SiLU, GELU) and ε of the norms, is as in those models.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from mambascope.loading.checkpoint import build_model
from mambascope.loading.released import PUBLISHED_IMAGE_SIZE, Layout, Released, require_released
from mambascope.models.vmamba.model import VMamba, VMambaConfig

#: The first block's scan, which has a tensor that no other model has.
FIRST = "layers.0.blocks.0"

LAYOUT = Layout(
    "VMamba", f"{FIRST}.op.A_logs", ("patch_embed.0.weight", f"{FIRST}.op.A_logs", "classifier.head.weight")
)


def load_released(path: str | Path, *, dtype: torch.dtype | None = None) -> VMamba:
    """Return the model in a released file, in eval mode and without gradients.

    Args:
        path: A file with the tensors, alone or with the rest of a training run's state.
        dtype: Precision of the model; by default float32.

    Raises:
        CheckpointError: if the file is not a VMamba checkpoint of this layout, is damaged, or its tensors do not fit
            together.
    """
    return build(require_released(path, LAYOUT), dtype=dtype)[0]


def build(
    found: Released, *, image_size: int | None = None, dtype: torch.dtype | None = None
) -> tuple[VMamba, tuple[str, ...]]:
    """Return the model of a file's tensors, and what was chosen, a clause each; raises as `load_released` does.

    `image_size` is the side of the pictures that it was made for, to which others are resized; it reads any size.
    """
    config = _configuration(found, image_size or PUBLISHED_IMAGE_SIZE)
    model = build_model(VMamba, config, dict(found.tensors), name=found.name, dtype=dtype or torch.float32)
    model.name_or_path = model.config.name_or_path = Path(found.name).stem
    return model, found.notes


def _configuration(found: Released, image_size: int) -> VMambaConfig:
    pattern = re.compile(r"layers\.([0-9]{1,9})\.blocks\.([0-9]{1,9})\.op\.A_logs")
    places = [tuple(map(int, match.groups())) for match in map(pattern.fullmatch, found.tensors) if match]
    stages = found.count({stage for stage, _ in places}, "stage")
    depths = [found.count({block for at, block in places if at == stage}, "block") for stage in range(stages)]
    widths = [found.shape(f"layers.{stage}.blocks.0.norm.weight", 1)[0] for stage in range(stages)]
    D = found.shape(f"{FIRST}.op.dt_projs_weight", 3)[1]
    return VMambaConfig(
        image_size=image_size,
        num_channels=found.shape("patch_embed.0.weight", 4)[1],
        depths=depths,
        hidden_sizes=widths,
        expand=D / widths[0],
        state_size=found.shape(f"{FIRST}.op.A_logs", 2)[1],
        conv_kernel=found.shape(f"{FIRST}.op.conv2d.weight", 4)[-1],
        gated=found.shape(f"{FIRST}.op.in_proj.weight", 2)[0] == 2 * D,
        conv_bias=f"{FIRST}.op.conv2d.bias" in found.tensors,
        mlp_ratio=found.shape(f"{FIRST}.mlp.fc1.weight", 2)[0] / widths[0],
        num_labels=found.shape("classifier.head.weight", 2)[0],
    )
