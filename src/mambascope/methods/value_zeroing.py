"""Value zeroing (Mohebbi et al. 2023, arXiv 2301.12971): one token's value is zero in one layer.

The module that holds the layer's mixers runs again on copies of what it read, each of which does without one source;
`mambascope.trace.cutting` says exactly what is cut in which kind of mixer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import UnsupportedModelError
from mambascope.memory import require_room
from mambascope.methods.ablation import batches, require_one_text, room, runs_of_each
from mambascope.methods.checked import checked
from mambascope.methods.method import Method
from mambascope.methods.targets import looks_ahead, without_padding
from mambascope.trace import Block, Trace
from mambascope.trace.block import precision
from mambascope.trace.calls import Call
from mambascope.trace.intervene import Knockout, intervening
from mambascope.trace.running import running


@checked
def value_zeroing(
    trace: Trace,
    layer: int,
    *,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "1 L L"]:
    """Return how far each target's output of one layer turns when one source's value is set to zero in that layer.

    Row i is the target, column k the source: the cosine distance between the layer's output at i with the whole text
    and without Δ_k B_k s_k and D s_k, or without v_k; the decay at k and p stay. As in the paper, the layer's output is
    that of the module that holds the mixer, with its residual stream, norms and MLP, or y alone if the model itself
    holds it. Of mixers side by side, each is cut. The paper divides rows by their sum; we do not.

    Args:
        trace: A capture of one text.
        layer: Number of the layer, from 0; negative numbers count from the end.
        batch: Copies of the text per batch; by default as many as fit in memory and make no more than 2048 tokens
            (32768 on other devices than the CPU).
        progress: Called with (sources done, sources in all) after each batch.

    Returns:
        Distances from 0 to 2, exactly zero where a target cannot see a source.

    Raises:
        InputError: if the trace is not of one text, or the layer does not exist.
        UnsupportedModelError: if a mixer is one in which nothing can be cut.
        MapTooLargeError: if the map would not fit in memory.
    """
    require_one_text(dict(trace.inputs))
    with running(trace.model, eager=True) as own:
        length, block = trace.shape[1], trace.layers[trace.index(layer)]
        module, made, causal = own.get_submodule(block.name), _call(trace, block), _causal(trace, block)
        with intervening(own, None):
            intact = _in_working_precision(made.again(module, 1))
        require_room((length, length), intact, "shorten the text")
        distances = intact.new_zeros(length, length)
        mixers = [branch.name for branch in block.branches]
        for start, stop in batches(length, length, batch, room(own, length)):
            cut = runs_of_each([range(one, one + 1) for one in range(start, stop)], length, intact.device)
            with intervening(own, Knockout(mixers, cut)):
                without = _in_working_precision(made.again(module, stop - start))
            first = start if causal else 0
            distances[first:, start:stop] = _cosine_distance(without[:, first:], intact[:, first:]).t()
            if progress is not None:
                progress(stop, length)
    distances = without_padding(trace, distances[None])
    return distances.tril_() if causal else distances  # targets before the source differ by rounding only


def _call(trace: Trace, block: Block) -> Call:
    """Return the call of the module that holds a layer's mixers.

    Raises:
        UnsupportedModelError: if it ran several times, and it cannot be told which of these the layer was.
    """
    made, of_module = trace.calls_of(block.name), [one for one in trace.layers if one.name == block.name]
    if len(made) not in (1, len(of_module)):
        raise UnsupportedModelError(
            f"{block.name} ran {len(made)} times for {len(of_module)} layers, so a layer cannot run again by itself"
        )
    return made[0] if len(made) == 1 else made[[one is block for one in of_module].index(True)]


def _causal(trace: Trace, block: Block) -> bool:
    """Return whether no target of a layer's module depends on later tokens, not counting rows of padding."""
    inside = [number for number, one in enumerate(trace.layers) if one.name == block.name]
    return not any(looks_ahead(trace, number) for number in inside)


def _in_working_precision(tokens: Tensor) -> Tensor:
    return tokens.to(precision(tokens.dtype))


def _cosine_distance(a: Float[Tensor, "b t E"], b: Float[Tensor, "1 t E"]) -> Float[Tensor, "b t"]:
    """Return 1 - cos(a, b) as ½‖a/‖a‖ - b/‖b‖‖², which keeps its precision where the two nearly agree."""
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).square().sum(dim=-1) / 2


METHODS = [
    Method(
        "value-zeroing",
        "cosine distance of a layer's output when one token's value is zeroed in it",
        "Mohebbi et al. 2023, arXiv 2301.12971",
        signed=False,
        needs="interventions",
        cost="quadratic",
        growth=1.0,
        map=value_zeroing,
    ),
]
