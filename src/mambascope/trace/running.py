"""What every pass through a model has in common: whose turn it is, evaluation mode, and what is read of it."""

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
    """Hold the model for this thread, in evaluation mode; passes of one model take turns.

    Hooks cannot come and go while another thread runs through them, and in training a fused call bypasses the patch
    points. What transformers says about missing kernels is kept off, as our scans run in their place.
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


def in_texts(readout: Callable[[Any], Any], inputs: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return a readout that counts its positions in each text where texts are padded, if it has positions to count."""
    if not callable(readout):
        raise InputError(
            f"a readout is a function of a model's outputs, such as readouts.token(…), found {shown(readout)}"
        )
    mask, bind = inputs.get("attention_mask"), getattr(readout, "in_texts", None)
    return readout if mask is None or bind is None else bind(mask)
