"""The evidence of a result in words: what adds up to the number explained, and every error that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mambascope.trust import TERMS

#: What was done to a source, in words.
REMOVED = {"knockout": "where they are cut from the mixers", "occlusion": "where their embedding is zero"}

#: What the score of several tokens taken together is, in words.
HOW_MERGED = {"sum": "summed", "whole": "each removed as a whole"}


def evidence_sentences(diagnostics: Mapping[str, Any]) -> list[str]:
    """Return what was measured, one clause each: first about the method's own scores, then about the layers."""
    products = diagnostics.get("products", "less precision")
    found = [
        _terms(diagnostics),
        _said(diagnostics, "completeness_error", "the scores miss the number explained by {}"),
        _share(diagnostics, "residual", "the activation rule leaves {} of the layers' outputs unexplained"),
        _said(diagnostics, "products_error", f"products in {products} put the scores off by {{}}"),
        _share(
            diagnostics,
            "pixel_share",
            "pixels hold {} of what the tokens hold; the class token, the positions and the patches' biases hold the "
            "rest",
        ),
        _removed(diagnostics.get("verified")),
        _said(diagnostics, "reconstruction_error", "layers rebuilt to within {}"),
        "each layer ran again when it was read" if diagnostics.get("kept") == "inputs" else "",
        _merged(diagnostics.get("merged")),
        _combined(diagnostics.get("combined")),
    ]
    return [clause for clause in found if clause] or ["no error was measured"]


def kind_sentences(shares: Mapping[str, float]) -> list[str]:
    """Return how much each kind of mixer carried, in one clause; none for a model whose layers are all alike."""
    if not shares:
        return []
    parts = sorted(shares.items(), key=lambda one: -one[1])
    return ["carried by " + ", ".join(f"{kind} {signed_percent(share)}" for kind, share in parts)]


def _terms(diagnostics: Mapping[str, Any]) -> str:
    error, terms = diagnostics.get("conservation_error"), diagnostics.get("terms")
    if error is None:
        return ""
    total = sum(terms.values()) if isinstance(terms, Mapping) else 0.0
    if not isinstance(terms, Mapping) or not total:
        return f"the scores add up to within {error:.1e}"
    parts = [
        f"{TERMS.get(name, name)} {signed_percent(value / total)}"
        for name, value in terms.items()
        if value or name == "tokens"
    ]
    return f"{', '.join(parts)} of the number explained, which they add up to within {error:.1e}"


def _removed(verified: Any) -> str:
    """Return how far what interventions found agrees with the scores, for one target or as the mean of several."""
    if not verified:
        return ""
    agreements = []
    for name, says in REMOVED.items():
        found = [one["rank_correlation"].get(name) for one in verified]
        known = [value for value in found if value is not None]
        if known:
            agreements.append(f"{sum(known) / len(known):.2f} {says}".replace("-", "\N{MINUS SIGN}"))
    sources = sum(len(one["sources"]) for one in verified)
    where = f" of {len(verified)} targets" if len(verified) > 1 else ""
    agree = f": rank correlation with the scores {' and '.join(agreements)}" if agreements else ""
    return f"{sources} sources{where} removed one at a time{agree}"


def _merged(merged: Any) -> str:
    """Return how tokens became the positions of a result."""
    if not isinstance(merged, Mapping):
        return ""
    how = HOW_MERGED.get(str(merged.get("sources")), "largest score of each")
    return f"{merged.get('tokens')} tokens taken together as {merged.get('units')} ({how})"


def _combined(combined: Any) -> str:
    return f"{combined.get('by')} of {combined.get('results')} results" if isinstance(combined, Mapping) else ""


def _said(diagnostics: Mapping[str, Any], key: str, says: str) -> str:
    return "" if diagnostics.get(key) is None else says.format(f"{diagnostics[key]:.1e}")


def _share(diagnostics: Mapping[str, Any], key: str, says: str) -> str:
    return "" if diagnostics.get(key) is None else says.format(signed_percent(diagnostics[key]))


def signed_percent(share: float) -> str:
    """Return a share of a sum whose parts may cancel: `81.2 %`, `−12.0 %`, `<0.1 %` in size."""
    if 0 < abs(share) < 0.001:
        return "<0.1 %"
    return f"{100 * share:.1f} %".replace("-", "\N{MINUS SIGN}")


def time_taken(diagnostics: Mapping[str, Any]) -> str:
    """Return the time that a result took, and that of everything computed with it, if that is clearly longer."""
    own, whole = diagnostics.get("seconds"), diagnostics.get("seconds_in_all")
    if own is None:
        return ""
    return _seconds(own) + (f" ({_seconds(whole)} with the other views)" if whole and whole > 1.5 * own else "")


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
