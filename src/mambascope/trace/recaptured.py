"""A mixer's record of which only the input is kept: the mixer runs again when its operator is asked for.

The other parts of a record take four to ten times as much memory as the input. Nothing of what a run computes is kept
after it, so that no more than one layer's coefficients are held at a time. A long text runs piece by piece, each with
the few tokens before it that the convolution reads, so that what is computed stays in a processor's cache and memory is
used again. Where the scan's coefficients are read one piece after the other, the scan itself does not run: they depend
on no other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import ReconstructionError
from mambascope.families import Captured, Family, MixerFamily
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.notices import KERNELS, kept_off
from mambascope.operators.token_mixer import Carried
from mambascope.trace.block import Block
from mambascope.trace.calls import Call
from mambascope.trace.mixer_calls import input_of
from mambascope.trace.mixing import goes_forwards
from mambascope.trace.recording import Recording
from mambascope.trace.running import own_precision
from mambascope.trace.scanning import finished, read_call, relative_error
from mambascope.trust import TOLERANCE

#: Tokens at which a run is compared with the first, about.
FEW = 16

#: Tokens of a piece: few enough that what is computed of them stays in a processor's cache.
PIECE = 512


@dataclass(frozen=True, eq=False)
class Again:
    """How a mixer runs again.

    Attributes:
        name: Its name in the model.
        mixer: The module, of a private copy without hooks.
        family: The family that reads it.
        scans: The families that read the calls of the model's scans.
        call: What it was called with.
        rows: What it returned at a few tokens, by which a run is recognised as the same.
        read: What its only scan was called with there, and what has no tokens; empty if it has another number of scans.
    """

    name: str
    mixer: nn.Module
    family: MixerFamily
    scans: Mapping[PatchPoint, Family]
    call: Call
    rows: Float[Tensor, "b few F"]
    read: Mapping[str, Tensor] = field(default_factory=dict)

    __repr__ = brief

    def __call__(self) -> Captured:
        """Return the whole record, by running the mixer once more.

        Raises:
            ReconstructionError: if it returns something else than before.
        """
        in_pieces = self._in_pieces()
        if in_pieces is not None:
            return self._forwards(*in_pieces)
        args, kwargs = self.call.args, dict(self.call.kwargs)
        recording = Recording(self.scans, lambda dtype: TOLERANCE.get(dtype, TOLERANCE[torch.float32]))
        with own_precision(), torch.no_grad(), kept_off(KERNELS), recording.noting(self.mixer, self.family):
            with intercepting(recording, self.scans):
                output = self.mixer(*args, **kwargs)
            captured, _ = recording.read(self.name, self.mixer, self.family, args, kwargs, output)
        self._require_same(relative_error(_few(captured.y), self.rows), self.rows.dtype)
        return captured

    def from_the_end(self) -> Iterator[tuple[slice, dict[str, Tensor]]] | None:
        """Return what the scan is called with piece by piece, the last first; None if the mixer runs as a whole.

        Raises:
            ReconstructionError: while they are read, if a piece is called with something else than before.
        """
        in_pieces = self._in_pieces()
        return None if in_pieces is None else self._backwards(*in_pieces)

    def _in_pieces(self) -> tuple[Family, Tensor, int] | None:
        """Return the family, the input and how far back the convolution reads; None if the mixer runs as a whole."""
        args, kwargs = self.call.args, self.call.kwargs
        x, others = input_of(args, kwargs), [*args, *kwargs.values()]
        taps = getattr(getattr(self.mixer, "conv1d", None), "weight", None)
        alone = not any(isinstance(other, Tensor) and other is not x for other in others)
        if not alone or x.ndim != 3 or x.shape[1] <= PIECE or taps is None or not self.read:
            return None
        if not goes_forwards(self.family) or self.family.heads(self.mixer) != 1:
            return None
        if not isinstance(self.family.scan(dict(self.read), torch.float32), Carried):
            return None
        return self.family, x, taps.shape[-1] - 1

    def _forwards(self, family: Family, x: Tensor, reach: int) -> Captured:
        """Return the whole record, from pieces that start from each other's states."""
        whole: dict[str, Tensor] = {}
        noting, outputs, length = _Noting(family, scans=True), [], x.shape[1]
        for start in range(0, length, PIECE):
            piece = slice(start, min(start + PIECE, length))
            outputs.append(self._run(x, piece, reach, noting))
            for name, one in noting.tensors.items():
                if one.ndim <= 2:
                    whole[name] = one
                    continue
                if name not in whole:
                    whole[name] = one.new_empty(len(one), length, *one.shape[2:])
                whole[name][:, piece] = one
        y = torch.cat(outputs, dim=1)
        self._require_same(relative_error(_few(y), self.rows), self.rows.dtype)
        return Captured(x, y, (whole,), None)

    def _backwards(self, family: Family, x: Tensor, reach: int) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        noting, length = _Noting(family), x.shape[1]
        for start in reversed(range(0, length, PIECE)):
            piece = slice(start, min(start + PIECE, length))
            self._run(x, piece, reach, noting)
            self._compare(noting.tensors, piece, length)
            yield piece, noting.tensors

    def _run(self, x: Tensor, piece: slice, reach: int, noting: _Noting) -> Tensor:
        """Return the output for a piece of the input, which runs after the tokens that the convolution reads."""
        first = max(0, piece.start - reach)
        noting.skipped = piece.start - first

        def part(value: Any) -> Any:
            return value[:, first : piece.stop] if value is x else value

        args, kwargs = map(part, self.call.args), {name: part(one) for name, one in self.call.kwargs.items()}
        with own_precision(), torch.no_grad(), kept_off(KERNELS), intercepting(noting, {noting.family.scan_point}):
            output = self.mixer(*args, **kwargs)
        y: Tensor = output[0] if isinstance(output, tuple) else output
        return y[:, noting.skipped :]

    def _compare(self, tensors: Mapping[str, Tensor], piece: slice, length: int) -> None:
        """Raise ReconstructionError if a piece is called with something else than before, where that is known."""
        kept = range(*_places(length).indices(length))
        rows = [row for row, place in enumerate(kept) if place in range(piece.start, piece.stop)]
        there = [kept[row] - piece.start for row in rows]
        for name, found in tensors.items() if rows else ():
            expected = self.read[name]
            pair = (found, expected) if found.ndim <= 2 else (found[:, there], expected[:, rows])
            self._require_same(relative_error(*pair), expected.dtype)

    def _require_same(self, error: float, precision: torch.dtype) -> None:
        if not error <= TOLERANCE.get(precision, TOLERANCE[torch.float32]):
            raise ReconstructionError(
                f"{self.name} ({type(self.mixer).__name__}) ran again and returned something else, off by {error:.1e}: "
                "the model's weights have changed since the capture; capture again"
            )


@dataclass
class _Noting:
    """Answers the scan of a mixer that runs piece by piece, and notes what it is called with.

    Attributes:
        family: The family that reads the call.
        scans: Whether the scan runs, from the state that the piece before has left; otherwise it gives zeros.
        skipped: How many tokens before the piece the call has.
        tensors: What the piece was called with.
        state: What it has left.
    """

    family: Family
    scans: bool = False
    skipped: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    state: Tensor | None = None

    __repr__ = brief

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the scan's output, zero at the tokens before the piece."""
        call = read_call(self.family, args, kwargs)
        along = {name: one for name, one in call.coefficients.items() if one.ndim > 2}
        self.tensors = call.coefficients | {name: one[:, self.skipped :] for name, one in along.items()}
        if not self.scans:
            return call.give(torch.zeros_like(call.s))
        working = torch.promote_types(call.s.dtype, torch.float32)
        scan: Any = self.family.scan(self.tensors, working)
        s = call.s[:, self.skipped :].to(working).contiguous()
        mixed, self.state = scan.forwards(s, self.state)
        o = finished(replace(call, coefficients=self.tensors), mixed.addcmul_(scan.skip, s))
        if self.family.norm_factor:
            self.tensors["o"] = o
        return call.give(F.pad(o, (0, 0, self.skipped, 0)))


class Recaptured(Captured):
    """A record of which the input is kept; every use of anything else runs the mixer again."""

    _again: Again
    _like: Tensor

    def __init__(self, captured: Captured, again: Again) -> None:
        """Keep the input of a whole record, and how to make the rest again."""
        kept = {"x": captured.x, "mask": captured.mask, "grid": captured.grid, "layer": captured.layer}
        for name, value in {**kept, "_again": again, "_like": captured.y.to("meta")}.items():
            object.__setattr__(self, name, value)

    @property
    def y(self) -> Float[Tensor, "b L F"]:
        """The mixer's output."""
        return self.whole().y

    @property
    def scans(self) -> tuple[dict[str, Tensor], ...]:
        """The tensors of every call of the scan."""
        return self.whole().scans

    @property
    def like(self) -> Float[Tensor, "b L F"]:
        """See `Captured`."""
        return self._like

    def whole(self) -> Captured:
        """Return the whole record."""
        return self._again()

    def scans_from_the_end(self) -> Iterator[tuple[slice, dict[str, Tensor]]] | None:
        """See `Captured`."""
        return None if self.mask is not None or self.grid is not None else self._again.from_the_end()


def with_inputs_alone(block: Block, scans: Mapping[PatchPoint, Family], calls: Mapping[int, Call]) -> Block:
    """Return a block that keeps its mixers' inputs alone; all of it where they read or add something else as well.

    Args:
        block: The block, complete.
        scans: The families that read the calls of the model's scans.
        calls: What the mixer of each record was called with, by the record's identity.
    """
    if block.aside or block.fed_by is not None or any(branch.norm is not None for branch in block.branches):
        return block
    branches = []
    for branch in block.branches:
        whole = branch.captured
        read = {name: _few(one) if one.ndim > 2 else one for scan in whole.scans[:1] for name, one in scan.items()}
        read = read if len(whole.scans) == 1 and isinstance(branch.family, Family) else {}
        again = Again(branch.name, branch.mixer, branch.family, scans, calls[id(whole)], _few(whole.y), read)
        branches.append(replace(branch, captured=Recaptured(whole, again)))
    return replace(
        block, branches=tuple(branches), inputs_alone=True, stream_in=None, stream_out=None, read=None, norm=None
    )


def _few(tokens: Float[Tensor, "b L *f"]) -> Float[Tensor, "b few *f"]:
    """Return a copy of a few rows, the last one among them."""
    return tokens[:, _places(tokens.shape[1])].clone()


def _places(length: int) -> slice:
    """Return a few tokens of a text, the last one among them."""
    step = max(1, length // FEW)
    return slice((length - 1) % step, None, step)
