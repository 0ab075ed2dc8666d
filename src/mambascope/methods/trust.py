"""Cautions in words, for scores whose own evidence says that they should not be relied on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

#: Largest conservation error that rounding explains. Sums of float32 products over texts of thousands of tokens have
#: relative errors below 1e-6 (`benchmarks/conservation.py`); half precision rounds each product to 8 or 11 bits.
CONSERVED = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}

#: Largest share of a readout that integrated gradients may miss: they are a numerical integral, not an identity.
COMPLETE = 0.05

#: Smallest share of a readout that tokens should hold: below it, less than half of the readout is explained by tokens.
TOKENS = 0.5


def caution(evidence: Mapping[str, Any], dtype: torch.dtype) -> str:
    """Return why scores with this evidence should not be relied on, as a sentence; empty if there is no reason.

    Args:
        evidence: A result's diagnostics.
        dtype: The precision in which the model ran.
    """
    bound = CONSERVED.get(dtype, CONSERVED[torch.float32])
    error, missed = evidence.get("conservation_error"), evidence.get("completeness_error")
    if error is not None and not error <= bound:
        return (
            f"do not rely on these scores: they miss what they should add up to by {error:.1e}, and rounding explains "
            f"no more than {bound:.0e}"
        )
    if missed is not None and not missed <= COMPLETE:
        return (
            f"take these scores as rough: they miss the number that they explain by {missed:.0%}, more than "
            f"{COMPLETE:.0%}"
        )
    share = token_share(evidence)
    if share is not None and not share >= TOKENS:
        return (
            f"take these scores with care: the tokens hold {share:.0%} of the number explained, and the rest is in the "
            "model's biases and other parts"
        )
    return ""


def token_share(evidence: Mapping[str, Any]) -> float | None:
    """Return the tokens' share of the readout, or None if the evidence has no terms."""
    terms = evidence.get("terms")
    if not isinstance(terms, Mapping) or "tokens" not in terms:
        return None
    total = sum(terms.values())
    return terms["tokens"] / total if total else None
