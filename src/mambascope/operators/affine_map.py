"""What methods ask of a whole token-mixing layer, whatever mixes its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mambascope.operators.affine import Rule
from mambascope.operators.blocks import Block
from mambascope.operators.token_mixer import TokenMixer


@runtime_checkable
class AffineMap(Protocol):
    """A layer as the exact affine map of its input tokens, y_i = Σ_j T_ij(x_j) + β_i.

    `mambascope.operators.affine.AffineMixer` says what each part means.
    """

    @property
    def x(self) -> Float[Tensor, "b L E"]:
        """The layer's input."""

    @property
    def scan(self) -> TokenMixer:
        """The token mixing itself."""

    @property
    def conv(self) -> Float[Tensor, "D K"]:
        """Convolution taps."""

    @property
    def W_o(self) -> Float[Tensor, "F D"]:
        """Output projection."""

    @property
    def b_o(self) -> Float[Tensor, " F"] | None:
        """Its bias, or None."""

    @property
    def length(self) -> int:
        """L, the number of tokens."""

    @property
    def taps(self) -> int:
        """K, the number of convolution taps."""

    def output(self) -> Float[Tensor, "b L F"]:
        """Return y."""

    def bias(self, rule: Rule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target."""

    def residual(self, rule: Rule) -> float:
        """Return ‖y - Σ T - β‖ / ‖y‖ under a rule."""

    def contributions(self, target: int, rule: Rule = "secant") -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return T_ij(x_j) of one target for every source, and its bias."""

    def pull(self, q: Float[Tensor, "b L F"], rule: Rule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source."""

    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean implicit attention."""

    def contribution_tiles(self, rule: Rule = "secant") -> Iterator[tuple[Block, Float[Tensor, "b F t c"]]]:
        """Yield T for every block of pairs."""

    def implicit_tiles(self) -> Iterator[tuple[Block, Float[Tensor, "b D t c"]]]:
        """Yield the implicit attention per channel for every block of pairs."""

    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of the mean implicit attention, for the sources that the target sees."""

    def implicit_mean(self) -> Float[Tensor, "b L L"]:
        """Return the mean implicit attention."""

    def seen(self, target: int) -> slice:
        """Return the sources that a target may draw from."""
