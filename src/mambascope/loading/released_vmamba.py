"""Read a checkpoint of the public VMamba repository (MzeroMiko/VMamba): one file; its tensors' shapes give all sizes.

Supported are models of forward type `v05_noz` and, with a gate, `v05`, with patches `v2` and downsampling `v3`, as
published under `vmambav2v` (`vssm1_tiny_0230s`, `vssm1_small_0229s`, `vssm1_base_0229s`). What shapes do not give, the
activations (SiLU, GELU) and ε of the norms, is as in those models.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mambascope.errors import CheckpointError
from mambascope.loading.checkpoint import build_model
from mambascope.loading.released_files import released_tensors
from mambascope.models.vmamba.model import VMamba, VMambaConfig

#: Names of tensors that every VMamba has, and no other model.
MARKS = ("patch_embed.0.weight", "layers.0.blocks.0.op.A_logs", "classifier.head.weight")


def load_released(path: str | Path, *, dtype: torch.dtype | None = None) -> VMamba:
    """Return the model in a released file, in eval mode and without gradients.

    Args:
        path: A file with the tensors, alone or with the rest of a training run's state.
        dtype: Precision of the model; by default float32.

    Raises:
        CheckpointError: if the file is not a VMamba checkpoint of this layout, is damaged, or its tensors do not fit
            together.
    """
    tensors = released_tensors(Path(path))
    if not recognises(tensors):
        raise CheckpointError(f"{path} is not a VMamba checkpoint: it lacks one of {', '.join(MARKS)}")
    model = build_model(
        VMamba, _configuration(tensors, name=str(path)), tensors, name=str(path), dtype=dtype or torch.float32
    )
    model.name_or_path = model.config.name_or_path = Path(path).stem
    return model


def recognises(names: Container[str]) -> bool:
    """Return whether these are the tensor names of a VMamba."""
    return all(mark in names for mark in MARKS)


def _configuration(tensors: Mapping[str, Tensor], *, name: str) -> VMambaConfig:
    found = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.op\.A_logs")
    places = [tuple(map(int, match.groups())) for match in map(found.fullmatch, tensors) if match]
    depths = [1 + max(block for at, block in places if at == stage) for stage in range(1 + max(places)[0])]
    first = "layers.0.blocks.0"
    try:
        widths = [len(tensors[f"layers.{stage}.blocks.0.norm.weight"]) for stage in range(len(depths))]
        orders, D, _ = tensors[f"{first}.op.dt_projs_weight"].shape
        return VMambaConfig(
            num_channels=tensors["patch_embed.0.weight"].shape[1],
            depths=depths,
            hidden_sizes=widths,
            expand=D / widths[0],
            state_size=tensors[f"{first}.op.A_logs"].shape[1],
            conv_kernel=tensors[f"{first}.op.conv2d.weight"].shape[-1],
            gated=len(tensors[f"{first}.op.in_proj.weight"]) == 2 * D,
            conv_bias=f"{first}.op.conv2d.bias" in tensors,
            mlp_ratio=len(tensors[f"{first}.mlp.fc1.weight"]) / widths[0],
            num_labels=len(tensors["classifier.head.weight"]),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{name} lacks a tensor of a VMamba, or it has another shape there: {error}") from error
