"""The verdict on a result in words: why its scores should not be relied on, if its own evidence says so.

Every surface asks `caution`: the terminal, the page, figures, comparisons and reports. Each kind of evidence has a
bound, with its reason beside it. The errors of the residual stream have none here: methods that follow the stream
refuse a block whose sum is off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

#: Largest relative error of a rebuilt output. Half precision rounds each product to 8 or 11 bits and a mixer chains
#: several; float32 leaves 1e-7 to 1e-5 on stock models; float64 models still compute their norms in float32.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}

#: Largest conservation error that rounding explains. Sums of float32 products over texts of thousands of tokens have
#: relative errors below 1e-6 (`python -m benchmarks.conservation`); half precision rounds each product to 8 or 11 bits.
CONSERVED = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}

#: Largest share of a readout that integrated gradients may miss: they are a numerical integral, not an identity.
COMPLETE = 0.05

#: Half of what is explained: where more is missed, or less is held by tokens, the scores are the smaller part of it.
#: SiLU's own rule leaves 0.16 to 0.45 of trained models' outputs, the identity 1.2 to 2.1 (`docs/activation_rules.md`).
HALF = 0.5

#: The terms that add up to a number: what methods call them, and what readers are told.
TERMS = {
    "tokens": "tokens",
    "biases": "biases",
    "residual": "the target's own embedding",
    "bias": "biases of the mixers",
    "other": "parts that mix no tokens",
    "constant": "final norm and head",
}


def caution(evidence: Mapping[str, Any], dtype: torch.dtype | None = None) -> str:
    """Return why scores with this evidence should not be relied on, as a sentence; empty if there is no reason.

    Args:
        evidence: A result's diagnostics; the caution that is stored there, if any, is returned.
        dtype: The precision in which the model ran; by default what the evidence says, `precision`, or else float32.
    """
    dtype = getattr(torch, str(evidence.get("precision", "float32"))) if dtype is None else dtype
    return str(evidence.get("caution") or next(_reasons(evidence, dtype), ""))


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """Return the precision with the largest rounding errors: the one that explains the most."""
    return max(dtypes, key=lambda dtype: TOLERANCE.get(dtype, 0.0))


def in_short(words: str) -> str:
    """Return a caution without its reason, for where there is little room: `do not rely on these scores`."""
    return words.partition(":")[0]


def _reasons(evidence: Mapping[str, Any], dtype: torch.dtype) -> Iterator[str]:
    """Yield each reason, the most serious first; a number that is not finite proves nothing, and so is one."""
    rebuilt, bound = TOLERANCE.get(dtype, TOLERANCE[torch.float32]), CONSERVED.get(dtype, CONSERVED[torch.float32])
    for key, says, most in (
        ("reconstruction_error", "the layers were rebuilt with an error of {:.1e}", rebuilt),
        ("scan_error", "the scan differs from the model's own by {:.1e}", rebuilt),
        ("products_error", "products in less precision put them off by {:.1e}", TOLERANCE[torch.bfloat16]),
        ("conservation_error", "they miss what they should add up to by {:.1e}", bound),
    ):
        error = evidence.get(key)
        if error is not None and not error <= most:
            part = evidence.get("uncovered") if key == "conservation_error" else None
            says = says.format(error) + (f", because no propagation rule covers {part}" if part else "")
            yield f"do not rely on these scores: {says}, and rounding explains no more than {most:.0e}"
    for key, says in (
        ("completeness_error", "they miss the number that they explain by {:.0%}"),
        ("residual", "the activation rule leaves {:.0%} of the layers' outputs unexplained"),
    ):
        missed = evidence.get(key)
        if missed is not None and not missed <= HALF:
            yield f"do not rely on these scores: {says.format(missed)}, more than half of it"
    missed = evidence.get("completeness_error")
    if missed is not None and not missed <= COMPLETE:
        yield (
            f"take these scores as rough: they miss the number that they explain by {missed:.0%}, more than "
            f"{COMPLETE:.0%}"
        )
    share = token_share(evidence)
    if share is not None and not share >= HALF:
        yield (
            f"take these scores with care: the tokens hold {share:.0%} of the number explained, and the rest is in the "
            "model's biases and other parts"
        )


def token_share(evidence: Mapping[str, Any]) -> float | None:
    """Return the tokens' share of the readout, or None if the evidence has no terms."""
    terms = evidence.get("terms")
    if not isinstance(terms, Mapping) or "tokens" not in terms:
        return None
    total = sum(terms.values())
    return terms["tokens"] / total if total else None
