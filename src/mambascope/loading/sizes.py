"""Whether a configuration asks for what its file holds: checked before anything of that size is built.

A configuration is a few numbers that anyone can write; the file's tensors are what there is. No count of layers may
exceed the numbering of the tensors, no size their values, and no model much more than all of them together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.memory import available_bytes, in_words
from mambascope.numbering import shown

#: Integers that are no size of any tensor: ids, seeds, names of classes, and how long a text may become.
NO_SIZE = re.compile(r".*(_ids?|theta|seed|length|position_embeddings)|id2label|label2id|max_.*|n_ctx")

#: How many values a model may have beyond twice those of its file: a missing head has a message of its own.
SPARE = 2**20

#: How many bytes of constants, such as masks, a model may have beyond four times its file.
SPARE_CONSTANTS = 2**28


def check_configuration(config: PreTrainedConfig, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Raise CheckpointError if a configuration, with its defaults, asks for more than the tensors can hold.

    Args:
        config: The configuration; nothing has been built from it.
        tensors: Every tensor of the file.
        name: What the user called the checkpoint, for messages.
    """
    values, numbered = sum(value.numel() for value in tensors.values()), most_numbered(tensors)
    asked = getattr(config, "num_hidden_layers", None)
    for layers in (asked, *(getattr(config, "depths", None) or ())):
        if isinstance(layers, int) and layers > numbered:
            raise CheckpointError(
                f"{name}: its configuration asks for {layers} layers, but the tensors of its file are numbered for "
                f"{numbered}"
            )
    for key, number in _integers(config.to_dict()):
        if number > values and not NO_SIZE.fullmatch(key):
            raise CheckpointError(
                f"{name}: its configuration has {shown(key)[1:-1]} {number}, but all tensors of its file together hold "
                f"{values:,} values; config.json and the weights are of different models, or a setting is missing"
            )


def check_model(model: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype, *, name: str) -> None:
    """Raise CheckpointError if a model, built on the meta device, is far larger than its file or than free memory."""
    values = sum(value.numel() for value in tensors.values())
    asked = sum(parameter.numel() for parameter in model.parameters())
    constants = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    stored = sum(value.numel() * value.element_size() for value in tensors.values())
    if asked > 2 * values + SPARE or constants > 4 * stored + SPARE_CONSTANTS:
        raise CheckpointError(
            f"{name}: a {type(model).__name__} of its configuration has {asked:,} values, but its file holds "
            f"{values:,}; config.json and the weights are of different models"
        )
    needed, free = asked * dtype.itemsize + constants, available_bytes(torch.device("cpu"))
    if needed > free:
        raise CheckpointError(
            f"{name} needs {in_words(needed)} of memory in {str(dtype).removeprefix('torch.')}, but only "
            f"{in_words(free)} are free; load it with a smaller dtype or on another machine"
        )


def check_types(tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Refuse tensors of 8 bits or fewer, which are quantised, and those without values."""
    for key, value in tensors.items():
        if value.is_floating_point() and value.dtype.itemsize < 2:
            raise UnsupportedModelError(
                f"{name} holds quantised weights ({shown(key)} is {str(value.dtype).removeprefix('torch.')}, whose "
                "scales are not applied); pass the checkpoint it was made from"
            )
        if not value.numel():
            raise CheckpointError(f"{name}: {shown(key)} has shape {shown(tuple(value.shape))}, without any values")


def most_numbered(names: Mapping[str, Any]) -> int:
    """Return how many numbered parts, such as layers, the names have at most in one place."""
    numbers: dict[str, set[str]] = defaultdict(set)
    for name in names:
        for match in re.finditer(r"(?<=\.)[0-9]{1,9}(?=\.)|^[0-9]{1,9}(?=\.)", name):
            numbers[name[: match.start()]].add(match.group())
    return max(map(len, numbers.values()), default=0)


def _integers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield every integer of a configuration with the name that it has there."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not NO_SIZE.fullmatch(str(name)):
                yield from _integers(inner, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _integers(inner, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value
