"""Where a text becomes vectors: the embedded tokens of a model, read or replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import InputError

#: Embeddings that are averaged at a time.
ROWS = 4096


def embedding_layer(model: nn.Module) -> nn.Embedding:
    """Return the layer that embeds tokens.

    Raises:
        InputError: if the model does not say which one it is.
    """
    try:
        layer = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        layer = None
    if not isinstance(layer, nn.Embedding):
        raise InputError(
            f"{type(model).__name__} does not say where its tokens are embedded; pass inputs_embeds, or a transformers "
            "model"
        )
    return layer


def embedded(model: nn.Module, inputs: dict[str, Any]) -> Float[Tensor, "b L E"]:
    """Return the embedded tokens of a call: those given, or those of the embedding layer.

    Raises:
        InputError: if the call has neither tokens nor embeddings.
    """
    if inputs.get("inputs_embeds") is not None:
        return inputs["inputs_embeds"].detach()
    if inputs.get("input_ids") is None:
        raise InputError("there is no text: pass input_ids or inputs_embeds")
    with torch.no_grad():
        return embedding_layer(model)(inputs["input_ids"])


def mean_embedding(model: nn.Module) -> Float[Tensor, " E"]:
    """Return the mean of what the embedding layer makes of every token, in float64.

    Raises:
        InputError: if the model does not say which layer embeds its tokens.
    """
    layer = embedding_layer(model)
    ids = torch.arange(layer.num_embeddings, device=layer.weight.device)
    with torch.no_grad():
        sums = [layer(part).double().sum(dim=0) for part in ids.split(ROWS)]
    return torch.stack(sums).sum(dim=0) / len(ids)


@contextmanager
def reading(
    model: nn.Module, inputs: dict[str, Any], replace: Callable[[Float[Tensor, "b L E"]], Float[Tensor, "b L E"]]
) -> Iterator[dict[str, Any]]:
    """Let the model read `replace(embedded tokens)` in this thread's calls inside the block, with the inputs it yields.

    Token ids stay in the call: models that look at them for more than their vectors find them.
    """
    if inputs.get("inputs_embeds") is not None:
        yield inputs | {"inputs_embeds": replace(inputs["inputs_embeds"])}
        return
    mine = threading.get_ident()

    def answer(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return replace(output) if threading.get_ident() == mine else output

    handle = embedding_layer(model).register_forward_hook(answer)
    try:
        yield inputs
    finally:
        handle.remove()
