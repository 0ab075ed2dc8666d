"""What every pass through a model has in common: whose turn it is, evaluation mode, and inputs that can be used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import transformers
from torch import nn

from mambascope.errors import InputError
from mambascope.trace.notices import KERNELS, kept_off
from mambascope.trace.tokens import check_ids

_turns: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_turns_lock = threading.Lock()


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Hold the model for this thread, in evaluation mode; passes of one model take turns.

    Hooks cannot come and go while another thread runs through them, and in training a fused call bypasses the seams.
    What transformers says about missing kernels is kept off, as our scans run in their place.
    """
    with _turns_lock:
        turn = _turns.setdefault(model, threading.RLock())
    with turn, kept_off(KERNELS):
        training = [module for module in model.modules() if module.training]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


def call(model: nn.Module, inputs: dict[str, Any]) -> Any:
    """Return what the model gives for these inputs, without a cache."""
    if isinstance(model, transformers.PreTrainedModel) and getattr(model.config, "use_cache", None) is not None:
        inputs = {"use_cache": False} | inputs
    return model(**inputs)


def in_texts(readout: Callable[[Any], Any], inputs: dict[str, Any]) -> Callable[[Any], Any]:
    """Return a readout that counts its positions in each text where texts are padded, if it has positions to count."""
    mask, bind = inputs.get("attention_mask"), getattr(readout, "in_texts", None)
    return readout if mask is None or bind is None else bind(mask)


def check_inputs(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Refuse what the model would answer with a traceback or, worse, with nonsense."""
    if inputs.get("use_cache") or inputs.get("cache_params") is not None or inputs.get("past_key_values") is not None:
        raise InputError("a capture reads a whole text at once; pass no cache (use_cache=False, no cache_params)")
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if embeds is not None and (embeds.ndim != 3 or embeds.shape[1] == 0):
        raise InputError(f"inputs_embeds must have shape (batch, tokens > 0, width), found {tuple(embeds.shape)}")
    if ids is not None and (ids.ndim != 2 or ids.numel() == 0):
        raise InputError(f"input_ids must have shape (batch, tokens > 0), found {tuple(ids.shape)}")
    if ids is not None and isinstance(model, transformers.PreTrainedModel):
        check_ids(ids.flatten(), model.get_input_embeddings().num_embeddings)
    mask, text = inputs.get("attention_mask"), embeds if ids is None else ids
    if mask is not None and text is not None and mask.shape != text.shape[:2]:
        raise InputError(
            f"attention_mask of shape {tuple(mask.shape)} does not match the text's (batch, tokens) "
            f"{tuple(text.shape[:2])}"
        )
