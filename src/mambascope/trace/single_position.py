"""Passes over copies of one position of a text, each of which does without some sources: no other position runs again.

Where every layer is causal, cutting the edges into one position changes what is computed there and nowhere before it.
So the text runs once, and what the position reads of earlier tokens is kept, call by call
(`mambascope.trace.earlier_tokens`). Then the model's own code runs on copies of that token alone, all sources in one
batch: norms, projections, gates, MLPs and experts are the stock model's.

Whether a model can be run so is tried, not assumed: copies that lose nothing must call the same functions in the same
order, with what these were called with for the text at that position, and end with the same outputs.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families import find_mixers
from mambascope.families.patch_points import PatchPoint
from mambascope.trace import scanning
from mambascope.trace.earlier_tokens import Copies, Earlier, EarlierAttention, EarlierConvolution, EarlierScan
from mambascope.trace.mixing import Apart, mixing
from mambascope.trace.running import call
from mambascope.trace.scanning import read_call, relative_error, scan_points, scanned
from mambascope.trace.wrappers import HOOKS
from mambascope.trust import TOLERANCE

#: Copies that run at once: as many tokens as keep a processor busy; more only take memory.
COPIES = 256

#: Copies that lose nothing, which the position is tried with.
TRIED = 2

#: What a model may be called with, so that it can be called with one token of it.
READ = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")

#: What is read of a model's outputs.
RETURNED = ("logits", "last_hidden_state")


@dataclass(frozen=True, eq=False)
class SinglePosition:
    """One position of a text that can be run alone.

    Attributes:
        own: A private copy of the model, with attention in its eager form.
        inputs: What the model was called with, of one text.
        place: The position.
        length: Number of tokens of the text.
        mixers: Names of the mixers in which sources are cut.
        earlier: What the position reads of earlier tokens, call by call, with the function and the mixer that calls it.
        outputs: What the model returns for the position alone, nothing cut, as `without` does.
        error: How far this run is from the text's, relative to it: what is mixed at every call, and the outputs.
    """

    own: nn.Module
    inputs: dict[str, Any]
    place: int
    length: int
    mixers: Collection[str]
    earlier: tuple[tuple[PatchPoint, str, Earlier], ...]
    outputs: Any = None
    error: float = float("nan")

    __repr__ = brief

    def without(self, spans: Sequence[range]) -> Any:
        """Return the model's outputs for copies of the position, each without one of these runs of sources.

        They are as if the whole text had run, with the position's own outputs at every position.
        """
        return self.run(Copies(self.place, len(spans), tuple(spans)))[0]

    def run(self, copies: Copies) -> tuple[Any, float]:
        """Return the outputs for copies and, if they lose nothing, how far their calls are from the text's.

        Raises:
            Apart: if the model calls other functions than for the text.
        """
        left, errors = iter(self.earlier), [0.0]

        def answer(
            point: PatchPoint, mixer: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            expected, by, earlier = next(left, (None, "", None))
            if earlier is None or (point, mixer) != (expected, by):
                raise Apart(f"{mixer} calls {point.function} where the text's pass did not")
            if not copies.lost:
                errors.append(earlier.error(original, args, kwargs))
            cut = copies if mixer in self.mixers else Copies(copies.place, copies.count)
            return earlier.answer(cut, original, args, kwargs)

        with mixing(self.own, answer):
            outputs = call(self.own, _alone(self.own, self.inputs, self.place, copies.count))
        if next(left, None) is not None:
            raise Apart("the position alone calls fewer functions than the text")
        return _everywhere(outputs, self.length), max(errors)


def single_position(
    own: nn.Module, inputs: dict[str, Any], outputs: Any, place: int, length: int, mixers: Collection[str]
) -> SinglePosition | None:
    """Return one position of a text, ready to run without its sources; None if it must run with the whole text.

    That layers are causal is for the caller to know; everything else is tried. Models with hooks of the caller's own,
    which may read or change any position, run with the whole text.

    Args:
        own: A private copy of the model, with attention in its eager form.
        inputs: What the model was called with, of one text.
        outputs: What it returned.
        place: The position.
        length: Number of tokens of the text.
        mixers: Names of the mixers in which sources are to be cut.
    """
    if not can_be_tried(own, inputs, outputs, length):
        return None
    try:
        position = SinglePosition(own, inputs, place, length, mixers, _earlier(own, inputs, place))
    except Exception:  # whatever keeps a call of the text's pass from being read
        return None
    return tried(position, outputs)


def can_be_tried(own: nn.Module, inputs: dict[str, Any], outputs: Any, length: int) -> bool:
    """Return whether a model may be called with one token of its inputs, and its outputs compared with the text's."""
    expected = returned(outputs)
    readable = expected and all(value.ndim == 3 and value.shape[:2] == (1, length) for value in expected.values())
    return bool(readable) and not hooked(own) and all(inputs[name] is None or name in READ for name in inputs)


def tried(position: SinglePosition, outputs: Any) -> SinglePosition | None:
    """Return a position with its own outputs; None if it does not give alone what it gave in the text."""
    expected, place = returned(outputs), position.place
    try:
        found, error = position.run(Copies(place, TRIED))
        for name, value in expected.items():
            alone = getattr(found, name)[:, 0]
            error = max(error, *(relative_error(one, value[0, place]) for one in alone))
    except Exception:  # whatever keeps the model's own code from running on one token alone
        return None
    precision = next(iter(expected.values())).dtype
    if not error <= TOLERANCE.get(precision, TOLERANCE[torch.float32]):
        return None
    intact = types.SimpleNamespace(**{name: getattr(found, name)[:1] for name in expected})
    return replace(position, outputs=intact, error=error)


def _earlier(own: nn.Module, inputs: dict[str, Any], place: int) -> tuple[tuple[PatchPoint, str, Earlier], ...]:
    """Run the whole text, and return what a position reads of earlier tokens."""
    kept: list[tuple[PatchPoint, str, Earlier]] = []
    families = scan_points(family for _, _, family in find_mixers(own))

    def record(
        point: PatchPoint, mixer: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        seen: Earlier
        if point in families:
            read = read_call(families[point], args, kwargs)
            seen = EarlierScan.of(place, families[point], read)
            output = (
                original(*args, **kwargs) if scanning.has_kernel(read.s) else read.give(scanned(families[point], read))
            )
        else:
            kind = EarlierConvolution if point in convolutions else EarlierAttention
            seen, output = kind.of(place, original, args, kwargs), original(*args, **kwargs)
        kept.append((point, mixer, seen))
        return output

    convolutions = {family.conv_point for family in families.values()}
    with mixing(own, record):
        call(own, inputs)
    return tuple(kept)


def _alone(own: nn.Module, inputs: dict[str, Any], place: int, count: int) -> dict[str, Any]:
    """Return the inputs of copies of one token, at its own position if the model takes positions.

    There is no mask: the token is none of padding, and which others it sees is known at each call.
    """
    cut = {name: value[:, place : place + 1] for name, value in inputs.items() if value is not None}
    cut.pop("attention_mask", None)
    if "position_ids" not in cut and "position_ids" in inspect.signature(own.forward).parameters:
        device = next(iter(cut.values())).device
        cut["position_ids"] = torch.full((1, 1), place, device=device)
    return {name: value.expand(count, *value.shape[1:]) for name, value in cut.items()}


def returned(outputs: Any) -> dict[str, Tensor]:
    """Return what a readout may read of a model's outputs."""
    found = {name: getattr(outputs, name, None) for name in RETURNED}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _everywhere(outputs: Any, length: int) -> Any:
    """Return what a readout may read, the same at every position; it takes no memory."""
    found = {name: value.expand(-1, length, -1) for name, value in returned(outputs).items()}
    return types.SimpleNamespace(**found)


def hooked(own: nn.Module) -> bool:
    """Return whether a model has hooks other than those that transformers sets to return what it is asked for."""
    hooks = (hook for module in own.modules() for name in HOOKS for hook in getattr(module, name).values())
    return any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks)
