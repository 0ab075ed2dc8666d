"""Checks before a pass through a model: the model itself, its inputs, and its limits."""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from mambascope.errors import InputError
from mambascope.families import check_model
from mambascope.inputs.preparation import own_size, reads_pictures
from mambascope.inputs.tokens import check_ids
from mambascope.numbering import shown

#: Names of embeddings of absolute positions, one row per position (GPT-2, BERT), and of segments.
POSITIONS, SEGMENTS = ("wpe", "position_embeddings"), ("token_type_embeddings",)

#: The inputs that must be tensors.
TENSORS = ("input_ids", "inputs_embeds", "pixel_values", "attention_mask", "position_ids", "token_type_ids")

#: The arguments that take a cache: `cache` from transformers 5.24 on, the others before.
CACHES = ("cache", "cache_params", "past_key_values")


def check_tokenizer(tokenizer: Any) -> None:
    """Raise InputError, saying what to pass instead, unless this is a tokenizer or None."""
    if tokenizer is None or isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    if isinstance(tokenizer, nn.Module):
        raise InputError("the tokenizer is a model; pass the model first, then its tokenizer")
    raise InputError(
        f"the tokenizer must be one that mambascope.load or transformers returned, found {shown(tokenizer)}; write "
        "model, tokenizer = mambascope.load(…)"
    )


def check_processor(model: nn.Module, processor: Any) -> None:
    """Raise InputError, which says what to pass, unless this is an image processor or None."""
    if processor is None or isinstance(processor, ImageProcessingMixin):
        return
    if isinstance(processor, nn.Module):
        raise InputError("the image processor is a model; pass the model first, then its image processor or None")
    raise InputError(
        f"{type(model).__name__} reads pictures and takes an image processor of transformers or None, found a "
        f"{type(processor).__name__}"
    )


def check_inputs(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Raise InputError for inputs on which the model would crash or, worse, return nonsense."""
    check_model(model)
    if inputs.get("use_cache") or any(inputs.get(name) is not None for name in CACHES):
        raise InputError(
            f"a capture reads a whole text at once; pass no cache (use_cache=False, no {', '.join(CACHES)})"
        )
    if inputs.get("adapter_names") is not None:
        raise InputError(
            "adapter_names chooses an adapter of PEFT for each text; activate one for all of them (set_adapter), and "
            "pass the inputs without it"
        )
    for name in TENSORS:
        _check_tensor(name, inputs.get(name))
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if isinstance(model, transformers.PreTrainedModel):
        _check_something_to_read(model, inputs)
    if embeds is not None and (embeds.ndim != 3 or embeds.shape[1] == 0):
        raise InputError(f"inputs_embeds must have shape (batch, tokens > 0, width), found {tuple(embeds.shape)}")
    if ids is not None and (ids.ndim != 2 or ids.numel() == 0):
        raise InputError(f"input_ids must have shape (batch, tokens > 0), found {tuple(ids.shape)}")
    if isinstance(model, transformers.PreTrainedModel):
        _check_embedding(model, ids, embeds)
    text = embeds if ids is None else ids
    if text is not None:
        _check_beside(model, tuple(text.shape[:2]), inputs)


def longest_text(model: nn.Module) -> int | None:
    """Return how many tokens a model has positions for; None if positions have no table (for example, rotary)."""
    return _rows(model, POSITIONS)


def _check_tensor(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, Tensor):
        hint = 'ask the tokenizer for return_tensors="pt"'
        hint = "explain and read_picture read files" if name == "pixel_values" else hint
        raise InputError(f"{name} must be a tensor, found a {type(value).__name__}; {hint}")


def _check_something_to_read(model: Any, inputs: dict[str, Any]) -> None:
    """Refuse missing inputs, the same text given twice, and pixels that a stock model does not accept."""
    ids, embeds, pixels = (inputs.get(name) for name in ("input_ids", "inputs_embeds", "pixel_values"))
    if ids is not None and embeds is not None:
        raise InputError("input_ids and inputs_embeds are the same text twice; pass only one of them")
    if not reads_pictures(model):
        if ids is None and embeds is None:
            raise InputError("there is nothing to read: pass input_ids (batch, tokens) or inputs_embeds")
        return
    if pixels is None and embeds is None:
        raise InputError(f"{type(model).__name__} reads pictures: pass pixel_values (batch, channels, height, width)")
    if pixels is None or "interpolate_pos_encoding" not in inspect.signature(model.forward).parameters:
        return  # our own models check their pixels themselves
    size = (model.config.num_channels, *own_size(model))
    if pixels.ndim != 4 or pixels.shape[1] != size[0] or 0 in pixels.shape:
        raise InputError(f"pixel_values must have shape (batch, {size[0]}, height, width), found {tuple(pixels.shape)}")
    if tuple(pixels.shape[2:]) != size[1:] and not inputs.get("interpolate_pos_encoding"):
        raise InputError(
            f"{type(model).__name__} reads pictures of {size[1]} x {size[2]} pixels, found {pixels.shape[2]} x "
            f"{pixels.shape[3]}; resize them, or pass interpolate_pos_encoding=True"
        )


def _check_embedding(model: Any, ids: Tensor | None, embeds: Tensor | None) -> None:
    """Refuse ids outside the vocabulary, and embeddings whose width is not the model's."""
    if ids is None and embeds is None:
        return
    table = model.get_input_embeddings()
    if ids is not None:
        if not isinstance(table, nn.Embedding):
            raise InputError(f"{type(model).__name__} does not read token ids; found input_ids")
        check_ids(ids.flatten(), table.num_embeddings)
    width = getattr(table, "embedding_dim", None)
    if embeds is not None and width is not None and embeds.shape[2] != width:
        raise InputError(f"inputs_embeds are {embeds.shape[2]} wide, but this model's embeddings are {width} wide")


def _check_beside(model: nn.Module, shape: tuple[int, ...], inputs: dict[str, Any]) -> None:
    """Refuse a mask, positions or segments that do not fit the text, and a text with more tokens than positions."""
    mask, places, segments = (inputs.get(name) for name in ("attention_mask", "position_ids", "token_type_ids"))
    if mask is not None and mask.shape != shape:
        raise InputError(
            f"attention_mask of shape {tuple(mask.shape)} does not match the text's (batch, tokens) {shape}"
        )
    longest = longest_text(model)
    if places is None and longest is not None and shape[1] > longest:
        raise InputError(
            f"the text has {shape[1]} tokens, but {type(model).__name__} has positions for {longest}; shorten the text"
        )
    for name, value, rows in (("position_ids", places, longest), ("token_type_ids", segments, _rows(model, SEGMENTS))):
        if value is None:
            continue
        if value.ndim == 0 or value.shape[-1] != shape[1]:
            raise InputError(f"{name} of shape {tuple(value.shape)} does not match the text's (batch, tokens) {shape}")
        if rows is not None and not 0 <= int(value.min()) <= int(value.max()) < rows:
            raise InputError(f"{name} must be from 0 to {rows - 1}, found {int(value.min())} to {int(value.max())}")


def _rows(model: nn.Module, names: tuple[str, ...]) -> int | None:
    """Return the number of rows of a model's smallest embedding with one of these names; None if it has none."""
    tables = [part for name, part in model.named_modules() if name.rpartition(".")[2] in names]
    return min((part.num_embeddings for part in tables if isinstance(part, nn.Embedding)), default=None)
