"""A mixer's record of which only the input is kept: the mixer runs again when its operator is asked for.

The other parts of a record take four to ten times as much memory as the input. Nothing of what a run computes is kept
after it, so that no more than one layer's coefficients are held at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import ReconstructionError
from mambascope.families import Captured, Family, MixerFamily
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.notices import KERNELS, kept_off
from mambascope.trace.block import Block
from mambascope.trace.calls import Call
from mambascope.trace.recording import Recording
from mambascope.trace.running import own_precision
from mambascope.trace.scanning import relative_error
from mambascope.trust import TOLERANCE

#: Tokens at which a run is compared with the first, about.
FEW = 16


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
    """

    name: str
    mixer: nn.Module
    family: MixerFamily
    scans: Mapping[PatchPoint, Family]
    call: Call
    rows: Float[Tensor, "b few F"]

    __repr__ = brief

    def __call__(self) -> Captured:
        """Return the whole record, by running the mixer once more.

        Raises:
            ReconstructionError: if it returns something else than before.
        """
        args, kwargs = self.call.args, dict(self.call.kwargs)
        recording = Recording(self.scans, lambda dtype: TOLERANCE.get(dtype, TOLERANCE[torch.float32]))
        with own_precision(), torch.no_grad(), kept_off(KERNELS), recording.noting(self.mixer, self.family):
            with intercepting(recording, self.scans):
                output = self.mixer(*args, **kwargs)
            captured, _ = recording.read(self.name, self.mixer, self.family, args, kwargs, output)
        error = relative_error(_few(captured.y), self.rows)
        if not error <= TOLERANCE.get(self.rows.dtype, TOLERANCE[torch.float32]):
            raise ReconstructionError(
                f"{self.name} ({type(self.mixer).__name__}) ran again and returned something else, off by {error:.1e}: "
                "the model's weights have changed since the capture; capture again"
            )
        return captured


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
        again = Again(branch.name, branch.mixer, branch.family, scans, calls[id(whole)], _few(whole.y))
        branches.append(replace(branch, captured=Recaptured(whole, again)))
    return replace(
        block, branches=tuple(branches), inputs_alone=True, stream_in=None, stream_out=None, read=None, norm=None
    )


def _few(y: Float[Tensor, "b L F"]) -> Float[Tensor, "b few F"]:
    """Return a copy of a few rows, the last one among them."""
    step = max(1, y.shape[1] // FEW)
    return y[:, (y.shape[1] - 1) % step :: step].clone()
