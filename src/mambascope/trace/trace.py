"""The result of a capture: one run of a model, and the blocks it went through."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mambascope.brief import one_line, shape_of
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import Kind, found_by
from mambascope.numbering import existing_layer, shown
from mambascope.operators.affine_map import AffineMap
from mambascope.trace.block import Block, Branch, rebuilt
from mambascope.trace.calls import Call
from mambascope.trace.differentiate import Gradients, differentiate
from mambascope.trace.directions import logit_direction
from mambascope.trace.missing import Missing, told


@dataclass(frozen=True, eq=False)
class Trace:
    """One run: a model, its inputs, its layers' inputs and outputs, and what it returned.

    Attributes:
        model: The model that was given, or the one inside the wrappers that were given; if there are adapters in it, a
            plain copy with their weights merged.
        inputs: The arguments it was called with.
        layers: The blocks that the run went through, in order. An attention layer whose output enters another mixer but
            not the stream (Zamba's) is a layer of its own, before the one that it feeds.
        outputs: What the model returned.
        seconds: How long the capture took, including its self-check.
        calls: What every mixer, and every module that holds one, was called with, by its name in the model; empty if
            the mixers' inputs alone were kept.
        missing: Parts that mix tokens and have no map here; empty unless the capture was asked to leave such parts out.
        caution: Why this run is not what the texts give by themselves, as a sentence: padding before a text that the
            model's own code lets change it. Empty if no reason is known.
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    layers: tuple[Block, ...]
    outputs: Any
    seconds: float
    calls: Mapping[str, Sequence[Call]] = field(default_factory=dict, repr=False)
    missing: tuple[Missing, ...] = ()
    caution: str = ""
    _passes: dict[str, tuple[Mapping[str, Any], Hashable, Any]] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        read = ", then ".join(shape_of(stage.layers[0].x[..., 0]) for stage in self.stages)
        kinds = Counter(" + ".join(branch.family.model_type for branch in block.branches) for block in self.layers)
        layers = ", ".join(f"{count} layer{'s' if count > 1 else ''} of {kind}" for kind, count in kinds.items())
        error = max(self.reconstruction_error, default=float("nan"))
        care = ["changed by padding"] if self.caution else []
        return one_line("Trace", [type(self.outputs).__name__, f"{read} tokens", layers, rebuilt(error), *care])

    @property
    def reconstruction_error(self) -> tuple[float, ...]:
        """Relative error with which each layer's output was rebuilt, in the order of `layers`."""
        return tuple(block.reconstruction_error for block in self.layers)

    @property
    def updates(self) -> tuple[Block, ...]:
        """The layers that update the residual stream, in order: all but those that only feed another one's mixer."""
        return tuple(block for block in self.layers if not block.aside)

    def number_of(self, block: Block) -> int:
        """Return the place of a block in `layers`."""
        return self.layers.index(block)

    @property
    def device(self) -> torch.device:
        """The first layer's device, on which what several layers gave is put together, wherever the others are."""
        return self.layers[0].x.device

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Every mixer of the run, block by block."""
        return tuple(branch for block in self.layers for branch in block.branches)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of mixer in its layers."""
        return frozenset(branch.kind for branch in self.branches)

    @property
    def input_ids(self) -> Int[Tensor, "b L"] | None:
        """The token ids, or None if embeddings or pixels were given."""
        return self.inputs.get("input_ids")

    @property
    def attention_mask(self) -> Shaped[Tensor, "b L"] | None:
        """The padding mask, zero at padding, or None."""
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
        return self._once("logit_direction", readout, lambda: logit_direction(self.model, readout, **self.inputs))

    def _once(self, kind: str, readout: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the result for this readout; only the last result of each kind is kept, since it may be large.

        A trace made from this one with other inputs computes its own.
        """
        held = self._passes.get(kind)
        if held is None or held[0] is not self.inputs or held[1] != readout:
            held = self._passes[kind] = (self.inputs, readout, compute())
        return held[2]

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
        found = {tuple(block.x.shape[:2]) for block in self.layers}
        if len(found) > 1:
            numbers = ", ".join(str(stage.shape[1]) for stage in self.stages)
            raise InputError(
                f"the layers of this model read different numbers of tokens ({numbers}); use one of its stages "
                f"(trace.stages)"
            )
        ((batch, length),) = found
        return batch, length

    @property
    def stages(self) -> tuple[Trace, ...]:
        """The trace of each run of layers that read the same tokens: one, or the stages of a picture model."""
        runs = itertools.groupby(self.layers, key=lambda block: tuple(block.x.shape[:2]))
        return tuple(dataclasses.replace(self, layers=tuple(blocks)) for _, blocks in runs)

    def calls_of(self, name: str) -> Sequence[Call]:
        """Return what a mixer, or a module that holds one, was called with, call by call.

        Raises:
            UnsupportedModelError: if the capture did not keep it.
        """
        if name not in self.calls:
            raise UnsupportedModelError(
                f"{name} must run again as it ran, but this capture kept the mixers' inputs alone; capture with "
                'keep="all"'
            )
        return self.calls[name]

    def operator(self, layer: int, dtype: torch.dtype | None = None) -> AffineMap:
        """Return one layer's exact affine map.

        Args:
            layer: Number of the block, from 0; negative numbers count from the end.
            dtype: Precision of the computation; by default float32, float64 for float64 models.

        Raises:
            InputError: if there is no such layer, or the precision is no floating-point type.
        """
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"dtype must be a floating-point type such as torch.float64, found {shown(dtype)}")
        return self.layers[self.index(layer)].operator(dtype)

    def index(self, layer: int) -> int:
        """Return the layer's number counted from 0, or raise InputError if there is no such layer."""
        return existing_layer(layer, len(self.layers))


def check_whole(trace: Trace, method: str) -> None:
    """Raise UnsupportedModelError if a method that goes through the whole model would go wrong in a trace.

    So it would if mixers are missing; or if a mixer was recognised by its structure, and its block does with its output
    something that no family describes.
    """
    if trace.missing:
        raise UnsupportedModelError(
            f"{method} goes through the whole model, but this trace lacks mixers that mambascope cannot read: "
            f"{told(trace.missing)}; methods that score one layer read the others"
        )
    for block in trace.layers:
        strange = [branch for branch in block.branches if found_by(branch.family)]
        if strange and not block.trusted:
            raise UnsupportedModelError(
                f"{method} goes through the whole model, but no family describes what {block.name} does with the "
                f"output of {strange[0].name} ({type(strange[0].mixer).__name__}): added to the stream, it differs "
                f"from the stream after it by {block.stream_error:.1e}; methods that score one layer can read it"
            )


def check_trace(trace: Any) -> None:
    """Raise InputError, saying what to pass instead, unless this is a trace."""
    if not isinstance(trace, Trace):
        raise InputError(f"pass a trace, as returned by mambascope.capture(model, …); found {shown(trace)}")
