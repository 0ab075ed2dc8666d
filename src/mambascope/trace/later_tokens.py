"""Passes over copies of the later tokens of a text, each changed at some token: those before it do not run again.

In a causal model nothing before a changed token changes. So the text runs once, from one place to the next, and what
its tokens have left there is kept (`mambascope.trace.continued`). Copies of the tokens from that place on start from
it, and end at the last position that is read.

Whether a model can be run so is tried, not assumed: the text as it is, run from place to place, must give at each what
it gave as a whole, and so must copies of some of its first tokens.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families import AttentionFamily, MixerFamily, find_mixers
from mambascope.trace.continued import Continued, Kept, State
from mambascope.trace.mixing import Apart, mixing
from mambascope.trace.running import call
from mambascope.trace.scanning import has_kernel, relative_error
from mambascope.trace.single_position import READ, hooked, returned
from mambascope.trace.text_in_pieces import answering
from mambascope.trust import TOLERANCE

#: Copies that a model is tried with, the tokens that run before them, and those of each; and all of these tokens.
COPIES, BEFORE, AFTER = 2, 16, 16
TRIED = BEFORE + COPIES * AFTER

#: Tokens of a text up to which softmax attention in its eager form, which can go on, costs less than twice the tokens
#: in a faster form, where every mixer is attention.
EAGER = 512


@dataclass(eq=False)
class LaterTokens:
    """A text that can go on from any of its tokens.

    Attributes:
        own: A private copy of the model, with attention in its eager form.
        mixers: Its mixers.
        inputs: What it is called with, of one text without padding.
        stop: How many tokens of the text run, from its first one on.
        outputs: What the model returned for the whole text.
        places: The positions that are read, ascending; None for all of them.
        start: The token that the text has been run up to.
        error: How far the text's own outputs are from those of its run from place to place, relative to them.
    """

    own: nn.Module
    mixers: Sequence[tuple[str, nn.Module, MixerFamily]]
    inputs: Mapping[str, Tensor]
    stop: int
    outputs: Any
    places: tuple[int, ...] | None
    start: int = 0
    error: float = 0.0
    _kept: Kept = field(default_factory=lambda: Kept(0))

    __repr__ = brief

    def __post_init__(self) -> None:
        self._kept = Kept(self.stop)

    def go_to(self, place: int) -> None:
        """Run the text as it is up to a token, from which copies then start.

        Raises:
            Apart: if it cannot, or does not give there what it gave as a whole.
        """
        if place <= self.start:
            return
        piece, states = slice(self.start, place), Continued(self._entering())
        try:
            with mixing(self.own, answering(self.mixers, states)):
                outputs = call(self.own, self._read(piece, (place - 1,)))
        except Exception as error:  # whatever keeps the model's own code from running on some of the tokens
            raise Apart(f"the text does not go on: {error}") from error
        self._kept.add(piece, states.leaving)
        for left in self._kept.left[:-1]:
            left.clear()  # nothing starts there again
        self._compare(self._rows(outputs, piece, (place - 1,)), (place - 1,))
        self.start = place

    @contextmanager
    def copies(self, count: int) -> Iterator[dict[str, Any]]:
        """Let the model go on from there inside the block, when it is called with the inputs of copies yielded."""
        entering = [replace(state, parts=tuple(_expanded(part, count) for part in state.parts))
                    for state in self._entering()]  # fmt: skip
        with mixing(self.own, answering(self.mixers, Continued(entering, keeps=False))):
            read = self._read(slice(self.start, self.stop), self._ahead)
            yield {name: _expanded(value, count) if value.ndim > 1 else value for name, value in read.items()}

    def read(self, outputs: Any) -> Any:
        """Return what a readout may read of what copies returned: the positions read, or all, the text's own first."""
        if self.places is None:
            before, found = _chosen(self.outputs, range(self.start)), outputs
        else:
            before = _chosen(self.outputs, self.places[: len(self.places) - len(self._ahead or ())])
            found = self._rows(outputs, slice(self.start, self.stop), self._ahead or ())
        joined = {
            name: torch.cat([_expanded(getattr(before, name), len(value)), value], dim=1)
            for name, value in returned(found).items()
        }
        return type(self.outputs)(**joined) if self.places is None else types.SimpleNamespace(**joined)

    @property
    def intact(self) -> Any:
        """What a readout may read of the text's own outputs, in the same form."""
        return self.outputs if self.places is None else _chosen(self.outputs, self.places)

    def try_copies(self) -> None:
        """Run copies of some of the first tokens, with nothing changed.

        Raises:
            Apart: if they do not give what the text gave.
        """
        stop = min(BEFORE + AFTER, self.stop)
        start = min(BEFORE, stop // 2)
        trial = replace(self, stop=stop, places=tuple(range(start, stop)))
        trial.go_to(start)
        with trial.copies(COPIES) as inputs:
            outputs = call(self.own, inputs)
        trial._compare(trial.read(outputs), trial.places or ())
        self.error = trial.error

    @property
    def _ahead(self) -> tuple[int, ...] | None:
        """The positions that are read from the start on; None for all of them."""
        return None if self.places is None else tuple(place for place in self.places if place >= self.start)

    @property
    def _takes(self) -> Mapping[str, Any]:
        return inspect.signature(self.own.forward).parameters

    def _entering(self) -> list[State]:
        return self._kept.entering(len(self._kept.left), self.start)

    def _read(self, piece: slice, places: Sequence[int] | None) -> dict[str, Any]:
        """Return what the model is called with for some of the tokens."""
        takes = self._takes
        read: dict[str, Any] = {name: value[:, piece] for name, value in self.inputs.items()}
        device = next(iter(read.values())).device
        if "position_ids" in takes and "position_ids" not in read:
            read["position_ids"] = torch.arange(piece.start, piece.stop, device=device)[None]
        if places is not None and "logits_to_keep" in takes:
            read["logits_to_keep"] = torch.tensor([place - piece.start for place in places], device=device)
        return read

    def _rows(self, outputs: Any, piece: slice, places: Sequence[int]) -> Any:
        """Return the outputs at some positions of a piece; of the logits, the model may return no others."""
        chosen = "logits_to_keep" in self._takes
        rows = [place - piece.start for place in places]
        found = returned(outputs).items()
        return types.SimpleNamespace(
            **{name: value if chosen and name == "logits" else value[:, rows] for name, value in found}
        )

    def _compare(self, found: Any, places: Sequence[int]) -> None:
        for name, value in returned(_chosen(self.outputs, places)).items():
            self.error = max(self.error, *(relative_error(one, value) for one in getattr(found, name).split(1)))
            if not self.error <= TOLERANCE.get(value.dtype, TOLERANCE[torch.float32]):
                raise Apart("the text does not go on as it did")


def later_tokens(
    own: nn.Module, inputs: Mapping[str, Any], outputs: Any, stop: int, places: Sequence[int] | None
) -> LaterTokens | None:
    """Return a text whose later tokens are ready to run from any place; None if it must run as a whole.

    That layers are causal is for the caller to know; everything else is tried. Texts with padding, or packed into one
    row, run as a whole; so do models with hooks of the caller's own, which may read or change any position, and those
    with compiled scans, which start from no state here, and long texts with much softmax attention.

    Args:
        own: A private copy of the model, with attention in its eager form.
        inputs: What the model was called with, of one text.
        outputs: What it returned.
        stop: How many tokens are to run, from the first one on.
        places: The positions that are to be read, ascending; None for all of them.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    mask, positions = given.pop("attention_mask", None), given.get("position_ids")
    expected = returned(outputs)
    if not given or not expected or not all(name in READ and value.ndim > 1 for name, value in given.items()):
        return None
    length = next(iter(given.values())).shape[1]
    whole = all(value.ndim == 3 and value.shape[:2] == (1, length) for value in expected.values())
    plain = mask is None or (mask.ndim == 2 and bool(mask.all()))
    one_text = positions is None or bool((positions.diff(dim=-1) == 1).all())
    known = isinstance(outputs, transformers.utils.ModelOutput) and set(outputs) <= set(expected)
    if not whole or not plain or not one_text or not (places is not None or known) or hooked(own):
        return None
    if has_kernel(next(iter(expected.values()))):
        return None
    try:
        mixers = find_mixers(own)
        attention = sum(isinstance(family, AttentionFamily) for _, _, family in mixers)
        if attention * stop > EAGER * len(mixers):
            return None
        later = LaterTokens(own, mixers, given, stop, outputs, None if places is None else tuple(places))
        later.try_copies()
    except Exception:  # whatever keeps the model's own code from running on some of the tokens
        return None
    return later


def _chosen(outputs: Any, places: Sequence[int]) -> Any:
    """Return what is read of a model's outputs, at some positions alone."""
    return types.SimpleNamespace(**{name: value[:, list(places)] for name, value in returned(outputs).items()})


def _expanded(value: Tensor, count: int) -> Tensor:
    return value.expand(count, *value.shape[1:])
