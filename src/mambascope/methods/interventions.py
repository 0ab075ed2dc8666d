"""Ground truth by intervention, to judge faster methods by: what changes when the scans run without a source.

* Knockout (Mamba Knockout, arXiv 2505.24244): one source gives nothing to the scans of chosen targets.
* Value zeroing (Mohebbi et al. 2023, arXiv 2301.12971): one token's value is zero in one layer.
* Occlusion (`mambascope.methods.occlusion`): one token of the text is hidden.

Each runs the stock model once per source, in batches of copies of one text; `mambascope.trace.intervene` says exactly
what is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import InputError
from mambascope.memory import require_room
from mambascope.methods.ablation import Effect, batches, copies, measure, one_each, padding_of, require_one_text
from mambascope.methods.checked import checked
from mambascope.methods.method import SCAN, AnyReadout, Method, MethodResult, at_positions, number_of
from mambascope.methods.targets import positions, without_padding
from mambascope.numbering import shown
from mambascope.trace import Block, Branch, Trace
from mambascope.trace.block import precision
from mambascope.trace.intervene import Knockout, intervening, scan_mixers
from mambascope.trace.running import call, in_texts, running


@checked
def knockout(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    targets: int | Sequence[int] | None = None,
    layers: tuple[int, int] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Effect:
    """Return how far a readout falls when the scans of some targets run without one source, for every source.

    Source j gives nothing to the targets' scan outputs, neither through alpha nor, if j is itself a target, through the
    skip D; the model computes everything else from the result. A source is a position in the scan's input, which the
    convolution has already mixed with the K-1 positions before it. A hybrid's attention layers are not changed.

    Args:
        trace: A capture of one text by a model with selective-scan mixers.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        targets: The positions that lose the source; by default the readout's own. Negative numbers count back from the
            text's own last token.
        layers: First and last layer of a window, both included; None for all.
        batch: Copies of the text per batch; by default as many as make 2048 tokens.
        progress: Called with (sources done, sources in all) after each batch.

    Raises:
        InputError: if the trace is not of one text, or a target, a layer or the readout cannot be used.
        UnsupportedModelError: if the model has no selective scan.
    """
    model, inputs = trace.model, dict(trace.inputs)
    scan_mixers(model)
    require_one_text(inputs)
    readout, own = in_texts(readout, inputs), getattr(readout, "positions", None)
    targets = own if targets is None else targets
    if targets is None:
        raise InputError("this readout has no positions; pass targets, the positions that lose the source")
    with running(model) as own:
        length, device = trace.shape[1], trace.layers[0].x.device
        rows = tuple(sorted(set(positions(trace, targets)[0].tolist())))
        window = _window(trace, layers)
        mixers = frozenset(branch.name for block in window for branch in block.branches if branch.kind == "scan")

        def without(start: int, stop: int) -> Any:
            with intervening(own, Knockout(mixers, one_each(start, stop, length, device), rows)):
                return call(own, copies(inputs, stop - start))

        sources = max(block.operator().seen(max(rows)).stop for block in window)  # later ones give the targets nothing
        return measure(
            readout, trace.outputs, without,
            length=length, sources=sources, padding=padding_of(inputs), batch=batch, progress=progress,
        )  # fmt: skip


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
    and without Δ_k B_k s_k and D s_k; the decay at k stays. The layer's output is the residual stream after the mixer,
    block input plus y, or y alone if the mixer is in no block. The paper divides rows by their sum; we do not.

    Args:
        trace: A capture of one text by a model with selective-scan mixers.
        layer: Number of the layer, from 0; negative numbers count from the end.
        batch: Copies of the text per batch; by default as many as make 2048 tokens.
        progress: Called with (sources done, sources in all) after each batch.

    Returns:
        Distances from 0 to 2, exactly zero where a target cannot see a source.

    Raises:
        InputError: if the trace is not of one text, or the layer does not exist or has no scan.
        UnsupportedModelError: if the model has no selective scan.
        MapTooLargeError: if the map would not fit in memory.
    """
    model = trace.model
    scan_mixers(model)
    require_one_text(dict(trace.inputs))
    with running(model) as own:
        length, index = trace.shape[1], trace.index(layer)
        (block,) = _window(trace, (index, index))
        branch = block.branch
        intact = _stream(block, branch.captured.y)
        require_room((length, length), intact, "shorten the text")
        distances, causal = intact.new_zeros(length, length), branch.operator().scan.causal
        for start, stop in batches(length, length, batch):
            edit = Knockout((branch.name,), one_each(start, stop, length, intact.device))
            with intervening(own, edit):
                without = _stream(block, _mixed(own.get_submodule(branch.name), branch, stop - start))
            first = start if causal else 0
            distances[first:, start:stop] = _cosine_distance(without[:, first:], intact[:, first:]).t()
            if progress is not None:
                progress(stop, length)
    distances = without_padding(trace, distances[None])
    return distances.tril_() if causal else distances  # targets before the source differ by rounding only


def _mixed(mixer: nn.Module, branch: Branch, count: int) -> Tensor:
    """Return a mixer's output for copies of its captured input."""
    captured, mask = branch.captured, branch.captured.mask
    options = {} if mask is None else {"attention_mask": mask.expand(count, -1)}
    output = mixer(captured.laid_out(captured.x.expand(count, -1, -1)), **options)
    y = output[0] if isinstance(output, tuple) else output
    return y if captured.grid is None else y.flatten(1, 2)


def _stream(block: Block, y: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
    """Return the residual stream after the mixer: the layer's output, which the paper compares."""
    working = precision(y.dtype)
    return y.to(working) if block.stream_in is None else block.stream_in.to(working) + y.to(working)


def _cosine_distance(a: Float[Tensor, "b t E"], b: Float[Tensor, "1 t E"]) -> Float[Tensor, "b t"]:
    """Return 1 - cos(a, b) as ½‖a/‖a‖ - b/‖b‖‖², which keeps its precision where the two nearly agree."""
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).square().sum(dim=-1) / 2


def _window(trace: Trace, layers: tuple[int, int] | None) -> list[Block]:
    """Return the blocks of a window of layers that have a scan."""
    if layers is not None and (not isinstance(layers, Sequence) or len(layers) != 2):
        raise InputError(f"a window of layers must be its first and last layer, found {shown(layers)}")
    first, last = (0, len(trace.layers) - 1) if layers is None else (trace.index(layer) for layer in layers)
    if first > last:
        raise InputError(f"the window of layers {first} to {last} is empty; pass its first layer, then its last")
    found = [block for block in trace.layers[first : last + 1] if "scan" in block.kinds]
    if not found:
        inside = [branch for block in trace.layers[first : last + 1] for branch in block.branches]
        classes = sorted({type(branch.mixer).__name__ for branch in inside})
        raise InputError(f"there is no scan to cut in layers {first} to {last}: they are {', '.join(classes)}")
    return found


def _knocked_out(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    effect = knockout(trace, number_of(readout))
    return MethodResult(at_positions(trace, effect.scores[None]), {"value": effect.value})


METHODS = [
    Method(
        "value-zeroing",
        "cosine distance of a layer's output when one token's value is zeroed in it",
        "Mohebbi et al. 2023, arXiv 2301.12971",
        signed=False,
        needs="interventions",
        cost="quadratic",
        growth=1.0,
        kinds=SCAN,
        map=value_zeroing,
        by_stage=False,
    ),
    Method(
        "knockout",
        "drop of the logit when scans pass nothing from one token to the target",
        "Mamba Knockout 2025, arXiv 2505.24244",
        signed=True,
        needs="interventions",
        cost="quadratic",
        growth=1.0,
        kinds=SCAN,
        score=_knocked_out,
        asks=True,
        by_stage=False,
    ),
]
