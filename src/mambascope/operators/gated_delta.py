"""The gated delta rule as a lower-triangular matrix per head, never held whole (Gated DeltaNet [8], Kimi Linear [9]).

Each token first removes from the state what its key held, then writes its value there:

    S_t = (I - β_t k_t k_tᵀ) diag(a_t) S_{t-1} + β_t k_t v_tᵀ ,     o_t = S_tᵀ q_t

With q, k, β and a frozen, o = M v exactly, where M is one triangular solve (a per head):

    M = (tril(Q Kᵀ) ∘ Γ) · (I + tril(diag(β) K Kᵀ ∘ Γ, -1))⁻¹ · diag(β) ,     Γ_ij = Π_{t=j+1}^i a_t

The matrix is cut into chunks of tokens (`mambascope.operators.delta_chunks`, `mambascope.operators.chunked_state`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.chunked_state import ChunkedState, StateChunks
from mambascope.operators.delta_chunks import delta_chunks
from mambascope.operators.recurrence import decay_from, one_hot


@dataclass(frozen=True, eq=False)
class GatedDeltaRule(ChunkedState):
    """The data-dependent coefficients of one gated delta rule, frozen at the values of a forward pass.

    Attributes:
        q: Read vectors, normalised and scaled; consecutive value heads share those of a group.
        k: Keys, normalised.
        beta: β, how much of a key's old value is replaced by the new one.
        decay: log a ≤ 0, one per head (n = 1) or one per key channel (n = N).
        skip: Zero for every channel: a token reaches its own output through the state alone.
    """

    q: Float[Tensor, "b L G N"]
    k: Float[Tensor, "b L G N"]
    beta: Float[Tensor, "b L H"]
    decay: Float[Tensor, "b L H n"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per value head."""
        return self.beta.shape[2]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.beta.shape[1]

    @property
    def state_size(self) -> int:
        """N, the state size per channel."""
        return self.k.shape[-1]

    @cached_property
    def chunks(self) -> StateChunks:
        """What every chunk of tokens does to the state."""
        return delta_chunks(self.q, self.k, self.beta, self.decay)

    def recalled(self) -> Float[Tensor, "b L H N"]:
        """Return a_i ∘ (q_i - β_i (q_i · k_i) k_i); see `Stepwise`."""
        q, k = (self._of_heads(part) for part in (self.q, self.k))
        return decay_from(self.decay) * (q - self.immediate()[..., None] * k)

    def immediate(self) -> Float[Tensor, "b L H"]:
        """Return alpha_ii = β_i (q_i · k_i)."""
        return self.beta * self._of_heads((self.q * self.k).sum(dim=-1))

    def _of_heads(self, groups: Float[Tensor, "b L G *n"]) -> Float[Tensor, "b L H *n"]:
        """Return what the heads of every group share, head by head."""
        return groups.repeat_interleave(self.maps // groups.shape[2], dim=2)

    def reading(self, number: int) -> GatedDeltaRule:
        """Return the rule that reads one number of every channel's state, in place of q."""
        return replace(self, q=one_hot(self.q, number))
