"""What every pass through a model has in common: one thread at a time, evaluation mode, and no cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import transformers
from torch import nn

from mambascope.errors import InputError
from mambascope.notices import KERNELS, kept_off
from mambascope.numbering import shown

_turns: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_turns_lock = threading.Lock()


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Reserve the model for this thread, in evaluation mode; passes of one model take turns.

    Hooks cannot be added or removed while another thread runs through them, and in training mode a fused call bypasses
    the patch points. What transformers logs about missing kernels is suppressed, since our scans run instead.
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
    """Return the model's outputs for these inputs, without a cache."""
    if isinstance(model, transformers.PreTrainedModel) and getattr(model.config, "use_cache", None) is not None:
        inputs = {"use_cache": False} | inputs
    return model(**inputs)


def in_texts(readout: Callable[[Any], Any], inputs: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return the readout, with its positions counted within each text if it has positions and the texts are padded."""
    if not callable(readout):
        raise InputError(
            f"a readout must be a function of a model's outputs, such as readouts.token(…), found {shown(readout)}"
        )
    mask, bind = inputs.get("attention_mask"), getattr(readout, "in_texts", None)
    return readout if mask is None or bind is None else bind(mask)
