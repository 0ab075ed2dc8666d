"""What the affine map of a layer needs of its token mixing; each scan is one file that provides these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mambascope.operators.blocks import Block, Places, Workspace


@runtime_checkable
class TokenMixer(Protocol):
    """A matrix alpha per map, acting on channels; a map may serve several channels.

    The matrices of scans are lower-triangular. Targets may see their future in softmax attention, whose products cost
    O(L²), its matrix having no shorter form, and where scans run over the tokens in several orders.
    """

    @property
    def skip(self) -> Float[Tensor, " D"]:
        """D, the direct path per channel."""

    @property
    def maps(self) -> int:
        """Number of distinct matrices."""

    @property
    def state_size(self) -> int:
        """N, the numbers of state."""

    @property
    def causal(self) -> bool:
        """Whether alpha is lower-triangular: no target draws from its future."""

    def channels(self, maps: Float[Tensor, "b M *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-map values."""

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield blocks that hold every pair once, for a convolution of that many taps.

        Every pair j ≤ i if the mixer is causal, else every pair there is.
        """

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v in time linear in L."""

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha in time linear in L."""

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels in time linear in L: what weights on targets owe sources."""

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero at pairs of the future."""

    def mix(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b D t c"]:
        """Return Σ_δ gate_i alpha_i,j+δ taps_jδ per channel for one block: what j gives to i through the convolution.

        Args:
            block: Targets and sources.
            taps: What source j writes at position j+δ, zero beyond the end; None means 1 at δ = 0.
            gate: A factor per target, 1 by default.
            workspace: Buffers; the answer lives in one and lasts until the next call.
        """

    def mean(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b t c"]:
        """Return `mix` averaged over channels."""
