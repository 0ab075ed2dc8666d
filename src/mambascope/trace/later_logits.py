"""Logits that are computed where they are read: of all positions at once they outweigh everything else that is kept.

A text of 100,000 tokens has 20 GB of logits over a vocabulary of 50,000, and a readout reads one row of them. So what
the head read is kept, and the head runs for the rows that are asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mambascope.memory import require_room
from mambascope.trace.running import call
from mambascope.trace.scanning import relative_error
from mambascope.trust import TOLERANCE

aten = torch.ops.aten

#: What a model may be called with where its head runs apart.
READ = {"input_ids", "inputs_embeds", "attention_mask"}

#: How far below the tolerance of a capture the head's own logits must agree with the model's: the same product.
MARGIN = 10


class LaterLogits(Tensor):
    """Logits (b, L, v), or (L, v) of one text, of which rows are computed when they are read.

    Reading rows, or single entries, gives plain tensors. Any other function of them computes them all, if these fit in
    memory.
    """

    head: nn.Module
    hidden: Tensor

    @staticmethod
    def __new__(cls, head: nn.Module, hidden: Tensor, like: Tensor) -> LaterLogits:
        """Return the logits that a head gives for hidden states; `like` has their number, precision and device."""
        shape = (*hidden.shape[:-1], like.shape[-1])
        made: LaterLogits = Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        made.head, made.hidden = head, hidden
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"LaterLogits({' × '.join(map(str, self.shape))})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        own = args[0] if args and isinstance(args[0], LaterLogits) else None
        if own is not None and function is aten.detach.default:
            return own
        if own is not None and function is aten.select.int and args[1] % own.ndim < own.ndim - 1:
            hidden = own.hidden.select(args[1] % own.ndim, args[2])
            one_text = own.ndim == 3 and args[1] % own.ndim == 0
            return LaterLogits(own.head, hidden, own) if one_text else own.of(hidden)
        if own is not None and function is aten.index.Tensor and _of_rows(args[1], own.ndim):
            *rows, entries = args[1] if len(args[1]) == own.ndim else (*args[1], None)
            logits = own.of(own.hidden[tuple(_alike(rows, entries))])
            return logits if entries is None else _picked(logits, entries)
        return function(*tree_map(_whole, args), **tree_map(_whole, kwargs or {}))

    def of(self, hidden: Tensor) -> Tensor:
        """Return the head's logits for some hidden states."""
        with torch.no_grad():
            logits: Tensor = self.head(hidden)
        return logits.to(self.dtype)


def _of_rows(places: Sequence[Tensor | None], ndim: int) -> bool:
    """Return whether an index picks rows, or entries of them, by whole numbers."""
    return len(places) >= ndim - 1 and all(one is not None and one.dtype != torch.bool for one in places)


def _alike(rows: Sequence[Tensor], entries: Tensor | None) -> list[Tensor]:
    """Return indices of rows, one for each entry that is picked."""
    shape = torch.broadcast_shapes(*(index.shape for index in (*rows, *([] if entries is None else [entries]))))
    return [index.expand(shape) for index in rows]


def _picked(logits: Tensor, entries: Tensor) -> Tensor:
    return logits.gather(-1, entries.expand(logits.shape[:-1])[..., None])[..., 0]


def _whole(value: Any) -> Any:
    """Return logits in memory."""
    if not isinstance(value, LaterLogits):
        return value
    require_room(tuple(value.shape), value.hidden, "read the logits of fewer positions")
    return value.of(value.hidden)


def head_apart(own: nn.Module, inputs: dict[str, Any]) -> nn.Module | None:
    """Return the head of a private copy, if the model's logits are what it gives for the last hidden states.

    That is tried on two tokens. None where something else follows, such as a soft cap, or the model cannot be called
    without computing all logits.
    """
    head = own.get_output_embeddings() if isinstance(own, transformers.PreTrainedModel) else None
    given = {name: value for name, value in inputs.items() if value is not None}
    takes = "logits_to_keep" in inspect.signature(own.forward).parameters
    if not isinstance(head, nn.Module) or own.base_model is own or not takes or not set(given) <= READ:
        return None
    with torch.no_grad(), hidden_states(own) as found:
        logits = call(own, {name: value[:, :2] for name, value in given.items()}).logits
        apart = len(found) == 1 and head(found[0]).shape == logits.shape
        error = relative_error(head(found[0]), logits) if apart else 1.0
    return head if error <= TOLERANCE.get(logits.dtype, TOLERANCE[torch.float32]) / MARGIN else None


@contextmanager
def hidden_states(own: Any) -> Iterator[list[Tensor]]:
    """Collect what a model's base returns first, its last hidden states, inside the block."""
    found: list[Tensor] = []
    handle = own.base_model.register_forward_hook(lambda _, __, output: found.append(output[0]))
    try:
        yield found
    finally:
        handle.remove()
