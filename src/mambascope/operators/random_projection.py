"""Lengths of vectors from a few random directions, and how far off they may be.

Let Q be k orthonormal rows that span a uniformly random subspace of R^F, and S = sqrt(F/k) Q. For any v that does not
depend on S, (k/F) ‖S v‖² / ‖v‖² has the Beta distribution of k/2 and (F-k)/2, so ‖S v‖² is an unbiased estimate of
‖v‖², better than one from k Gaussian rows, and exact at k = F. Its tails (Dasgupta & Gupta 2003, lemma 2.2):

    P(‖S v‖² ≤ β ‖v‖²) for β < 1, P(‖S v‖² ≥ β ‖v‖²) for β > 1   ≤   β^(k/2) (1 + (1-β) k/(F-k))^((F-k)/2)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

#: Halvings of an interval until it has one number of float64.
HALVINGS = 64


def random_projection(rows: int, width: int, seed: int) -> Float[Tensor, "k F"]:
    """Return S for vectors of this width, in float64 on the CPU: `rows` directions, fewer than the width."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, rows, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(drawn).Q.t() * math.sqrt(width / rows)


def length_error(rows: int, width: int) -> float:
    """Return the root mean square of ‖S v‖ / ‖v‖ - 1, which is about sqrt(1 / (2 rows)) where rows are few."""
    a, total = rows / 2, width / 2
    mean = math.exp(math.lgamma(a + 0.5) - math.lgamma(a) + math.lgamma(total) - math.lgamma(total + 0.5))
    return math.sqrt(2 - 2 * math.sqrt(width / rows) * mean)


def length_factors(rows: int, width: int, miss: float) -> tuple[float, float]:
    """Return two factors of ‖S v‖: ‖v‖ is less than the first, or more than the second, with chance `miss` at most."""
    rest = width - rows
    never = math.log(width / rows), 2 / rows * math.log(miss) + rest / rows * math.log(rest / width)
    most, least = (_at_chance(end, rows, width, miss) for end in never)
    return math.exp(-most / 2), math.exp(-least / 2)


def _at_chance(never: float, rows: int, width: int, miss: float) -> float:
    """Return log β, between 0 and where the chance is surely less, beyond which ‖S v‖² / ‖v‖² lies by this chance."""
    likely = 0.0
    for _ in range(HALVINGS):
        middle = (likely + never) / 2
        likely, never = (
            (middle, never) if _log_chance(math.exp(middle), rows, width) > math.log(miss) else (likely, middle)
        )
    return never


def _log_chance(beta: float, rows: int, width: int) -> float:
    """Return the logarithm of the bound on the chance that ‖S v‖² / ‖v‖² lies beyond β."""
    left = 1 + (1 - beta) * rows / (width - rows)
    return rows / 2 * math.log(beta) + ((width - rows) / 2 * math.log(left) if left > 0 else -math.inf)
