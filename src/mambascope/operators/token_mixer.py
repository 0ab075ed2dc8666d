"""What a layer's affine map needs from its token mixing; each kind of mixing is one file that provides it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mambascope.operators.blocks import Block, Places, Workspace


@runtime_checkable
class TokenMixer(Protocol):
    """A matrix alpha per map, acting on channels; a map may serve several channels.

    The matrices of scans are lower-triangular. Targets may see later tokens in softmax attention and where scans read
    the tokens in several orders. Attention's matrix has no shorter form, so its products cost O(L²).
    """

    @property
    def skip(self) -> Float[Tensor, " D"]:
        """D, the direct path per channel."""

    @property
    def maps(self) -> int:
        """Number of distinct matrices."""

    @property
    def state_size(self) -> int:
        """N, the state size."""

    @property
    def causal(self) -> bool:
        """Whether alpha is lower-triangular: no target depends on later tokens."""

    def channels(self, maps: Float[Tensor, "b M *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-map values."""

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield blocks that hold every pair exactly once (if causal, every pair j ≤ i), for a convolution of K taps."""

    def mean_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield blocks of the same pairs that suit `mean`: as large as the memory that it takes should be."""

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v in time linear in L."""

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha in time linear in L."""

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels in time linear in L."""

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources; zero at future pairs of a causal mixer."""

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


@runtime_checkable
class Recurrent(TokenMixer, Protocol):
    """A token mixer whose targets read a state of fixed size, N numbers per channel."""

    def reading(self, number: int) -> TokenMixer:
        """Return the mixer that reads one number of every channel's state, so that its outputs are that number."""


@runtime_checkable
class Carried(TokenMixer, Protocol):
    """A token mixer that can go on from a state, so that a text can be run piece by piece.

    The state after a piece enters the next one. In the transpose, what leaves a piece at its start is the gradient at
    the state that entered it, and goes on to the piece before. States have a text per row and any axes after it.
    """

    def forwards(
        self, v: Float[Tensor, "b L D"], before: Float[Tensor, "b *state"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b *state"]]:
        """Return alpha v plus what the state before the piece gives, and the state after it; None is zero."""

    def backwards(
        self, v: Float[Tensor, "b L D"], after: Float[Tensor, "b *state"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b *state"]]:
        """Return vᵀ alpha plus what a gradient at the state after the piece gives, and that at the state before it."""


@runtime_checkable
class Fading(Carried, Protocol):
    """A carried scan whose states fade number by number, whatever is written to them."""

    def left(self, before: Float[Tensor, "n *state"]) -> Float[Tensor, "n *state"]:
        """Return what is left after a piece of one text of some states before it, to which nothing is added."""


@runtime_checkable
class Stepwise(TokenMixer, Protocol):
    """A token mixer that can be run one token further, from the state that the tokens before it have left.

    With w_j what source j has written to the state before target i, per unit of its value, and r_i what the target
    reads of that state, alpha_ij = Σ_n r_i[n] w_j[n] for j < i; alpha_ii stands by itself. The state is
    Σ_j w_j v_j, with a row of N numbers for every channel of a map.
    """

    def written(self, sources: slice) -> Float[Tensor, "b M c N"]:
        """Return what some sources have written to the state as the last token leaves it, per unit of their values."""

    def recalled(self) -> Float[Tensor, "b L M N"]:
        """Return what every token reads of the state that the token before it has left."""

    def immediate(self) -> Float[Tensor, "b L M"]:
        """Return alpha_ii, what every token reads of its own value; without D."""
