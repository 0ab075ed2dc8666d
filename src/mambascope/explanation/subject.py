"""The subject of an explanation: a model and one text, picture or set of inputs, read once and captured once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.attribution import Attribution
from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import find_mixers
from mambascope.grid import Grid
from mambascope.inputs.checks import check_processor, check_tokenizer
from mambascope.inputs.patches import patch_grid, stage_grid
from mambascope.inputs.pictures import Picture, read_picture
from mambascope.inputs.preparation import own_size, reads_pictures
from mambascope.inputs.tokens import decode_token, encode
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import shown
from mambascope.progress import Steps
from mambascope.trace import Trace, capture
from mambascope.trace.embedding import token_table
from mambascope.trace.footprint import Keep
from mambascope.trace.generate import greedy_continuation
from mambascope.trace.private_copy import plain_model


@dataclass(frozen=True)
class Following:
    """What follows the text that was given.

    Attributes:
        start: The position of its first token.
        ids: Its tokens.
        text: Its text; empty if the model generated it.
    """

    start: int
    ids: tuple[int, ...]
    text: str = ""


@dataclass(eq=False)
class Subject:
    """A model and what it reads.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer, if it has one.
        inputs: What it is called with.
        tokens: The text of each position; if None, positions go by number, and patches by row and column.
        picture: The picture, if one was given.
        following: The continuation that was asked about, or what the model generated.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    inputs: Mapping[str, Any]
    tokens: tuple[str, ...] | None = None
    picture: Picture | None = None
    following: Following | None = None
    _trace: Trace | None = None

    __repr__ = brief

    def trace(self, progress: Steps | None = None, keep: Keep = "all") -> Trace:
        """Return the trace of the run, which is captured once; `keep` says what is then kept, as in `capture`."""
        if self._trace is None:
            self._trace = capture(self.model, progress=progress, keep=keep, **self.inputs)
        return self._trace

    @property
    def steps_to_capture(self) -> int:
        """How many steps `trace` will report: one for each mixer, none once the run has been captured."""
        return len(find_mixers(self.model)) if self._trace is None else 0

    def grid(self, stage: int | None) -> Grid | None:
        """Return how the explained tokens lie in the picture; None for a text, or if the model does not say.

        Args:
            stage: Number of the stage, for models with stages.
        """
        if isinstance(self.model, StagedModel) and stage is not None:
            return stage_grid(self.model, stage, self.inputs)
        return patch_grid(self.model, self.inputs)


def read_subject(
    model: Any,
    processor: Any,
    source: Any,
    *,
    continuation: str | None = None,
    generate: int | None = None,
    keep_size: bool = False,
) -> Subject:
    """Return a model with what it reads, in the form that it is called with.

    Args:
        model: A stock model of a supported family; it may be wrapped or adapted.
        processor: Its tokenizer or image processor; None for a vision model that needs none, or for raw inputs.
        source: A text, a picture (see `read_picture`), or the model's own inputs by name.
        continuation: A text to read after the given one.
        generate: How many tokens the model adds to the text.
        keep_size: Leave a picture at its own size.

    Raises:
        InputError: if the model or its processor is something else, the model reads another kind of source, or a
            continuation is asked for where there is no text.
        UnsupportedModelError: if the model has no mixer that mambascope can read.
    """
    model = plain_model(model)
    more = [name for name, value in (("continuation", continuation), ("generate", generate)) if value is not None]
    if len(more) > 1:
        raise InputError("continuation and generate both say what follows the text; choose one")
    if isinstance(source, Mapping):
        check_tokenizer(processor)
        return _of_inputs(model, processor, source, more, generate)
    if reads_pictures(model):
        check_processor(model, processor)
        if more:
            raise InputError(f"{more[0]} continues a text, but {type(model).__name__} reads pictures")
        find_mixers(model)
        picture = source if isinstance(source, Picture) else read_picture(source, model, processor, keep_size=keep_size)
        return Subject(model, None, _picture_inputs(model, picture), picture=picture)
    check_tokenizer(processor)
    find_mixers(model)
    other = isinstance(source, (Path, bytes, bytearray, np.ndarray, Tensor, Picture))
    if other or hasattr(source, "getbands") or hasattr(source, "read"):  # a Pillow image, an open file
        raise InputError(f"{type(model).__name__} reads text, not pictures; choose a vision model")
    vocabulary = token_table(model).num_embeddings
    ids, tokens = encode(processor, source, vocab_size=vocabulary)
    following = None
    if continuation is not None:
        after, _ = encode(processor, continuation, vocab_size=vocabulary, special=False)
        following = Following(len(tokens), tuple(after[0].tolist()), continuation)
    elif generate is not None:
        following = Following(len(tokens), tuple(greedy_continuation(model, ids.to(model.device), generate)))
    if following is not None:
        ids = torch.cat([ids, torch.tensor([following.ids])], dim=1)
        tokens += _pieces(processor, following, vocabulary)
    return Subject(model, processor, {"input_ids": ids.to(model.device)}, tokens, following=following)


def _of_inputs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    source: Mapping[str, Any],
    more: list[str],
    generate: int | None,
) -> Subject:
    """Return a model with its own inputs, for one text or picture; a tokenizer, if given, names the tokens."""
    inputs = dict(source)
    wrong = [name for name in inputs if not isinstance(name, str)]
    if wrong:
        raise InputError(f"the model's own inputs go by name, such as {{'input_ids': ids}}, found {shown(wrong[0])}")
    ids = inputs.get("input_ids")
    if "continuation" in more:
        raise InputError("a continuation can only follow a text, not inputs; append its tokens to input_ids")
    if generate is not None:
        if not isinstance(ids, Tensor) or ids.ndim != 2 or set(inputs) - {"input_ids"}:
            raise InputError("generate continues input_ids of shape (1, tokens), and takes no other inputs")
        following = Following(ids.shape[1], tuple(greedy_continuation(model, ids, generate)))
        inputs["input_ids"] = torch.cat([ids, torch.tensor([following.ids], device=ids.device)], dim=1)
        return Subject(model, tokenizer, inputs, _names(tokenizer, inputs["input_ids"]), following=following)
    return Subject(model, tokenizer, inputs, None if ids is None else _names(tokenizer, ids))


def _names(tokenizer: PreTrainedTokenizerBase | None, ids: Any) -> tuple[str, ...] | None:
    if tokenizer is None or not isinstance(ids, Tensor) or ids.ndim != 2 or len(ids) != 1:
        return None
    return tuple(decode_token(tokenizer, token) for token in ids[0].tolist())


def _pieces(tokenizer: Any, following: Following, vocabulary: int) -> tuple[str, ...]:
    """Return the text of each token that follows."""
    if following.text:
        return encode(tokenizer, following.text, vocab_size=vocabulary, special=False)[1]
    return tuple(decode_token(tokenizer, token) for token in following.ids)


def _picture_inputs(model: PreTrainedModel, picture: Picture) -> dict[str, Any]:
    """Return what the model is called with, asking a Transformer to interpolate its positions where it must."""
    inputs: dict[str, Any] = {"pixel_values": picture.pixel_values.to(model.device, model.dtype)}
    other = tuple(picture.pixel_values.shape[-2:]) != own_size(model)
    if other and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        inputs["interpolate_pos_encoding"] = True
    return inputs


def with_picture(result: Attribution, subject: Subject) -> Attribution:
    """Return the result with its picture, if any, and with what was done to the picture among the evidence.

    Raises:
        UnsupportedModelError: if the model's tokens cannot be laid over the picture.
    """
    picture = subject.picture
    if picture is None:
        return result
    if result.grid is None:
        raise UnsupportedModelError(
            f"the {len(result.tokens)} tokens of {result.model.class_name} are not whole patches of its picture with "
            "at most one class token, so scores cannot be laid over it; in Python, pass explain the model's own inputs "
            "to get scores by position"
        )
    height, width = subject.inputs["pixel_values"].shape[-2:]
    notes = [*picture.notes, *_unread(result.grid, height, width)]
    facts = {"picture": picture.name, **({"preparation": "; ".join(notes)} if notes else {})}
    return dataclasses.replace(
        result,
        image=_covered(picture.image, result.grid, height, width),
        diagnostics={**result.diagnostics, **facts},
    )


def _unread(grid: Grid, height: int, width: int) -> list[str]:
    """Return a note on pixels at the right and bottom that fill no patch, if there are any."""
    below, right = height - grid.size[0], width - grid.size[1]
    if not below and not right:
        return []
    return [f"{right} columns of pixels at the right and {below} rows at the bottom are not read: they fill no patch"]


def _covered(image: UInt8[Tensor, "h w 3"], grid: Grid, height: int, width: int) -> UInt8[Tensor, "H W 3"]:
    """Return the part of the picture that the patches cover."""
    rows = round(image.shape[0] * grid.size[0] / height)
    columns = round(image.shape[1] * grid.size[1] / width)
    return image[: max(rows, 1), : max(columns, 1)].contiguous()
