"""Ask a layer for its matrices at inputs of one's choice: by its operator, within its model, or by its Jacobian."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.memory import require_room
from mambascope.numbering import whole_number
from mambascope.operators.grid_convolution import GridConvolution
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import Trace, capture

#: Rows of a Jacobian that are worked out at most: each costs a backward pass.
ROWS = 4096


#: Tokens that a short convolution may reach to either side of a line; what is changed "far away" is farther than this.
REACH = 4


@dataclass(frozen=True)
class Places:
    """Where tokens lie: in a line, or row by row on a grid, as neighbours of convolutions do.

    Attributes:
        rows, columns: The grid's; a line has one row.
        reach: How many tokens a convolution may reach, to all sides.
    """

    rows: int
    columns: int
    reach: int = REACH

    def require_room(self) -> None:
        """Raise InputError if no token is far from two others."""
        if self.rows == 1 and self.columns < 4 * self.reach + 2:
            raise InputError(
                f"{self.columns} tokens leave none far from both i and j; ask for {4 * self.reach + 2} or more"
            )
        if self.rows > 1 and self.rows < 3 * self.reach + 3:
            raise InputError(
                f"{self.rows} rows of tokens leave none far from both i and j; {3 * self.reach + 3} or more would"
            )

    def near(self, place: int, reach: int) -> Bool[Tensor, " L"]:
        """Return which tokens are within reach of a place, on all sides."""
        every = torch.arange(self.rows * self.columns)
        down, right = every // self.columns - place // self.columns, every % self.columns - place % self.columns
        return torch.maximum(down.abs(), right.abs()) <= reach

    def pairs(self, reach: int) -> tuple[tuple[int, int], ...]:
        """Return targets and sources before them that are as close as tokens out of reach of each other can be."""
        gap = 2 * reach + 2
        step = 1 if self.rows == 1 else self.columns
        inset = reach if self.rows == 1 else reach * (self.columns + 1)
        last = self.rows * self.columns - 1
        targets = (last, last - inset, gap * step + inset)
        return tuple((target, target - gap * step) for target in targets)


class Probe(ABC):
    """A layer that can be asked for its matrices."""

    def places(self, length: int) -> Places:
        """Return where the tokens lie that the layer reads, of which there are as many as asked for if it can."""
        return Places(1, length)

    @abstractmethod
    def draw(self, count: int, length: int, generator: torch.Generator) -> Float[Tensor, "b L D"]:
        """Return random inputs like those that the layer reads."""

    @abstractmethod
    def matrices(self, x: Float[Tensor, "b L D"]) -> Float[Tensor, "b M t c"]:
        """Return α at every input, in float64; of a Jacobian, a map for every pair of channels."""

    @abstractmethod
    def pair(self, x: Float[Tensor, "b L D"], i: int, j: int) -> Float[Tensor, "b M p p"]:
        """Return α_ij at every input, as matrices: 1 x 1 of each map, or D x D of a Jacobian."""


def probe_of(layer: object, *, width: int | None, number: int | None, length: int) -> Probe:
    """Return the probe that suits a layer; see `classify`."""
    if isinstance(layer, Trace):
        return InModel(layer, 0 if number is None else whole_number(number, "number"))
    if number is not None:
        raise InputError("number names a layer of a trace; pass the trace")
    if not isinstance(layer, nn.Module):
        raise InputError(f"cannot classify a {type(layer).__name__}: pass a module, a trace or an operator")
    width = getattr(layer, "width", None) if width is None else whole_number(width, "width")
    if not isinstance(width, int) or width < 1:
        raise InputError(f"pass width=D, the number of channels that {type(layer).__name__} reads")
    return ByOperator(layer, width) if callable(getattr(layer, "mixer", None)) else ByJacobian(layer, width, length)


def whole_matrices(mixer: TokenMixer) -> Float[Tensor, "b M L L"]:
    """Return the matrices of every map, whole, in float64."""
    length = max(block.rows.stop for block in mixer.blocks())
    corner = mixer.tile(slice(0, 1), slice(0, 1)).double()
    require_room((len(corner), mixer.maps, length, length), corner, "choose a layer of fewer maps, or fewer tokens")
    return mixer.tile(slice(0, length), slice(0, length)).double()


class ByOperator(Probe):
    """A reference layer, which gives its operator at any input."""

    def __init__(self, layer: Any, width: int) -> None:
        self.layer, self.width = layer, width
        self.dtype = _dtype_of(layer)

    def draw(self, count: int, length: int, generator: torch.Generator) -> Float[Tensor, "b L D"]:
        """Return tokens from N(0, 1)."""
        return torch.randn(count, length, self.width, generator=generator, dtype=torch.float64).to(self.dtype)

    @torch.no_grad()
    def matrices(self, x: Float[Tensor, "b L D"]) -> Float[Tensor, "b M L L"]:
        """Return the operator's matrices."""
        return whole_matrices(self.layer.mixer(x)).expand(len(x), -1, -1, -1)

    def pair(self, x: Float[Tensor, "b L D"], i: int, j: int) -> Float[Tensor, "b M 1 1"]:
        """Return the entries of one pair."""
        return self.matrices(x)[:, :, i : i + 1, j : j + 1]


class InModel(Probe):
    """A layer of a model that a trace has run: the model runs again, and the layer reads what the probe gives it."""

    def __init__(self, trace: Trace, number: int) -> None:
        self.trace, self.number = trace, trace.index(number)
        self.branch = trace.layers[self.number].branch
        self.read = next((name for name in ("input_ids", "pixel_values") if name in trace.inputs), "")
        if not self.read:
            raise UnsupportedModelError(
                "only layers of models that read text or pictures can be classified within their model"
            )

    def places(self, length: int) -> Places:
        """Return the line of tokens of a text, or where patches lie for the layer's convolution."""
        if self.read == "input_ids":
            return Places(1, length)
        convolution = getattr(self.branch.operator(), "convolution", None)
        if not isinstance(convolution, GridConvolution):
            return Places(1, self.branch.captured.x.shape[1])
        reach = max(max(abs(down), abs(right)) for down, right in convolution.steps)
        one_row = convolution.rows == 1
        return Places(convolution.rows, convolution.columns, max(reach, REACH) if one_row else reach)

    def draw(self, count: int, length: int, generator: torch.Generator) -> Float[Tensor, "b L D"]:
        """Return tokens that are distributed, channel by channel, as those that the layer read in the trace."""
        read = self.branch.captured.x.double().flatten(0, 1)
        noise = torch.randn(count, length, read.shape[-1], generator=generator, dtype=torch.float64)
        x = read.mean(dim=0) + noise * read.std(dim=0, correction=0).clamp_min(1e-3 * read.abs().max())
        return x.to(self.branch.captured.x.dtype)

    def matrices(self, x: Float[Tensor, "b L D"]) -> Float[Tensor, "b M L L"]:
        """Return the matrices of the layer's operator when it reads x."""
        given = self.trace.inputs[self.read][:1]
        given = given[:, :1].expand(*x.shape[:2]) if self.read == "input_ids" else given.expand(len(x), -1, -1, -1)
        handle = self.trace.model.get_submodule(self.branch.name).register_forward_pre_hook(
            lambda _, args, kwargs: _reading(x, args, kwargs), with_kwargs=True, prepend=True
        )
        try:
            again = capture(self.trace.model, **{self.read: given})
        finally:
            handle.remove()
        branch = again.layers[self.number].branch
        windows = len(branch.captured.x) // len(x)  # of a picture, each of which reads the same
        with torch.no_grad():
            return whole_matrices(branch.operator(torch.float64).scan)[::windows]

    def pair(self, x: Float[Tensor, "b L D"], i: int, j: int) -> Float[Tensor, "b M 1 1"]:
        """Return the entries of one pair."""
        return self.matrices(x)[:, :, i : i + 1, j : j + 1]


def _reading(x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a mixer's arguments with what it reads replaced, in every window alike, and in its own shape."""
    read = args[0] if args else kwargs["hidden_states"]
    x = x.repeat_interleave(len(read) // len(x), dim=0).reshape(read.shape)
    return ((x, *args[1:]), dict(kwargs)) if args else (args, {**kwargs, "hidden_states": x})


class ByJacobian(Probe):
    """Any module that maps (b, L, D) to (b, L, D)."""

    def __init__(self, layer: nn.Module, width: int, length: int) -> None:
        self.layer, self.width, self.dtype = layer, width, _dtype_of(layer)
        if width * length > ROWS:
            raise InputError(
                f"the Jacobian of {length} tokens of width {width} has {width * length} rows, more than {ROWS}; pass a "
                "narrower layer or a smaller length"
            )

    def draw(self, count: int, length: int, generator: torch.Generator) -> Float[Tensor, "b L D"]:
        """Return tokens from N(0, 1)."""
        return torch.randn(count, length, self.width, generator=generator, dtype=torch.float64).to(self.dtype)

    def matrices(self, x: Float[Tensor, "b L D"]) -> Float[Tensor, "b D*D L L"]:
        """Return the Jacobian at every input, one map for every pair of channels."""
        everything = [self._rows(one, slice(0, one.shape[0])) for one in x]
        return torch.stack([rearrange(one, "i p j q -> (p q) i j") for one in everything])

    def pair(self, x: Float[Tensor, "b L D"], i: int, j: int) -> Float[Tensor, "b 1 D D"]:
        """Return ∂y_i/∂x_j at every input."""
        return torch.stack([self._rows(one, slice(i, i + 1))[:, :, j] for one in x])

    def _rows(self, x: Float[Tensor, "L D"], targets: slice) -> Float[Tensor, "t D L D"]:
        """Return the Jacobian of some targets."""

        def outputs(given: Tensor) -> Tensor:
            found = self.layer(given[None])
            if not isinstance(found, Tensor) or found.shape != (1, *x.shape):
                raise InputError(f"{type(self.layer).__name__} must map (b, L, D) to (b, L, D)")
            return found[0, targets]

        found: Tensor = torch.autograd.functional.jacobian(outputs, x)
        return found.double()


def _dtype_of(layer: nn.Module) -> torch.dtype:
    """Return the precision of a module's weights; float64 if it has none."""
    return next((one.dtype for one in layer.parameters() if one.is_floating_point()), torch.float64)
