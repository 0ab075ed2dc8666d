"""The residual stream by itself in a differentiable pass: what mixers and token-wise parts add to it is constant.

What reaches a block's stream in the backward pass is then the readout's direction there: through every norm, its
statistic frozen, and every factor by which the model multiplies the stream on its way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from mambascope.families import MixerFamily
from mambascope.trace.propagation_rules import is_norm


@contextmanager
def following(own: nn.Module, mixers: Sequence[tuple[str, nn.Module, MixerFamily]]) -> Iterator[list[Tensor]]:
    """Collect the stream that leaves each block inside the context, in order, with everything else held constant.

    Args:
        own: A private copy of a model whose blocks hold norms, mixers and token-wise parts side by side.
        mixers: Its mixers, as `find_mixers` returns them.
    """
    streams: list[Tensor] = []
    places = dict.fromkeys(name.rpartition(".")[0] for name, _, _ in mixers)
    inside = {mixer for _, mixer, _ in mixers}
    with ExitStack() as stack:
        for place in places:
            for handle in _hooks(own.get_submodule(place), inside, streams):
                stack.callback(handle.remove)
        yield streams


def _hooks(block: nn.Module, mixers: set[nn.Module], streams: list[Tensor]) -> Iterator[Any]:
    """Yield the hooks of one block, by which the first to read a sum with a mixer's output notes it."""
    ran: list[nn.Module] = []

    def constant(part: nn.Module, _: Any, output: Any) -> Any:
        ran.extend([part] if part in mixers else [])
        if isinstance(output, tuple):
            return tuple(one.detach() if isinstance(one, Tensor) else one for one in output)
        return output.detach()

    def read(_: nn.Module, args: tuple[Any, ...]) -> None:
        if ran:
            streams.append(args[0])
            ran.clear()

    def left(_: nn.Module, __: Any, output: Any) -> None:
        if ran:
            streams.append(output[0] if isinstance(output, tuple) else output)
            ran.clear()

    yield block.register_forward_hook(left)
    for part in block.children():
        if is_norm(part):
            yield part.register_forward_pre_hook(read)
        else:
            yield part.register_forward_hook(constant)
