"""Activation patching: what a part of one run, put into another, brings back of the number that they differ in.

Causal tracing (Meng et al. 2022, arXiv 2202.05262) runs a text and a corrupted one, and puts a state of the first run
into the second, one layer and position at a time. What is measured is the share of the difference that comes back
(Zhang & Nanda 2023, arXiv 2309.16042): (patched - corrupted) / (clean - corrupted). The corrupted text is here any
other text of as many tokens, such as one in which a word is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError, ReconstructionError, UnsupportedModelError
from mambascope.methods.ablation import batches, chosen, copies, padding_of, require_one_text, room
from mambascope.methods.checked import checked
from mambascope.methods.interventions import layer_window
from mambascope.methods.targets import looks_ahead, positions, reach
from mambascope.numbering import shown
from mambascope.readouts import read, read_at
from mambascope.trace import Trace
from mambascope.trace.embedding import embedded
from mambascope.trace.putting import Part, Site, differing, parts_of, with_parts
from mambascope.trace.running import in_texts, running
from mambascope.trust import TOLERANCE, coarsest

PARTS = ("stream", "mixer", "state")
#: What a model reads of a text; anything else it is called with must be the same in both runs.
READ = ("input_ids", "inputs_embeds", "pixel_values")
#: How many units of rounding two values must be apart for their difference to be explained.
ROUNDING = 100


@dataclass(frozen=True, eq=False)
class Patching:
    """What parts of one run bring back in another.

    Attributes:
        scores: The share of the difference that comes back, for each layer and position: 0 for nothing, 1 for all of
            it; it may be negative or more than 1. NaN for positions that nobody asked for.
        layers: The numbers of the layers.
        clean: The readout of the run that the parts are of.
        corrupted: The readout of the run that they are put into.
        together: The share that comes back if the parts are put in everywhere at once; for states, in all layers at the
            last position where the texts differ.
        error: How far the second run with nothing put in, and with everything where that must give the first one's
            value, is from these values, as a share of their difference.
    """

    scores: Float[Tensor, "layer L"]
    layers: tuple[int, ...]
    clean: float
    corrupted: float
    together: float
    error: float

    __repr__ = brief


@checked
def patching(
    trace: Trace,
    other: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    what: Part = "stream",
    layers: tuple[int, int] | None = None,
    sources: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Patching:
    """Return what a part of one run brings back of a readout in another, for each layer and position.

    The other text runs once for every layer and position, in copies, with the part of the first run in the place of its
    own; `mambascope.trace.putting` says what the parts are. Where both runs have the same part nothing is run, and
    nothing comes back. Of mixers side by side all are put in.

    Args:
        trace: A capture of one text: the clean run, that the parts are of.
        other: A capture of another text with as many tokens, by the same model: the corrupted run.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        what: `stream`, the residual stream that leaves a layer; `mixer`, the output of its mixers; or `state`, what
            they keep of the tokens up to the position for those after it.
        layers: First and last layer of a window, both included; None for all.
        sources: The positions to put in, one at a time; negative numbers count back from the text's own last token.
            None for all.
        batch: Copies of the text per batch; by default as many as fit in memory and make no more than 2048 tokens
            (32768 on other devices than the CPU).
        progress: Called with (runs done, runs in all) after each batch.

    Raises:
        InputError: if the traces are not of one text each, of the same length and by the same model, the readout cannot
            be used or has the same value in both, or a layer, a position or the part does not exist.
        UnsupportedModelError: if a layer has no such part, or none that can be replaced by itself.
        ReconstructionError: if the other run with nothing put in, or with everything, gives another number than it
            must.
    """
    if what not in PARTS:
        raise InputError(f"what is put in must be one of {', '.join(PARTS)}, found {shown(what)}")
    inputs, given = _inputs(trace, other)
    window = layer_window(trace, layers, None)
    sites = _sites(trace, window, what)
    number = in_texts(readout, inputs)
    clean, corrupted = (float(read(number, run.outputs).detach()) for run in (trace, other))
    scale = max(abs(clean), abs(corrupted), *map(_size, (trace.outputs, other.outputs)))
    apart, precision = abs(clean - corrupted), coarsest(block.y.dtype for block in trace.layers)
    if apart <= ROUNDING * torch.finfo(precision).eps * scale:
        raise InputError(
            f"both texts give the same number, {clean:.4g}, so there is nothing to bring back; change a word that it "
            "depends on, or ask about another token"
        )
    length = trace.shape[1]
    with running(trace.model, eager=True) as own:
        theirs, ours = (parts_of(own, one, what, sites) for one in (inputs, given))
        differ = (embedded(own, inputs) != embedded(own, given)).any(dim=-1)[0]
        differ = F.pad(differ, (length - len(differ), 0))  # a class token is added later

        def share(places: Bool[Tensor, "b layer L"]) -> Float[Tensor, " b"]:
            outputs = with_parts(own, copies(given, len(places)), theirs, places)
            found = read(number, outputs).detach().double().cpu()
            return (found - corrupted) / (clean - corrupted)

        together, error = _all_at_once(trace, readout, what, share, differ, window)
        if not error * apart <= TOLERANCE.get(precision, TOLERANCE[torch.float32]) * scale:
            raise ReconstructionError(
                f"the second text's run with nothing or all of the first put in gives a number that is off by "
                f"{error * apart:.1e} from what it must be, so nothing can be said of single parts"
            )
        scores = torch.full((len(window), length), torch.nan, dtype=torch.float64)
        asked = chosen(sources, trace.attention_mask, length)
        scores[:, slice(None) if asked is None else sorted(set(asked))] = 0
        matters = differing(theirs, ours, len(window)) & _within_reach(trace, readout, what)
        wanted = (matters & ~scores.isnan()).nonzero()
        for start, stop in batches(len(wanted), length, batch, room(own, length)):
            layer, place = wanted[start:stop].unbind(dim=1)
            places = torch.zeros(stop - start, len(window), length, dtype=torch.bool)
            places[torch.arange(stop - start), layer, place] = True
            scores[layer, place] = share(places)
            if progress is not None:
                progress(stop, len(wanted))
    return Patching(scores.float(), tuple(window), clean, corrupted, together, error)


def _inputs(trace: Trace, other: Trace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what both runs were called with; raises InputError unless one can be put into the other."""
    both = dict(trace.inputs), dict(other.inputs)
    for one in both:
        require_one_text(one)
    if trace.model is not other.model and not _same_weights(trace.model, other.model):
        raise InputError("both traces must be of one model; capture both texts with it")
    if trace.shape != other.shape:
        raise InputError(
            f"both texts must have as many tokens, found {trace.shape[1]} and {other.shape[1]}; replace a word by one "
            "of as many tokens"
        )
    first, second = both
    for name in sorted({*first, *second} - set(READ)):
        if not _same(first.get(name), second.get(name)):
            raise InputError(f"both runs must be called with the same {name}; only the text may differ")
    return both


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and bool(first == second)


def _same_weights(first: Any, second: Any) -> bool:
    """Return whether two models, such as copies with adapters merged into them, have the same weights."""
    ours, theirs = first.state_dict(), second.state_dict()
    alike = type(first) is type(second) and ours.keys() == theirs.keys()
    return alike and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _size(outputs: Any) -> float:
    """Return the largest of what a model returned for every token."""
    found = (getattr(outputs, name, None) for name in ("logits", "last_hidden_state"))
    return max((float(one.detach().abs().max()) for one in found if isinstance(one, Tensor)), default=0.0)


def _sites(trace: Trace, window: Sequence[int], what: Part) -> list[Site]:
    """Return where a window's parts are, in the order in which they are made."""
    sites = []
    for place, number in enumerate(window):
        block = trace.layers[number]
        if what == "state" and looks_ahead(trace, number):
            raise UnsupportedModelError(
                f"layer {number} ({block.name}) reads later tokens too, so it has no state of the tokens up to a "
                "position; put in its output or the stream"
            )
        if what != "stream":
            for branch in block.branches:
                earlier = [one.name for layer in trace.layers[:number] for one in layer.branches]
                sites.append(Site(place, branch.name, earlier.count(branch.name)))
            continue
        block.stream("patching")
        alike = [k for k, one in enumerate(trace.layers) if one.name == block.name]
        if len(alike) != len(trace.calls_of(block.name)):
            raise UnsupportedModelError(
                f"the stream that leaves layer {number} is inside {block.name}, which holds layers "
                f"{' and '.join(map(str, alike))}, and cannot be replaced there; put in the mixers' outputs"
            )
        sites.append(Site(place, block.name, alike.index(number)))
    return sites


def _all_at_once(
    trace: Trace,
    readout: Any,
    what: Part,
    share: Callable[[Bool[Tensor, "b layer L"]], Float[Tensor, " b"]],
    differ: Bool[Tensor, " L"],
    window: Sequence[int],
) -> tuple[float, float]:
    """Return the share that comes back if everything is put in, and how far off nothing and everything are.

    Everything must give the first run's number if it is all that the readout can tell the runs apart by: the stream
    that leaves the last layer; or what all layers give, where the tokens that are read are the same, and for states all
    tokens after the position.
    """
    last = int(differ.nonzero()[-1])
    places = torch.zeros(2, len(window), trace.shape[1], dtype=torch.bool)
    places[1, :, last if what == "state" else slice(None)] = True
    nothing, everything = share(places).tolist()
    read_there = read_at(readout)
    found = [] if read_there is None else positions(trace, read_there)[0].tolist()
    whole = len(window) == len(trace.layers) and bool(found)
    if what == "stream":
        exact = window[-1] == len(trace.layers) - 1
    elif what == "mixer":
        exact = whole and not differ[found].any()
    else:
        exact = whole and min(found) > last
    return everything, max(abs(nothing), abs(everything - 1) if exact else 0.0)


def _within_reach(trace: Trace, readout: Any, what: Part) -> Bool[Tensor, " L"]:
    """Return True at positions whose part the readout may depend on; a state is read after its position."""
    length = trace.shape[1]
    found, padding = read_at(readout), padding_of(dict(trace.inputs))
    seen = length if found is None else reach(trace, positions(trace, found)[0].tolist()) - (what == "state")
    inside = torch.arange(length) < seen
    return inside if padding is None else inside & ~padding.cpu()
