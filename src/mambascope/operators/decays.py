"""What is left of a state between two tokens, from the logarithms of the decays between them.

The sum of logarithms up to one token, less the sum up to an earlier one, is the logarithm of what is left. A decay of
exactly zero has the logarithm -∞, of which no difference can be taken, so such tokens are counted apart: between two
tokens with other counts nothing is left. The same holds for a decay that is negligible by itself, which also keeps the
sums small, and with them the rounding of their differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.brief import brief

#: Exponents below which a decay is set to zero, for each of two factors that will be multiplied. e^-32 of a float32
#: number is seven orders of magnitude below its rounding error, and products stay far from the denormal numbers under
#: e^-87, which processors multiply at a tenth of the speed. In float64 the cut is near the end of the range. Exponents
#: are raised to just below the cut before exp takes them, since it needs three times as long for infinity.
NEGLIGIBLE = {torch.float32: -32.0, torch.float64: -340.0}


@dataclass(frozen=True, eq=False)
class Fallen:
    """Sums of log decays from the first token on; the difference of two is the log of what is left between them.

    Attributes:
        sums: Of the decays that are not negligible.
        forgets: How many decays up to each token are zero or negligible; None if none of any token is.
    """

    sums: Float[Tensor, "*s"]
    forgets: Int[Tensor, "*s"] | None = None

    __repr__ = brief

    @classmethod
    def of(cls, fall: Float[Tensor, "*s"], dim: int) -> Fallen:
        """Return the sums of log decays ≤ 0 over the tokens, which are on this axis; minus infinity is allowed."""
        zero = fall < 2 * NEGLIGIBLE[fall.dtype]
        if not zero.any():
            return cls(fall.cumsum(dim))
        return cls(fall.masked_fill(zero, 0).cumsum(dim), zero.cumsum(dim, dtype=torch.int32))

    def __getitem__(self, places: Any) -> Fallen:
        return self._each(lambda part: part[places])

    def __sub__(self, earlier: Fallen) -> Float[Tensor, "*s"]:
        """Return the logarithm of what is left between earlier tokens and these."""
        between = self.sums - earlier.sums
        if self.forgets is None or earlier.forgets is None:
            return between
        return between.masked_fill_(self.forgets != earlier.forgets, -torch.inf)

    @property
    def whole(self) -> Float[Tensor, "*s"]:
        """The logarithm of what is left of a state that was there before the first token."""
        return self.sums if self.forgets is None else self.sums.masked_fill(self.forgets > 0, -torch.inf)

    def before(self) -> Fallen:
        """Return the sums up to the token before, none at the first; tokens are on the last axis but one."""
        return self._each(lambda part: F.pad(part[..., :-1, :], (0, 0, 1, 0)))

    def split(self, size: int, dim: int) -> tuple[Fallen, ...]:
        """Return the sums in parts of this size along an axis."""
        sums = self.sums.split(size, dim)
        forgets = (None,) * len(sums) if self.forgets is None else self.forgets.split(size, dim)
        return tuple(Fallen(*pair) for pair in zip(sums, forgets, strict=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Fallen:
        return Fallen(change(self.sums), None if self.forgets is None else change(self.forgets))


def decay_from(exponent: Float[Tensor, "*s"], factors: int = 1) -> Float[Tensor, "*s"]:
    """Return exp of exponents ≤ 0, exactly zero where the decay is negligible (`NEGLIGIBLE`).

    Args:
        exponent: Exponents; minus infinity gives zero.
        factors: How many such factors will be multiplied together: with two, each is cut earlier.
    """
    cut = 2 * NEGLIGIBLE[exponent.dtype] / factors
    raised = exponent.clamp(min=cut - 1)
    if raised.requires_grad:
        return F.threshold(raised.exp(), math.exp(cut), 0.0)
    return torch.threshold_(raised.exp_(), math.exp(cut), 0.0)


def decay_in_place(exponent: Float[Tensor, "*s"], factors: int = 1) -> Float[Tensor, "*s"]:
    """Write `decay_from` over the exponents and return them; not differentiable."""
    cut = 2 * NEGLIGIBLE[exponent.dtype] / factors
    return torch.threshold_(exponent.clamp_(min=cut - 1).exp_(), math.exp(cut), 0.0)


def finite_rates(A: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return rates of decay with minus infinity as the least number there is: over no time at all it decays nothing.

    Over any other time both give zero, but -∞ times 0 is not a number.
    """
    return A.clamp(min=torch.finfo(A.dtype).min)
