"""Attention that returns its probabilities: transformers' eager implementation, for one pass.

The fast implementations never compute the probabilities explicitly. The model's configurations say which one runs, and
both the attention layers and the code that makes their masks read that setting; so it is changed there and restored
afterwards. Models may share a configuration, so its first user saves the setting and its last user restores it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from transformers.configuration_utils import PreTrainedConfig


@dataclass
class _Held:
    config: PreTrainedConfig
    before: str | None
    users: int = 0


_lock = threading.Lock()
_held: dict[int, _Held] = {}  # by identity: configurations are not hashable


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Run the model's attention layers in their eager form inside the block, and restore the setting after it.

    Other threads that run this model meanwhile run it in eager form too, with the same results up to rounding.
    """
    found = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in found if isinstance(config, PreTrainedConfig)}
    with _lock:
        for key, config in configs.items():
            held = _held.setdefault(key, _Held(config, config._attn_implementation_internal))
            held.users += 1
            config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        with _lock:
            for key in configs:
                held = _held[key]
                held.users -= 1
                if not held.users:
                    held.config._attn_implementation_internal = _held.pop(key).before
