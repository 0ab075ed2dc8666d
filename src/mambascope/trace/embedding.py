"""The embedded tokens of a model, read or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import InputError

#: Number of embeddings that are summed at a time.
ROWS = 4096


def embedding_layer(model: nn.Module) -> nn.Module:
    """Return the module that turns tokens, or the patches of a picture, into vectors.

    Raises:
        InputError: if the model does not say which one it is.
    """
    try:
        layer = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        layer = None
    if not isinstance(layer, nn.Module):
        raise InputError(
            f"{type(model).__name__} does not say where its tokens are embedded; pass inputs_embeds, or a transformers "
            "model"
        )
    return layer


def token_table(model: nn.Module) -> nn.Embedding:
    """Return the embedding layer of a model that reads token ids.

    Raises:
        InputError: if the model has none, or does not say which one it is.
    """
    layer = embedding_layer(model)
    if not isinstance(layer, nn.Embedding):
        raise InputError(f"{type(model).__name__} does not read token ids, so one token cannot replace another")
    return layer


def embedded(model: nn.Module, inputs: dict[str, Any]) -> Float[Tensor, "b L E"]:
    """Return the embedded tokens or patches of a call: those given, or those of the embedding layer.

    Raises:
        InputError: if the call has neither tokens, pixels nor embeddings.
    """
    if inputs.get("inputs_embeds") is not None:
        return inputs["inputs_embeds"].detach()
    read = inputs.get("input_ids") if inputs.get("pixel_values") is None else inputs["pixel_values"]
    if read is None:
        raise InputError("there is nothing to read: pass input_ids, inputs_embeds or pixel_values")
    layer = embedding_layer(model)
    put_together = getattr(model, "embed", layer)  # for models that embed in several steps
    with torch.no_grad():
        return put_together(read)


def mean_embedding(model: nn.Module) -> Float[Tensor, " E"]:
    """Return the mean of the embedding layer's output over all tokens, in float64.

    Raises:
        InputError: if the model does not read token ids, or does not say which layer embeds them.
    """
    layer = token_table(model)
    ids = torch.arange(layer.num_embeddings, device=layer.weight.device)
    with torch.no_grad():
        sums = [layer(part).double().sum(dim=0) for part in ids.split(ROWS)]
    return torch.stack(sums).sum(dim=0) / len(ids)


@contextmanager
def reading(
    own: nn.Module, inputs: dict[str, Any], replace: Callable[[Float[Tensor, "b L E"]], Float[Tensor, "b L E"]]
) -> Iterator[dict[str, Any]]:
    """Make a private copy read `replace(embedded tokens)` inside the block, called with the inputs yielded.

    Token ids stay in the call, for models that use them for more than their embeddings.
    """
    if inputs.get("inputs_embeds") is not None:
        yield inputs | {"inputs_embeds": replace(inputs["inputs_embeds"])}
        return

    def answer(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return replace(output)

    handle = embedding_layer(own).register_forward_hook(answer)
    try:
        yield inputs
    finally:
        handle.remove()
