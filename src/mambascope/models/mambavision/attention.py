"""MambaVision's attention layers: softmax self-attention within a window."""

from __future__ import annotations

from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def eager_attention_forward(
    module: nn.Module,
    query: Float[Tensor, "b H L P"],
    key: Float[Tensor, "b H L P"],
    value: Float[Tensor, "b H L P"],
    attention_mask: None = None,
    **_: Any,
) -> tuple[Float[Tensor, "b L H P"], Float[Tensor, "b H L L"]]:
    """Return the values mixed by softmax attention, tokens before heads, and its probabilities.

    A function of the module, with the arguments of transformers' own, so that its calls can be intercepted.
    """
    p = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    return (p @ value).transpose(1, 2), p


class MambaVisionAttention(nn.Module):
    """One layer; queries, keys and values come from one projection, as in the released code."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L E"], Float[Tensor, "b H L L"]]:
        """Return the layer's output and the attention probabilities."""
        q, k, v = rearrange(self.qkv(hidden_states), "b L (k h p) -> k b h L p", k=3, h=self.num_heads)
        mixed, p = eager_attention_forward(self, q, k, v, None)
        return self.proj(rearrange(mixed, "b L h p -> b L (h p)")), p
