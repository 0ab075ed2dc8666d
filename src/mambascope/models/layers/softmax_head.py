"""Softmax attention, for comparison: its matrix has no recurrence."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.models.layers.sequence_layer import Draws, SequenceLayer
from mambascope.operators.softmax_attention import SoftmaxAttention


class SoftmaxHead(SequenceLayer):
    """Causal softmax attention (Vaswani et al., arXiv 1706.03762), by default with one head."""

    def __init__(self, width: int, seed: int = 0, heads: int = 1) -> None:
        super().__init__(width)
        draw, self.heads = Draws(seed), heads
        self.W_q, self.W_k, self.W_v, self.W_o = (draw.linear(width, width) for _ in range(4))

    def keys(self, x: Float[Tensor, "b L E"]) -> tuple[Float[Tensor, "b H L N"], Float[Tensor, "b H L N"]]:
        """Return q, scaled, and k."""
        q, k = (rearrange(x @ W.t(), "b L (h n) -> b h L n", h=self.heads) for W in (self.W_q, self.W_k))
        return q * q.shape[-1] ** -0.5, k

    def run(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return the attention of one target after the other."""
        (q, k), outputs = self.keys(x), []
        v = rearrange(self.values(x), "b L (h p) -> b h L p", h=self.heads)
        for t in range(x.shape[1]):
            weights = torch.einsum("bhn,bhln->bhl", q[:, :, t], k[:, :, : t + 1]).softmax(dim=-1)
            outputs.append(torch.einsum("bhl,bhlp->bhp", weights, v[:, :, : t + 1]).flatten(1))
        return torch.stack(outputs, dim=1)

    def values(self, x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_v x."""
        return x @ self.W_v.t()

    def operator(self, x: Float[Tensor, "b L E"]) -> SoftmaxAttention:
        """Return the probabilities as an operator."""
        q, k = self.keys(x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        p = (q @ k.transpose(-1, -2)).masked_fill(later, -torch.inf).softmax(dim=-1)
        return SoftmaxAttention(p, p.new_zeros(self.width))

    def finish(self, mixed: Float[Tensor, "b L E"], x: Float[Tensor, "b L E"]) -> Float[Tensor, "b L E"]:
        """Return W_o o."""
        return mixed @ self.W_o.t()
