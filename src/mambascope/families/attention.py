"""What mambascope needs to know about a softmax attention layer: where its value and output projections are.

Everything else, from rotary positions to masks and caps, only shapes the probabilities, which the layer returns
with its output when it runs in eager form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families.family import Captured, Kind, is_a, nothing_beside, own_input, unscaled, weights
from mambascope.families.held import Held, nothing_more
from mambascope.families.patch_points import PatchPoint
from mambascope.operators.attention_layer import AttentionLayer, attention_layer


@dataclass(frozen=True, eq=False)
class Projections:
    """The weights of an attention layer that act on tokens, one row of W_V per channel: D = H·P.

    Attributes:
        W_V: Value projection; rows that several heads share are repeated for each head.
        b_V: Its bias, or None.
        W_O: Output projection.
        b_O: Its bias, or None.
    """

    W_V: Float[Tensor, "D E"]
    b_V: Float[Tensor, " D"] | None
    W_O: Float[Tensor, "F D"]
    b_O: Float[Tensor, " F"] | None

    __repr__ = brief


@dataclass(frozen=True)
class AttentionFamily:
    """One family of softmax attention layers.

    Attributes:
        model_type: `config.model_type` in transformers.
        mixer_class: Name of the layer's class; called with hidden states, it returns its output and, in eager form, its
            probabilities.
        module: The module that defines it.
        projections: Given the layer and its number of heads H, returns its weights in the model's precision.
        writer: Given the layer, returns the part of it whose output is y; None if the layer itself returns y.
        attention_function: Name of the module-level function (module, q, k, v, …) -> (output, p) that computes the
            layer in eager form, where the module has it.
        norm_after: Given the layer, returns the norm that is applied after y and the residual stream have been added;
            None for layers without one.
        excludes: Given a layer of this class, returns whether it is something other than self-attention, for example
            cross-attention.
        kind: The kind of mixer.
        scale: Given the enclosing block, returns the factor by which the layer's output is multiplied before it is
            added to the residual stream.
        beside: Given the enclosing block, returns the token-wise parts that run in parallel with the layer: they read
            the block's input and are added to the stream together with it.
        aside: Whether the layer's output does not enter the stream: after token-wise parts it is added to what the next
            mixer reads. Such a layer reads the stream with the embedded tokens beside it, x = norm([h; e]).
        gate: Given the layer and its input, returns the factor per target and channel by which p·V is multiplied
            before W_O; None for layers without a gate.
        source_factor: Given the layer and its input, returns the factor of every source's value; None for 1.
        output_norm: Given the enclosing block, returns the norm that the layer's output passes before it is added to
            the stream, and the part of the block that reads the sum; None where the output is added as it is.
        residual: Given the enclosing block, returns the norm whose output is the stream to which the mixer's output is
            added, and the factor of that stream; None where the stream is the block's own input.
        renews: Whether the stream is multiplied by something on its way through the model, by such a norm or between
            blocks; directions in it are then followed from block to block.
        holds: Given the layer, returns how many numbers per token it holds beyond what its linear maps return and
            its probabilities.
        parts: Names of everything in the layer that `projections` reads, by which a layer of another class is
            recognised (`mambascope.families.recognised`); empty if none shall be.
        found: What a layer of another class was recognised by, in words; empty for the family's own class.
    """

    model_type: str
    mixer_class: str
    module: str
    projections: Callable[[Any, int], Projections]
    writer: Callable[[Any], nn.Module] | None = None
    attention_function: str = "eager_attention_forward"
    norm_after: Callable[[Any], nn.Module] | None = None
    excludes: Callable[[Any], bool] = lambda mixer: bool(getattr(mixer, "is_cross_attention", False))
    kind: Kind = "attention"
    scale: Callable[[Any], float] = unscaled
    beside: Callable[[Any], tuple[nn.Module, ...]] = nothing_beside
    aside: bool = False
    gate: Callable[[Any, Tensor], Tensor] | None = None
    source_factor: Callable[[Any, Tensor], Tensor] | None = None
    output_norm: Callable[[Any], tuple[nn.Module, nn.Module]] | None = None
    residual: Callable[[Any], tuple[nn.Module, float] | None] = own_input
    renews: bool = False
    holds: Callable[[Any], Held] = nothing_more
    parts: tuple[str, ...] = ()
    found: str = ""

    __repr__ = brief

    @property
    def name(self) -> str:
        """Full name of the layer's class."""
        return f"{self.module}.{self.mixer_class}"

    @property
    def attention_point(self) -> PatchPoint:
        """Where probabilities are computed and multiplied with the values."""
        return PatchPoint(self.module, self.attention_function)

    def describes(self, mixer: nn.Module) -> bool:
        """Return whether the layer is self-attention of this family's class or a subclass of it."""
        return is_a(mixer, self.name) and not self.excludes(mixer)

    def post_norm(self, mixer: nn.Module) -> nn.Module | None:
        """Return the norm that is applied after y and the residual stream have been added, or None."""
        return None if self.norm_after is None else self.norm_after(mixer)

    def affine(self, mixer: Any, captured: Captured, dtype: torch.dtype) -> AttentionLayer:
        """Return the layer's affine map (methods section 3)."""
        x, p = captured.x.to(dtype), captured.scan["p"].to(dtype)
        part = self.projections(mixer, p.shape[1])
        W_V, b_V, W_O, b_O = (weights(tensor, dtype) for tensor in (part.W_V, part.b_V, part.W_O, part.b_O))
        gate, factor = (None if form is None else form(mixer, x) for form in (self.gate, self.source_factor))
        return attention_layer(x, p, W_V, b_V, W_O, b_O, gate=gate, source_factor=factor)
