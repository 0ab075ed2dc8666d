"""What mambascope needs to know of a softmax attention layer: where its value and output projections are.

Everything else, from rotary positions to masks and caps, only shapes the probabilities, and the layer returns those
beside its output when it runs in its eager form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families.family import Captured, Kind, is_a, nothing_beside, unscaled, weights
from mambascope.operators.attention_layer import AttentionLayer, attention_layer


@dataclass(frozen=True, eq=False)
class Projections:
    """The weights of an attention layer that act on tokens, one row of W_V per channel: D = H·P.

    Attributes:
        W_V: Value projection; the rows of a head that shares its values with others are repeated for each.
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
        mixer_class: Name of the layer's class; called with hidden states, it returns its output and, when it runs in
            its eager form, its probabilities.
        module: The module that defines it.
        projections: Given the layer and its number of heads H, returns its weights in the model's precision.
        writer: Given the layer, returns the part of it whose output is y; None if the layer gives y itself.
        norm_after: Given the layer, returns the norm that follows once the residual stream has been added to y; None
            for layers that write into the stream without one.
        excludes: Whether a layer of this class is not a mixer of its own tokens, such as cross-attention.
        kind: What it mixes tokens with.
        scale: Given the block that the layer stands in, returns what its output is multiplied by in the stream.
        beside: Given the block, returns its token-wise parts that read what entered and are added with the layer.
    """

    model_type: str
    mixer_class: str
    module: str
    projections: Callable[[Any, int], Projections]
    writer: Callable[[Any], nn.Module] | None = None
    norm_after: Callable[[Any], nn.Module] | None = None
    excludes: Callable[[Any], bool] = lambda mixer: bool(getattr(mixer, "is_cross_attention", False))
    kind: Kind = "attention"
    scale: Callable[[Any], float] = unscaled
    beside: Callable[[Any], tuple[nn.Module, ...]] = nothing_beside

    __repr__ = brief

    @property
    def name(self) -> str:
        """Full name of the layer's class."""
        return f"{self.module}.{self.mixer_class}"

    def describes(self, mixer: nn.Module) -> bool:
        """Return whether this family's file knows the layer's class (or a base of it)."""
        return is_a(mixer, self.name) and not self.excludes(mixer)

    def post_norm(self, mixer: nn.Module) -> nn.Module | None:
        """Return the norm that follows once the residual stream has been added to y, or None."""
        return None if self.norm_after is None else self.norm_after(mixer)

    def affine(self, mixer: Any, captured: Captured, dtype: torch.dtype) -> AttentionLayer:
        """Return the layer's affine map (methods section 3)."""
        p = captured.scan["p"].to(dtype)
        part = self.projections(mixer, p.shape[1])
        W_V, b_V, W_O, b_O = (weights(tensor, dtype) for tensor in (part.W_V, part.b_V, part.W_O, part.b_O))
        return attention_layer(captured.x.to(dtype), p, W_V, b_V, W_O, b_O)
