"""One update of the residual stream: the stream before it, the mixers that ran in parallel, the stream after it.

The attention that Zamba's layers share is a layer of its own with no place in the stream: it is `aside`. It reads the
stream h with the embedded tokens e beside it; what it gives, after token-wise parts, is t, and the mixer of the block
that it feeds reads norm(h + t), while the stream goes on as h plus that mixer's output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import one_line, shape_of
from mambascope.errors import UnsupportedModelError
from mambascope.families import Captured, Family, Kind, MixerFamily
from mambascope.families.family import weights
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.normed_map import normed_map
from mambascope.operators.sum_of_maps import SumOfMaps
from mambascope.trace.running import own_precision


@dataclass(frozen=True, eq=False)
class Branch:
    """One mixer of a block.

    Attributes:
        name: Its name in the model, as in `named_modules`.
        family: The family that reads it.
        mixer: The module that ran, of the private copy; its weights are the model's own, which are read when an
            operator is built, or merged ones where the model has adapters.
        captured: Its inputs, outputs and coefficients.
        scan_error: Relative error of our scan against the model's own on the first tokens; 0 if the model's own ran,
            as it always does for attention.
        scale: The factor by which its output is multiplied before it is added to the stream.
        reconstruction_error: ‖y - rebuilt y‖ / ‖y‖, by the projected check an estimate of the largest such error of the
            operator's steps; NaN if the capture did not check it.
        norm: The norm that its output passes before it is added to the stream; None if it is added as it is.
        normed: Its output after that norm.
    """

    name: str
    family: MixerFamily
    mixer: nn.Module
    captured: Captured
    scan_error: float
    scale: float = 1.0
    reconstruction_error: float = float("nan")
    norm: nn.Module | None = None
    normed: Float[Tensor, "b L F"] | None = None

    def __repr__(self) -> str:
        kind = f"{type(self.mixer).__name__} of {self.family.model_type}"
        read = f"{shape_of(self.captured.x[..., 0])} tokens"
        return one_line("Branch", [repr(self.name), kind, read, rebuilt(self.reconstruction_error)])

    @property
    def kind(self) -> Kind:
        """The kind of mixer."""
        return self.family.kind

    @property
    def y(self) -> Float[Tensor, "b L F"]:
        """What is scaled and added to the stream: the mixer's output, normalised if a norm follows it."""
        return self.captured.y if self.normed is None else self.normed

    def operator(self, dtype: torch.dtype | None = None) -> AffineMap:
        """Return the mixer as an exact affine map, with the norm of its output frozen.

        Args:
            dtype: Precision of the map; by default float32, float64 for float64 models.
        """
        captured = self.captured.whole()
        dtype = dtype or precision(captured.y.dtype)
        with own_precision(), torch.no_grad():  # autocast would round the coefficients
            inner = self.family.affine(self.mixer, captured, dtype)
            return inner if self.norm is None else _with_norm(inner, self.norm, captured.y.to(dtype))

    def mean_pull(self, rho: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return ρ times its token mixing averaged over channels, piece by piece where it has its input alone."""
        pieces = self.captured.scans_from_the_end()
        if pieces is None or not isinstance(self.family, Family):
            return self.operator().scan.pull(rho)
        found, after = torch.zeros_like(rho), None
        with own_precision(), torch.no_grad():
            for piece, tensors in pieces:
                scan: Any = self.family.scan(tensors, precision(self.captured.like.dtype))
                flow, after = scan.backwards(rho[:, piece, None].expand(-1, -1, scan.maps), after)
                found[:, piece] = flow.mean(dim=-1)
        return found


@dataclass(frozen=True, eq=False)
class Block:
    """One layer: stream_in + Σ scale · y of its branches = stream_out.

    Attributes:
        index: Its number among the model's blocks, from 0.
        name: Its name in the model; the mixer's own name if the mixer is in no block.
        branches: The mixers whose outputs are added to the stream in parallel; nearly always one.
        stream_in: The residual stream that enters the block; None if there is no block that mambascope can read.
        stream_out: The stream after the branches' outputs have been added to it, before anything else changes it; None
            if the layer is aside.
        stream_error: ‖stream_in + Σ scale · y - stream_out‖ / ‖stream_out‖; NaN if there is no stream.
        trusted: Whether the sum gives stream_out, up to rounding; of a layer aside, whether it read [h; e].
        aside: Whether the layer's output does not enter the stream but, after token-wise parts, what the mixers of the
            next block read.
        fed_by: The layer aside whose output, after token-wise parts, the mixers read together with the stream.
        read: What the norm before the mixers read, if that is not the stream alone; None if it is, or is not known.
        norm: That norm.
        inputs_alone: Whether the capture kept the inputs of its mixers and nothing else.
    """

    index: int
    name: str
    branches: tuple[Branch, ...]
    stream_in: Float[Tensor, "b L F"] | None = None
    stream_out: Float[Tensor, "b L F"] | None = None
    stream_error: float = float("nan")
    trusted: bool = True
    aside: bool = False
    fed_by: Block | None = None
    read: Float[Tensor, "b L R"] | None = None
    norm: nn.Module | None = None
    inputs_alone: bool = False

    def __repr__(self) -> str:
        kinds = " beside ".join(type(branch.mixer).__name__ for branch in self.branches)
        kinds = f"{kinds}, not in the stream" if self.aside else kinds
        read = f"{shape_of(self.x[..., 0])} tokens"
        return one_line("Block", [str(self.index), repr(self.name), kinds, read, rebuilt(self.reconstruction_error)])

    @property
    def branch(self) -> Branch:
        """The only branch.

        Raises:
            UnsupportedModelError: if there are several in parallel.
        """
        if len(self.branches) > 1:
            names = " and ".join(branch.name for branch in self.branches)
            raise UnsupportedModelError(
                f"layer {self.index} ({self.name}) adds the outputs of {names} side by side, but this method reads one "
                "mixer in each layer"
            )
        return self.branches[0]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of mixer in each branch."""
        return tuple(branch.kind for branch in self.branches)

    @property
    def kind(self) -> str:
        """The same in words: `scan`, `attention`, or for parallel branches `scan + attention`."""
        return " + ".join(self.kinds)

    @property
    def x(self) -> Float[Tensor, "b L E"]:
        """The input of its mixers."""
        return self.branches[0].captured.x

    @property
    def y(self) -> Float[Tensor, "b L F"]:
        """What is added to the stream: Σ scale · y, in at least float32 if there are several branches."""
        if len(self.branches) == 1 and self.branches[0].scale == 1:
            return self.branches[0].y
        parts = [branch.y.to(precision(branch.y.dtype)) * branch.scale for branch in self.branches]
        return torch.stack(parts).sum(dim=0)

    @property
    def like(self) -> Float[Tensor, "b L F"]:
        """A tensor of the shape and precision of its mixers' outputs, without values."""
        return self.branches[0].captured.like

    @property
    def reconstruction_error(self) -> float:
        """The largest of its branches' reconstruction errors."""
        return max(branch.reconstruction_error for branch in self.branches)

    @property
    def scan_error(self) -> float:
        """The largest of its branches' scan errors."""
        return max(branch.scan_error for branch in self.branches)

    @property
    def post_norm(self) -> nn.Module | None:
        """The norm that is applied after y and the stream have been added; None for pre-norm models."""
        return self.branches[0].family.post_norm(self.branches[0].mixer)

    def stream(self, method: str) -> Float[Tensor, "b L F"]:
        """Return the residual stream that enters the block.

        Args:
            method: Name of the method that needs it, for the message.

        Raises:
            UnsupportedModelError: if mambascope cannot read it, the block changes it in some way other than adding its
                mixers' outputs, or its mixers read something else as well; or if the layer is aside.
        """
        if self.aside:
            raise UnsupportedModelError(
                f"{method} follows the residual stream, but layer {self.index} ({self.name}) is not in it: what it "
                "gives is added to what the next layer's mixer reads"
            )
        if self.stream_in is None and self.inputs_alone:
            raise UnsupportedModelError(
                f"{method} follows the residual stream, but this capture kept the mixers' inputs alone; capture with "
                'keep="all"'
            )
        if self.stream_in is None:
            raise UnsupportedModelError(
                f"{method} needs the residual stream around each mixer, but {self.name} has no block around it that "
                "mambascope can read"
            )
        self.require_trusted(method)
        if self.read is not None and self.fed_by is None:
            raise UnsupportedModelError(
                f"{method} follows the residual stream, but the mixers of {self.name} read something other than the "
                "stream, in a way that mambascope does not know"
            )
        return self.stream_in

    def require_trusted(self, method: str) -> None:
        """Raise UnsupportedModelError if the block changes the stream other than by adding its mixers' outputs.

        Args:
            method: Name of the method that follows the stream, for the message.
        """
        if not self.trusted:
            raise UnsupportedModelError(
                f"{method} follows the residual stream, but {self.name} changes it in a way that mambascope does not "
                f"know: the stream before it plus its mixers' outputs differs from the stream after it by "
                f"{self.stream_error:.1e}"
            )

    def operator(self, dtype: torch.dtype | None = None) -> AffineMap:
        """Return what the block adds to the stream as an exact affine map: the scaled sum of its branches' maps."""
        if len(self.branches) == 1 and self.branches[0].scale == 1:
            return self.branches[0].operator(dtype)
        maps = [(branch.scale, branch.operator(dtype)) for branch in self.branches]
        return SumOfMaps.side_by_side(maps[0][1].x, maps)

    def mean_apply(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return Ā v; see `mean_pull`."""
        parts = []
        for branch in self.branches:
            scan = branch.operator().scan
            per_channel = v.to(scan.skip)[..., None].expand(-1, -1, len(scan.skip))
            parts.append(branch.scale * scan.apply(per_channel).mean(dim=-1))
        return torch.stack(parts).sum(dim=0).to(v.device)

    def mean_pull(self, rho: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return ρ Ā, with Ā the scaled sum over branches of each one's token mixing, averaged over its channels."""
        return torch.stack([branch.scale * branch.mean_pull(rho) for branch in self.branches]).sum(dim=0)


def _with_norm(inner: AffineMap, norm: nn.Module, y: Float[Tensor, "b L F"]) -> AffineMap:
    """Return a mixer's map with the norm of its output; capture compares the result with the norm's own."""
    weight, bias = (weights(getattr(norm, name, None), y.dtype) for name in ("weight", "bias"))
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0
    return normed_map(inner, y, weight, bias, epsilon, centred=isinstance(norm, nn.LayerNorm))


def precision(dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which operators compute for a model of this dtype: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def rebuilt(error: float) -> str:
    """Return a reconstruction error in words."""
    return "not checked" if math.isnan(error) else f"rebuilt to within {error:.0e}"
