"""What mambascope needs to know about a model family: how its mixer becomes an affine map, where its scan is called.

A mixer whose scan is a function of its module has a `Family`, which answers it; softmax attention has an
`AttentionFamily`; any other mixer, whose coefficients follow from its input and weights, a `PlainFamily`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families.held import Held, nothing_more
from mambascope.families.patch_points import PatchPoint
from mambascope.models.convolutions import causal_convolution
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.token_mixer import TokenMixer

#: The kind of mixer: `scan`, `attention`, `delta`, or a name that a family gives.
Kind = str


@dataclass(frozen=True, eq=False)
class Captured:
    """The inputs, outputs and coefficients of one mixer in one forward pass, in the model's own precision.

    Attributes:
        x: The mixer's input.
        y: The mixer's output.
        scans: For every call of the scan, its tensors, named as in the glossary (`dt` after bias, softplus and clamp;
            tokens second, in the order of the call), and of the only call `gate`, what a norm after it reads as its
            gate, if it reads one; for an attention layer its probabilities `p`, heads second; for a `PlainFamily` with
            `arguments`, these.
        mask: True at real tokens; None when there is no padding, or p itself leaves it out.
        grid: Rows and columns of tokens, if the mixer received them as a grid; else None.
        layer: The number of the layer that the call named, as where several layers share a mixer's weights; else None.
    """

    x: Float[Tensor, "b L E"]
    y: Float[Tensor, "b L F"]
    scans: tuple[dict[str, Tensor], ...]
    mask: Bool[Tensor, "b L"] | None
    grid: tuple[int, int] | None = None
    layer: int | None = None

    __repr__ = brief

    @property
    def scan(self) -> dict[str, Tensor]:
        """The tensors of the only call."""
        (consumed,) = self.scans
        return consumed

    @property
    def like(self) -> Float[Tensor, "b L F"]:
        """A tensor of y's shape and precision, without its values."""
        return self.y.to("meta")

    def whole(self) -> Captured:
        """Return the record with all its parts in memory; itself, unless only the input was kept."""
        return self

    def scans_from_the_end(self) -> Iterator[tuple[slice, dict[str, Tensor]]] | None:
        """Return the tensors of the only call piece by piece, from the last tokens to the first; None if it cannot.

        It can where only the input was kept, and every token's tensors depend on the input at few tokens before it.
        """
        return None

    def laid_out(self, tokens: Float[Tensor, "b L E"]) -> Float[Tensor, "b *places E"]:
        """Return tokens in the shape that the mixer takes: as a grid if it has one."""
        return tokens if self.grid is None else tokens.unflatten(1, self.grid)


@dataclass(frozen=True)
class Reading:
    """One call of a mixer's scan.

    Attributes:
        name: Its name, such as `backwards`.
        order: Given L, returns the number of the token at each place of the call; None if the order depends on more
            than L, and the call passes it as the coefficient `order`.
    """

    name: str
    order: Callable[[int], Tensor] | None

    __repr__ = brief

    def tokens(self, coefficients: dict[str, Tensor]) -> Int[Tensor, " L"]:
        """Return the number of the token at each place of a call with these coefficients."""
        step = coefficients["dt"]
        return (coefficients["order"] if self.order is None else self.order(step.shape[1])).to(step.device)


@dataclass(frozen=True, eq=False)
class ScanCall:
    """One call of a family's scan function, with its arguments named as in the glossary.

    Attributes:
        s: The scan's input.
        coefficients: `dt` (after bias, softplus and clamp), `A`, `B`, `C`, `D`, and `z` where the scan applies the
            gate; tokens second. Also `order`, where the call says in which order it reads them.
        give: Converts a result (b, L, D) to what the caller expects: its layout, with what the function returns beside.
        take: Converts a result of the original function to (b, L, D).
        bias: What the function adds to its result, per channel; None for nothing.
    """

    s: Float[Tensor, "b L D"]
    coefficients: dict[str, Tensor]
    give: Callable[[Tensor], Any]
    take: Callable[[Any], Tensor]
    bias: Float[Tensor, " D"] | None = None

    __repr__ = brief


@runtime_checkable
class MixerFamily(Protocol):
    """What all families have in common."""

    @property
    def model_type(self) -> str:
        """`config.model_type` in transformers."""

    @property
    def mixer_class(self) -> str:
        """Name of the mixer's class."""

    @property
    def name(self) -> str:
        """Full name of that class, by which the family is registered."""

    @property
    def kind(self) -> Kind:
        """The kind of mixer."""

    def describes(self, mixer: nn.Module) -> bool:
        """Return whether the mixer is of this family's class or a subclass of it."""

    def post_norm(self, mixer: nn.Module) -> nn.Module | None:
        """Return the norm that is applied after y and the residual stream have been added, or None."""

    @property
    def scale(self) -> Callable[[Any], float]:
        """Given the enclosing block, returns the factor of the mixer's output in the residual stream."""

    @property
    def beside(self) -> Callable[[Any], tuple[nn.Module, ...]]:
        """Given the enclosing block, returns the token-wise parts that run in parallel with the mixer."""

    @property
    def residual(self) -> Callable[[Any], tuple[nn.Module, float] | None]:
        """Given the enclosing block, returns the norm whose output is the stream to which y is added, and its factor.

        None where the stream is the block's own input.
        """

    @property
    def renews(self) -> bool:
        """Whether the stream is multiplied by something on its way through the model, such as a norm's factor."""

    @property
    def holds(self) -> Callable[[Any], Held]:
        """Given the mixer, returns how many numbers per token it holds beyond what its linear maps return."""

    @property
    def affine(self) -> Callable[[Any, Captured, torch.dtype], AffineMap]:
        """Given the mixer, what was captured from it and a dtype, returns the mixer's affine map."""


def unscaled(block: nn.Module) -> float:
    """Return 1: the mixer's output is added unscaled."""
    return 1.0


def own_input(block: nn.Module) -> None:
    """Return None: the mixer's output is added to the block's own input."""


def nothing_beside(block: nn.Module) -> tuple[nn.Module, ...]:
    """Return no parts: nothing in the block runs in parallel with the mixer."""
    return ()


@dataclass(frozen=True)
class StandIn:
    """What runs under propagation rules in place of a mixer whose convolution and gate are not patch points.

    Attributes:
        family: The family whose patch points it calls.
        mix: Given the mixer and its input, returns the mixer's output.
    """

    family: Family
    mix: Callable[[Any, Tensor], Tensor]

    __repr__ = brief


@dataclass(frozen=True)
class Family:
    """One family of selective-scan mixers.

    Attributes:
        model_type: `config.model_type` in transformers.
        mixer_class: Name of the mixer's class.
        module: The module that defines it and calls the scan.
        scan_function: Name of the module-level scan function that the mixer calls.
        conv_function: Name of the module-level convolution, activation included, that the mixer calls.
        token_axis: The axis of tokens in the tensors of a scan call.
        read: Given the arguments of a scan call, returns them as a `ScanCall`.
        scan: Given the coefficients of a call and a dtype, returns the operator of the scan.
        affine: Given the mixer, what was captured from it and a dtype, returns the mixer's affine map.
        norm_factor: Given the scan's output as it enters the mixer's norm, and the norm, returns the factor that the
            norm applies; None for families whose scan applies the gate and that have no such norm.
        norm_name: Name of that norm in the mixer.
        norm_first: Given the norm, returns whether it comes before the gate, and so reads the output ungated.
        gate_activation: What that norm applies to the gate.
        readings: The calls that a mixer makes of its scan, in order.
        heads: Given the mixer, returns how many calls each of the readings consists of, for channels of their own.
        convolve: Given its input, weight and bias, returns the convolution without its activation.
        gate_function: Name of the module-level product (o, z) -> o ⊙ SiLU(z), for mixers that gate after their scan.
        stand_in: What runs under propagation rules in place of mixers of foreign classes.
        kind: The kind of mixer.
        scale: Given the enclosing block, returns the factor by which the mixer's output is multiplied before it is
            added to the residual stream.
        beside: Given the enclosing block, returns the token-wise parts that run in parallel with the mixer: they read
            the block's input and are added to the stream together with it.
        residual: Given the enclosing block, returns the norm whose output is the stream to which the mixer's output is
            added, and the factor of that stream; None where the stream is the block's own input.
        renews: Whether the stream is multiplied by something on its way through the model, by such a norm or between
            blocks; directions in it are then followed from block to block.
        holds: Given the mixer, returns how many numbers per token its scan holds, beyond what its linear maps return.
        reads_padding: Given the mixer, returns whether its convolution reads anything but zero where padding is masked.
        parts: Names of everything in the mixer that `affine` reads, by which a mixer of another class is recognised
            (`mambascope.families.recognised`); empty if none shall be.
        found: What a mixer of another class was recognised by, in words; empty for the family's own class.
    """

    model_type: str
    mixer_class: str
    module: str
    scan_function: str
    token_axis: int
    read: Callable[..., ScanCall]
    scan: Callable[[dict[str, Tensor], torch.dtype], TokenMixer]
    affine: Callable[[Any, Captured, torch.dtype], AffineMap]
    norm_factor: Callable[[Tensor, Any], Tensor] | None = None
    norm_name: str = "norm"
    norm_first: Callable[[Any], bool] = lambda norm: False
    gate_activation: Callable[[Tensor], Tensor] = F.silu
    conv_function: str = "causal_conv1d_fn"
    readings: tuple[Reading, ...] = (Reading("forwards", torch.arange),)
    heads: Callable[[Any], int] = lambda mixer: 1
    convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor] = causal_convolution
    gate_function: str | None = None
    stand_in: StandIn | None = None
    kind: Kind = "scan"
    scale: Callable[[Any], float] = unscaled
    beside: Callable[[Any], tuple[nn.Module, ...]] = nothing_beside
    residual: Callable[[Any], tuple[nn.Module, float] | None] = own_input
    renews: bool = False
    holds: Callable[[Any], Held] = nothing_more
    reads_padding: Callable[[Any], bool] = lambda mixer: False
    parts: tuple[str, ...] = ()
    found: str = ""

    __repr__ = brief

    @property
    def name(self) -> str:
        """Full name of the mixer's class."""
        return f"{self.module}.{self.mixer_class}"

    def describes(self, mixer: nn.Module) -> bool:
        """Return whether the mixer is of this family's class or a subclass of it."""
        return is_a(mixer, self.name)

    def post_norm(self, mixer: nn.Module) -> None:
        """Return None: these mixers' outputs are added to the residual stream with no norm after it."""

    @property
    def scan_point(self) -> PatchPoint:
        """Where its scan is called."""
        return PatchPoint(self.module, self.scan_function)

    @property
    def conv_point(self) -> PatchPoint:
        """Where its convolution is called."""
        return PatchPoint(self.module, self.conv_function)

    @property
    def gate_point(self) -> PatchPoint | None:
        """Where its gate is called, if not by the scan or a norm."""
        return None if self.gate_function is None else PatchPoint(self.module, self.gate_function)

    @property
    def patch_points(self) -> dict[PatchPoint, Family]:
        """The patch points that propagation rules intercept, with the family that reads each; also the stand-in's."""
        points = {self.scan_point: self}
        points |= {point: self for point in (self.conv_point, self.gate_point) if point is not None and point.exists()}
        return points if self.stand_in is None else points | self.stand_in.family.patch_points


@dataclass(frozen=True)
class PlainFamily:
    """One family of mixers without patch points: their coefficients follow from their input and weights.

    The model's own code runs in every pass, so gradients are those of that code.

    Attributes:
        model_type: `config.model_type` in transformers.
        mixer_class: Name of the mixer's class, which is called with hidden states and returns its output.
        module: The module that defines it.
        kind: The kind of mixer.
        affine: Given the mixer, what was captured (x, y, the mask and, if it has `arguments`, one scan that holds
            them), and a dtype, returns the mixer's affine map.
        scale: Given the enclosing block, returns the factor of the mixer's output in the residual stream.
        beside: Given the enclosing block, returns the token-wise parts that run in parallel with the mixer.
        arguments: Names of the tensors, besides its input, that the mixer is called with by keyword and that its
            coefficients depend on.
        residual: Given the enclosing block, returns the norm whose output is the stream to which the mixer's output is
            added, and the factor of that stream; None where the stream is the block's own input.
        renews: Whether the stream is multiplied by something on its way through the model, by such a norm or between
            blocks; directions in it are then followed from block to block.
        holds: Given the mixer, returns how many numbers per token it holds beyond what its linear maps return.
        unshare: Given a private copy of a model and a mixer in it, gives the mixer tensors of its own where the model's
            code would change them in place; None if it changes none.
        constants: Names of the mixer's buffers that its class computes from the configuration when a file lacks them.
    """

    model_type: str
    mixer_class: str
    module: str
    kind: Kind
    affine: Callable[[Any, Captured, torch.dtype], AffineMap]
    scale: Callable[[Any], float] = unscaled
    beside: Callable[[Any], tuple[nn.Module, ...]] = nothing_beside
    arguments: tuple[str, ...] = ()
    residual: Callable[[Any], tuple[nn.Module, float] | None] = own_input
    renews: bool = False
    holds: Callable[[Any], Held] = nothing_more
    unshare: Callable[[nn.Module, Any], None] | None = None
    constants: tuple[str, ...] = ()

    __repr__ = brief

    @property
    def name(self) -> str:
        """Full name of the mixer's class."""
        return f"{self.module}.{self.mixer_class}"

    def describes(self, mixer: nn.Module) -> bool:
        """Return whether the mixer is of this family's class or a subclass of it."""
        return is_a(mixer, self.name)

    def post_norm(self, mixer: nn.Module) -> None:
        """Return None: these mixers' outputs are added to the residual stream with no norm after it."""


def found_by(family: MixerFamily) -> str:
    """Return by what a mixer of another class was recognised as one of this family; empty if the family names it."""
    return getattr(family, "found", "")


def is_a(mixer: nn.Module, name: str) -> bool:
    """Return whether a mixer's class, or a base of it, has this full name."""
    return any(f"{base.__module__}.{base.__name__}" == name for base in type(mixer).__mro__)


def weights(parameter: Tensor | None, dtype: torch.dtype, part: slice = slice(None)) -> Any:
    """Return (part of) a parameter in the operators' precision, detached from the graph; None stays None."""
    return None if parameter is None else parameter.detach()[part].to(dtype)


def bias_enters(projection: Any, convolution: Any, rows: slice) -> bool:
    """Return whether a bias of a projection, in these rows, is read by a convolution of more than one tap."""
    bias = projection.bias
    return bias is not None and convolution.weight.shape[-1] > 1 and bool(bias.detach()[rows].any())
