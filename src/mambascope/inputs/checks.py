"""Checks before a pass through a model: the model itself, its inputs, and its limits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from mambascope.errors import InputError
from mambascope.families import check_model
from mambascope.inputs.media import check_media
from mambascope.inputs.names import check_names, read_by
from mambascope.inputs.preparation import own_size, reads_pictures
from mambascope.inputs.tokens import check_ids
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import shown

#: Names of embeddings of absolute positions, one row per position (GPT-2, BERT), and of segments.
POSITIONS, SEGMENTS = ("wpe", "position_embeddings"), ("token_type_embeddings",)

#: The inputs that must be tensors: of floats, of whole numbers, and the mask.
FLOATS, WHOLE = ("inputs_embeds", "pixel_values"), ("input_ids", "position_ids", "token_type_ids")
TENSORS = (*WHOLE, *FLOATS, "attention_mask")


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
    for name in TENSORS:
        _check_tensor(model, name, inputs.get(name))
    for name, value in inputs.items():
        if isinstance(value, Tensor) and (value.is_meta or value.layout != torch.strided):
            raise InputError(f"{name} must hold plain numbers, found a tensor that has none in memory, row by row")
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if isinstance(model, transformers.PreTrainedModel):
        _check_something_to_read(model, inputs)
    check_names(model, inputs)
    check_media(model, inputs)
    if embeds is not None and (embeds.ndim != 3 or 0 in embeds.shape):
        raise InputError(f"inputs_embeds must have shape (batch, tokens > 0, width), found {tuple(embeds.shape)}")
    if ids is not None and (ids.ndim != 2 or ids.numel() == 0):
        raise InputError(f"input_ids must have shape (batch, tokens > 0), found {tuple(ids.shape)}")
    if isinstance(model, transformers.PreTrainedModel):
        _check_embedding(model, ids, embeds)
    text = embeds if ids is None else ids
    _check_mask(model, None if text is None else tuple(text.shape[:2]), inputs.get("attention_mask"))
    if text is not None:
        _check_beside(model, tuple(text.shape[:2]), inputs)
    for name in FLOATS:
        if inputs.get(name) is not None and not inputs[name].isfinite().all():
            raise InputError(f"{name} hold NaN or infinite values")


def longest_text(model: nn.Module) -> int | None:
    """Return how many tokens a model has positions for; None if positions have no table (for example, rotary)."""
    tables = _tables(model, POSITIONS)
    return min((table.num_embeddings - _before(table) for table in tables), default=None)


def counts_padding(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Return whether a model looks positions up in a table, and counts them from the first place of a row.

    A table with a row for padding (RoBERTa's) is read by counting tokens alone.
    """
    tables = _tables(model, POSITIONS) if inputs.get("position_ids") is None else []
    return any(table.padding_idx is None for table in tables)


def _check_tensor(model: nn.Module, name: str, value: Any) -> None:
    """Refuse what is no tensor, or one of another type or on another device than the model needs."""
    if value is None:
        return
    if not isinstance(value, Tensor):
        hint = 'ask the tokenizer for return_tensors="pt"'
        hint = "explain and read_picture read files" if name == "pixel_values" else hint
        raise InputError(f"{name} must be a tensor, found a {type(value).__name__}; {hint}")
    weight = next(model.parameters(), None)
    if weight is not None and value.device != weight.device:
        raise InputError(f"{name} are on {value.device}, but the model is on {weight.device}; move them there")
    if name in FLOATS and not value.is_floating_point():
        raise InputError(f"{name} must be floating-point numbers, found {value.dtype}")
    if name in WHOLE and value.dtype not in (torch.int32, torch.int64):
        what = "token ids must be one row of integers" if name == "input_ids" else f"{name} must be integers"
        raise InputError(f"{what}, found {value.dtype}")
    own = getattr(model, "dtype", value.dtype)
    if name in FLOATS and value.dtype != own:
        raise InputError(f"{name} are {value.dtype}, but the model is {own}; convert them with .to(model.dtype)")


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
        _check_own_pixels(model, pixels)
        return
    size = (model.config.num_channels, *own_size(model))
    if pixels.ndim != 4 or pixels.shape[1] != size[0] or 0 in pixels.shape:
        raise InputError(f"pixel_values must have shape (batch, {size[0]}, height, width), found {tuple(pixels.shape)}")
    patch = model.config.patch_size
    if isinstance(patch, int) and min(pixels.shape[2:]) < patch:
        raise InputError(
            f"the picture has {pixels.shape[2]} x {pixels.shape[3]} pixels, fewer than one patch of side {patch}"
        )
    if tuple(pixels.shape[2:]) != size[1:] and not inputs.get("interpolate_pos_encoding"):
        raise InputError(
            f"{type(model).__name__} reads pictures of {size[1]} x {size[2]} pixels, found {pixels.shape[2]} x "
            f"{pixels.shape[3]}; resize them, or pass interpolate_pos_encoding=True"
        )


def _check_own_pixels(model: Any, pixels: Tensor | None) -> None:
    """Refuse no picture, and one so small that stages cannot be told apart; our models check the rest themselves."""
    if pixels is None:
        return
    if pixels.numel() == 0:
        raise InputError(f"pixel_values of shape {tuple(pixels.shape)} hold no picture")
    largest = max(model.cells()) if isinstance(model, StagedModel) else 0
    if pixels.ndim == 4 and min(pixels.shape[2:]) < largest:
        raise InputError(
            f"the picture has {pixels.shape[2]} x {pixels.shape[3]} pixels, fewer than one token of the last stage of "
            f"this {type(model).__name__}, whose side is {largest}"
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


def _check_mask(model: nn.Module, shape: tuple[int, ...] | None, mask: Tensor | None) -> None:
    """Refuse a mask that is no padding mask of the text, or leaves a text without a token."""
    if mask is None:
        return
    if reads_pictures(model):
        raise InputError("attention_mask marks the padding of texts, and pictures have none; leave it out")
    if mask.ndim != 2:
        raise InputError(
            f"attention_mask must have shape (batch, tokens), found {tuple(mask.shape)}; masks of pairs of tokens are "
            "not supported"
        )
    if shape is not None and mask.shape != shape:
        raise InputError(
            f"attention_mask of shape {tuple(mask.shape)} does not match the text's (batch, tokens) {shape}"
        )
    if mask.is_complex() or not ((mask == 0) | (mask == 1)).all():
        raise InputError("attention_mask must be 1 at tokens and 0 at padding; found other values")
    empty = (mask == 0).all(dim=1).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(f"text {empty[0]} is all padding: its attention_mask is 0 everywhere")


def _check_beside(model: nn.Module, shape: tuple[int, ...], inputs: dict[str, Any]) -> None:
    """Refuse positions or segments that do not fit the text or the model, and more tokens than positions."""
    mask, places, segments = (inputs.get(name) for name in ("attention_mask", "position_ids", "token_type_ids"))
    longest = longest_text(model)
    if places is None and longest is not None and shape[1] > longest:
        raise InputError(
            f"the text has {shape[1]} tokens, but {type(model).__name__} has positions for {longest}; shorten the text"
        )
    for name, value, tables in (
        ("position_ids", places, _tables(model, POSITIONS)),
        ("token_type_ids", segments, _tables(model, SEGMENTS)),
    ):
        if value is None:
            continue
        if value.ndim != 2 or value.shape[0] not in (1, shape[0]) or value.shape[1] != shape[1]:
            raise InputError(f"{name} of shape {tuple(value.shape)} does not match the text's (batch, tokens) {shape}")
        rows = min((table.num_embeddings for table in tables), default=None)
        if rows is not None and not 0 <= int(value.min()) <= int(value.max()) < rows:
            raise InputError(f"{name} must be from 0 to {rows - 1}, found {int(value.min())} to {int(value.max())}")
    known, takes_any = read_by(model)
    unread = segments is not None and not _tables(model, SEGMENTS) and not takes_any
    if segments is not None and unread and ("token_type_ids" in known or segments.any()):
        raise InputError(f"{type(model).__name__} has no embeddings of segments; leave out token_type_ids")
    if places is not None:
        _check_positions(model, places, mask, read="position_ids" in known)


def _check_positions(model: nn.Module, places: Tensor, mask: Tensor | None, *, read: bool) -> None:
    """Refuse positions that start anew within a row where the model would still read the row as one text."""
    rows = places if mask is None else places.expand(len(mask), -1)
    for text, row in enumerate(rows):
        steps = (row if mask is None else row[mask[text].bool()]).diff()
        if not read and (steps != 1).any():
            raise InputError(
                f"position_ids of text {text} do not count up one by one, but {type(model).__name__} ignores positions "
                "and reads the whole row as one text; pass each text in a row of its own"
            )
        if mask is not None and (steps < 1).any():
            raise InputError(
                f"position_ids of text {text} start anew within the row, which transformers reads as one text when "
                "attention_mask is given; leave out attention_mask, or pass each text in a row of its own"
            )


def _tables(model: nn.Module, names: tuple[str, ...]) -> list[nn.Embedding]:
    """Return a model's embeddings with one of these names."""
    named = [part for name, part in model.named_modules() if name.rpartition(".")[2] in names]
    return [part for part in named if isinstance(part, nn.Embedding)]


def _before(table: nn.Embedding) -> int:
    """Return how many rows of a table of positions come before the first token's: those up to padding's (RoBERTa)."""
    return 0 if table.padding_idx is None else table.padding_idx + 1
