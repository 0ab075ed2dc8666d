"""Sums and means of results whose positions answer to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.explained import Target
from mambascope.numbering import shown

#: Errors of results, of which a sum has the largest.
ERRORS = ("reconstruction_error", "conservation_error", "scan_error", "products_error")
#: The name of a token that is not the same in all results.
VARIES = "‹varies›"


def added(results: Sequence[Attribution], *, mean: bool = False) -> Attribution:
    """Return the sum or the mean of results with the same layers, targets and sources, by the same method and model.

    The texts may differ, token by token, as those of a template do: such a token is called `‹varies›`. Of the evidence
    the worst errors are kept, and cautions.

    Args:
        results: The results.
        mean: Whether to divide by their number.

    Raises:
        InputError: if there are none, or they do not answer to each other.
    """
    if not isinstance(results, (list, tuple)):
        raise InputError(f"results must be given as a list, found {shown(results)}")
    for one in results:
        if not isinstance(one, Attribution):
            raise InputError(f"only results that mambascope.explain returned can be added, found {shown(one)}")
    if not results:
        raise InputError("there are no results to add; pass at least one")
    first = results[0]
    for number, one in enumerate(results[1:], start=1):
        _check_alike(first, one, number)
    scores = sum((one.scores.double() for one in results[1:]), first.scores.double())
    tokens = tuple(
        own[0] if len(set(own)) == 1 else VARIES for own in zip(*(one.tokens for one in results), strict=True)
    )
    return replace(
        first,
        scores=(scores / (len(results) if mean else 1)).to(torch.float32),
        tokens=tokens,
        target=_together([one.target for one in results], tokens, mean),
        targets=tuple(_together(own, tokens, mean) for own in zip(*(one.targets for one in results), strict=True)),
        diagnostics=_evidence(results, mean),
        pixels=None,
    )


def _check_alike(first: Attribution, other: Attribution, number: int) -> None:
    """Raise InputError unless a result can be added to the first."""
    for name in ("method", "signed", "over_layers", "grid"):
        own, theirs = getattr(first, name), getattr(other, name)
        if own != theirs:
            raise InputError(f"result {number} cannot be added to the first: its {name} is {theirs}, not {own}")
    if first.model.name != other.model.name:
        raise InputError(f"result {number} is of {other.model.name}, the first of {first.model.name}; add those of one")
    for name in ("layer", "target", "source"):
        own, theirs = tuple(first.axes[name]), tuple(other.axes[name])
        if own != theirs:
            what = f"{len(theirs)} {name}s, the first {len(own)}" if len(own) != len(theirs) else f"other {name}s"
            raise InputError(f"result {number} has {what}; only results with the same positions can be added")
    if len(first.targets) != len(other.targets):
        raise InputError(f"result {number} explains {len(other.targets)} targets, the first {len(first.targets)}")


def _together(targets: Sequence[Target], tokens: Sequence[str], mean: bool) -> Target:
    """Return what the sum of rows explains."""
    first, how = targets[0], "mean" if mean else "sum"
    if len(targets) == 1:
        return first
    values = [one.value for one in targets if one.value is not None]
    value = sum(values) / (len(values) if mean else 1) if len(values) == len(targets) else None
    asked = f"the {how} over {len(targets)} results of {first.asked}" if first.asked else ""
    if len({one.asked for one in targets}) > 1:
        asked = f"the {how} of {len(targets)} numbers"
    return replace(first, token=tokens[first.position], next_tokens=(), asked=asked, value=value)


def _evidence(results: Sequence[Attribution], mean: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ERRORS:
        values = [one.diagnostics[name] for one in results if name in one.diagnostics]
        if values:
            found[name] = max(values)
    cautions = dict.fromkeys(str(one.diagnostics["caution"]) for one in results if "caution" in one.diagnostics)
    if cautions:
        found["caution"] = "; ".join(cautions)
    return found | {"combined": {"results": len(results), "by": "mean" if mean else "sum"}}
