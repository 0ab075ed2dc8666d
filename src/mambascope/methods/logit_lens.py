"""The logit lens: what the model would predict if its residual stream went to the final norm and head as it stands.

From nostalgebraist (2020), "interpreting GPT: the logit lens". The model's own final norm and head read the stream at
one position before each layer, and after the last one. So the first prediction is that of the embedded token alone, and
the last is the model's own, by which the lens is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.memory import require_room
from mambascope.methods.ablation import require_one_text
from mambascope.methods.checked import checked
from mambascope.methods.targets import positions
from mambascope.trace import Trace
from mambascope.trace.directions import final_norm
from mambascope.trace.intervene import intervening
from mambascope.trace.running import call, running
from mambascope.trace.scanning import relative_error
from mambascope.trust import TOLERANCE


@dataclass(frozen=True, eq=False)
class LogitLens:
    """What the residual stream predicts, layer by layer.

    Attributes:
        logits: For each position, the logits read from the stream before each layer, and after the last one.
        layers: The number of the layer that each stream enters; None for the last, which leaves them all.
        error: How far the last are from the model's own logits, relative to these.
    """

    logits: Float[Tensor, "T stream v"]
    layers: tuple[int | None, ...]
    error: float

    __repr__ = brief


@checked
def logit_lens(trace: Trace, places: int | Sequence[int] = -1) -> LogitLens:
    """Return what the model would predict from its residual stream after each layer, at some positions of one text.

    It takes one pass, and one of single tokens.

    Args:
        trace: A capture of one text by a model that returns logits at every position.
        places: The positions; negative numbers count back from the text's own last token.

    Raises:
        InputError: if the trace is not of one text, or the model has no logits at every position.
        MapTooLargeError: if the logits would not fit in memory.
        UnsupportedModelError: if the model has no final norm or no readable stream, or what its head makes of the
            stream at one position depends on others.
    """
    inputs = dict(trace.inputs)
    require_one_text(inputs)
    if trace.logits is None or trace.logits.ndim != 3:
        raise InputError(
            f"the logit lens needs logits at every position, which {type(trace.model).__name__} does not return"
        )
    rows = positions(trace, places)[0].tolist()
    entering = [block.stream("the logit lens")[0, rows] for block in trace.updates]
    with running(trace.model) as own, intervening(own, None):
        norm = final_norm(own)
        last = _read_by(norm, own, inputs)[0, rows]
        require_room(
            (len(rows), len(entering) + 1, trace.logits.shape[-1]), trace.logits, "read fewer positions", copies=3
        )
        streams = torch.stack([*(stream.to(last) for stream in entering), last], dim=1)
        logits = _from_streams(norm, own, inputs, streams.flatten(0, 1)).unflatten(0, streams.shape[:2])
    expected = trace.logits[0, rows]
    error = relative_error(logits[:, -1], expected)
    if not error <= TOLERANCE.get(expected.dtype, TOLERANCE[torch.float32]):
        raise UnsupportedModelError(
            f"the logit lens cannot read {type(trace.model).__name__}: from the stream of one position its head gives "
            f"logits that differ from the model's own by {error:.1e}"
        )
    return LogitLens(logits, (*(trace.number_of(block) for block in trace.updates), None), error)


def _read_by(norm: nn.Module, own: nn.Module, inputs: dict[str, Any]) -> Float[Tensor, "b L E"]:
    """Return what the final norm reads of a text."""
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        call(own, inputs)
    finally:
        handle.remove()
    return seen[-1]


def _from_streams(
    norm: nn.Module, own: nn.Module, inputs: dict[str, Any], streams: Float[Tensor, "n E"]
) -> Float[Tensor, "n v"]:
    """Return the logits of one-token texts for which the final norm reads these streams."""
    name = "input_ids" if inputs.get("input_ids") is not None else "inputs_embeds"
    token = inputs[name][:, :1]

    def replaced(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (streams[:, None], *args[1:])

    handle = norm.register_forward_pre_hook(replaced)
    try:
        outputs = call(own, {name: token.expand(len(streams), *token.shape[1:])})
    finally:
        handle.remove()
    logits: Tensor = outputs.logits[:, 0]
    return logits
