"""MambaVision's attention layers: softmax self-attention within a window."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class MambaVisionAttention(nn.Module):
    """One layer; queries, keys and values come from one projection, as in the released code."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b L E"], Float[Tensor, "b H L L"]]:
        """Return the layer's output and the attention probabilities."""
        q, k, v = rearrange(self.qkv(hidden_states), "b L (k h p) -> k b h L p", k=3, h=self.num_heads)
        p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.proj(rearrange(p @ v, "b h L p -> b L (h p)")), p
