"""What one capture leaves: a record per mixer, in the order in which they ran."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mambascope.brief import one_line, shape_of
from mambascope.errors import InputError
from mambascope.numbering import existing_layer, shown
from mambascope.operators.affine_map import AffineMap
from mambascope.trace.differentiate import Gradients, differentiate, direction
from mambascope.trace.families import Captured, Kind, MixerFamily


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One mixer's record.

    Attributes:
        index: Its number among the model's mixers, from 0.
        name: Its name in the model, as in `named_modules`.
        family: The family that reads it.
        mixer: The module itself; its weights are read when an operator is built, not copied.
        captured: What it consumed and gave.
        scan_error: Relative error of our scan against the model's own on the first tokens; 0 when the model's own ran,
            as it always does for attention.
        reconstruction_error: ‖y - rebuilt y‖ / ‖y‖; NaN when the capture was told not to check.
    """

    index: int
    name: str
    family: MixerFamily
    mixer: nn.Module
    captured: Captured
    scan_error: float
    reconstruction_error: float = float("nan")

    def __repr__(self) -> str:
        kind = f"{type(self.mixer).__name__} of {self.family.model_type}"
        read, error = f"{shape_of(self.captured.x[..., 0])} tokens", _rebuilt(self.reconstruction_error)
        return one_line("LayerRecord", [str(self.index), repr(self.name), kind, read, error])

    @property
    def kind(self) -> Kind:
        """What it mixes tokens with."""
        return self.family.kind

    @property
    def post_norm(self) -> nn.Module | None:
        """The norm that follows once the residual stream has been added to y; None for models that normalise before."""
        return self.family.post_norm(self.mixer)

    def operator(self, dtype: torch.dtype | None = None) -> AffineMap:
        """Return the mixer as an exact affine map, in float32, or float64 if the model or the caller asks for it."""
        with torch.no_grad():
            return self.family.affine(self.mixer, self.captured, dtype or precision(self.captured.y.dtype))


@dataclass(frozen=True, eq=False)
class Trace:
    """One run: a model, what it was called with, what its layers consumed and gave, and what it returned.

    Attributes:
        model: The model.
        inputs: What it was called with.
        layers: A record per token mixer, in the order in which they ran.
        outputs: What the model returned.
        seconds: How long the capture took, its self-check included.
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    layers: tuple[LayerRecord, ...]
    outputs: Any
    seconds: float
    _passes: dict[tuple[str, Any], Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        read = ", then ".join(shape_of(stage.layers[0].captured.x[..., 0]) for stage in self.stages)
        kinds = Counter(record.family.model_type for record in self.layers)
        layers = ", ".join(f"{count} layer{'s' if count > 1 else ''} of {kind}" for kind, count in kinds.items())
        error = max(self.reconstruction_error, default=float("nan"))
        return one_line("Trace", [type(self.outputs).__name__, f"{read} tokens", layers, _rebuilt(error)])

    @property
    def reconstruction_error(self) -> tuple[float, ...]:
        """Relative error with which each layer's output was rebuilt, in the order of `layers`."""
        return tuple(record.reconstruction_error for record in self.layers)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What each layer mixes tokens with."""
        return tuple(record.kind for record in self.layers)

    @property
    def input_ids(self) -> Int[Tensor, "b L"] | None:
        """The tokens, or None when embeddings or pixels were given."""
        return self.inputs.get("input_ids")

    @property
    def attention_mask(self) -> Int[Tensor, "b L"] | None:
        """The padding mask, or None."""
        return self.inputs.get("attention_mask")

    def gradients(self, readout: Callable[[Any], Float[Tensor, " b"]]) -> Gradients:
        """Return the readout's true gradient at the embedded tokens and at every mixer's output, computed once.

        Raises:
            InputError: if the model's weights are quantised.
        """
        return self._once("gradients", readout, lambda: differentiate(self.model, readout, mixers=True, **self.inputs))

    def logit_direction(self, readout: Callable[[Any], Float[Tensor, " b"]]) -> Gradients:
        """Return the residual stream before the final norm and the readout's direction in it, computed once.

        Raises:
            UnsupportedModelError: if the model has no final norm that mambascope can find.
        """
        return self._once("direction", readout, lambda: direction(self.model, readout, **self.inputs))

    def _once(self, kind: str, readout: Hashable, compute: Callable[[], Any]) -> Any:
        """Return what belongs to the readout asked about last; one of each kind is kept, as it may be large."""
        if (kind, readout) not in self._passes:
            for key in [key for key in self._passes if key[0] == kind]:
                del self._passes[key]
            self._passes[kind, readout] = compute()
        return self._passes[kind, readout]

    @property
    def logits(self) -> Float[Tensor, "b *v"] | None:
        """The model's logits, or None for a model without a head."""
        return getattr(self.outputs, "logits", None)

    @property
    def shape(self) -> tuple[int, int]:
        """Batch size and number of tokens.

        Raises:
            InputError: if the model has stages, whose layers read different numbers of tokens.
        """
        found = {tuple(record.captured.x.shape[:2]) for record in self.layers}
        if len(found) > 1:
            numbers = ", ".join(str(stage.shape[1]) for stage in self.stages)
            raise InputError(
                f"the layers of this model read different numbers of tokens ({numbers}); ask about one of its stages "
                f"(trace.stages)"
            )
        ((batch, length),) = found
        return batch, length

    @property
    def stages(self) -> tuple[Trace, ...]:
        """The trace of each run of layers that read the same tokens: one, or the stages of a picture model."""
        runs = itertools.groupby(self.layers, key=lambda record: tuple(record.captured.x.shape[:2]))
        return tuple(dataclasses.replace(self, layers=tuple(records)) for _, records in runs)

    def operator(self, layer: int, dtype: torch.dtype | None = None) -> AffineMap:
        """Return one layer's exact affine map.

        Args:
            layer: Number of the mixer, from 0; negative numbers count from the end.
            dtype: Precision of the mathematics; float32 by default, float64 for float64 models.

        Raises:
            InputError: if there is no such layer.
        """
        return self.layers[self.index(layer)].operator(dtype)

    def index(self, layer: int) -> int:
        """Return the layer's number counted from 0, or raise InputError if there is no such layer."""
        return existing_layer(layer, len(self.layers))


def check_trace(trace: Any) -> None:
    """Raise InputError, which says what to pass, unless this is a trace."""
    if not isinstance(trace, Trace):
        raise InputError(f"a trace is needed, what mambascope.capture(model, …) returned; found {shown(trace)}")


def precision(dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which operators compute for a model of this dtype: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def _rebuilt(error: float) -> str:
    return "not checked" if math.isnan(error) else f"rebuilt to within {error:.0e}"
