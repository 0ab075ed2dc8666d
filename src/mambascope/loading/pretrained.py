"""Stock Transformers as their public checkpoints hold them, which is rarely as their class names its tensors today.

transformers knows most of it and renames while it reads: keys without the prefix of the body (GPT-2), other names for
the parts (ViT, the gamma and beta of old BERTs), mask buffers, tied heads that are absent. Two things it would only
warn of. A tensor that finds no place may belong to another head, and is left out; or to the body, and then the
configuration describes another model. And a head that the file lacks is drawn at random, which is refused.
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
    """Return the class for a checkpoint that names none: the language model if tokens see only the past, else the body.

    A model whose tokens see both ways has many possible heads, and its configuration does not tell which.
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
    """Return the Transformer that these tensors are of, in eval mode and without gradients.

    A body that can do without its pooler is built without it if the file has none.

    Args:
        model_class: its transformers class.
        config: its configuration.
        tensors: every tensor of the checkpoint, by the name that it has there.
        name: what the user called the checkpoint, for messages.
        dtype: the precision to convert the tensors to.

    Raises:
        CheckpointError: if the model's tensors, or its head's, are not all there, or do not fit, or the file holds
            parts of a body that the configuration does not describe.
        UnsupportedModelError: if no layer of the model is one that mambascope can read.
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
    """Refuse what cannot be seen once transformers has renamed the tensors: integer weights, and two for one place."""
    prefix = f"{model_class.base_model_prefix}."
    for key, value in tensors.items():
        if key.startswith(prefix) and key.removeprefix(prefix) in tensors:
            raise CheckpointError(f"{name} holds both {key} and {key.removeprefix(prefix)}, which name the same tensor")
        if key.endswith(".weight") and not value.is_floating_point():  # old masks, which are integers, end in .bias
            kind = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(f"{name}: {key} holds {kind} values, not floating-point weights")


def _is_of_another_head(model: PreTrainedModel, key: str) -> bool:
    """Return whether a tensor without a place is none of the body's: of another head, or a constant of old versions.

    Of the body are all parts that it has; a part that it lacks altogether, such as a pooler, only served another head.
    """
    if key.endswith("attn.masked_bias"):  # what GPT-2 once wrote into masked scores
        return True
    part = key.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]
    return getattr(model.base_model, part, None) is None
