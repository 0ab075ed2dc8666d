"""Stock Transformers from public checkpoints, whose tensors rarely have the names that their classes use today.

transformers handles most of this while it reads: keys without the prefix of the body (GPT-2), old names of parts (ViT,
the gamma and beta of old BERTs), mask buffers, missing tied heads. In two cases it would only warn. A tensor without a
place in the model may belong to another head, and is left out; or to the body, and then the configuration describes
another model. And a head that is missing from the file would be drawn at random, which is refused.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.families import find_mixers, kinds_of_type
from mambascope.loading.checkpoint import build_model


def is_transformer(config: PreTrainedConfig) -> bool:
    """Return whether the configuration is that of a supported Transformer, which mixes tokens by attention alone."""
    return kinds_of_type(config.model_type) == {"attention"}


def usual_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class for a checkpoint that names none: the causal language model if there is one, else the body.

    A bidirectional model has many possible heads, and its configuration does not say which.
    """
    sees_both_ways = transformers.MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None) is not None
    causal = None if sees_both_ways else transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return causal or transformers.MODEL_MAPPING.get(type(config), None)


def build_transformer(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    tensors: dict[str, Tensor],
    *,
    name: str,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """Return the Transformer with these tensors, in eval mode and without gradients.

    A body whose pooler is optional is built without it if the file has none.

    Args:
        model_class: its transformers class.
        config: its configuration.
        tensors: every tensor of the checkpoint, by its name in the checkpoint.
        name: what the user called the checkpoint, for messages.
        dtype: the precision to convert the tensors to.

    Raises:
        CheckpointError: if tensors of the body or the head are missing or do not fit, or the file holds parts of a body
            that the configuration does not describe.
        UnsupportedModelError: if the model has no layer that mambascope can read.
    """
    _check_names(model_class, tensors, name=name)
    options: dict[str, Any] = {}
    has_pooler = any("pooler" in key.split(".") for key in tensors)
    if not has_pooler and "add_pooling_layer" in inspect.signature(model_class).parameters:
        options["add_pooling_layer"] = False
    model = build_model(
        model_class, config, tensors, name=name, dtype=dtype, options=options, may_leave_out=_is_of_another_head
    )
    try:
        find_mixers(model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{name} cannot be explained: {error}") from error
    return model


def _check_names(model_class: type[PreTrainedModel], tensors: dict[str, Tensor], *, name: str) -> None:
    """Refuse integer weights and two tensors for one place, which are hidden once transformers has renamed tensors."""
    prefix = f"{model_class.base_model_prefix}."
    for key, value in tensors.items():
        if key.startswith(prefix) and key.removeprefix(prefix) in tensors:
            raise CheckpointError(f"{name} holds both {key} and {key.removeprefix(prefix)}, which name the same tensor")
        if key.endswith(".weight") and not value.is_floating_point():  # old masks, which are integers, end in .bias
            kind = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(f"{name}: {key} holds {kind} values, not floating-point weights")


def _is_of_another_head(model: PreTrainedModel, key: str) -> bool:
    """Return whether a tensor without a place is not part of the body: of another head, or a constant of old versions.

    A tensor belongs to the body if the body has its part; a part that the body lacks, such as a pooler, belongs to
    another head.
    """
    if key.endswith("attn.masked_bias"):  # the value that GPT-2 once gave to masked scores
        return True
    part = key.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]
    return getattr(model.base_model, part, None) is None
