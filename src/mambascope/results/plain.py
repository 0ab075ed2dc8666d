"""A result as plain values: everything in it but its tensors, and what `--json` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mambascope.attribution import Attribution
from mambascope.explained import Target


def header(result: Attribution) -> dict[str, Any]:
    """Return everything in a result except its tensors, as plain values."""
    return {
        "tokens": list(result.tokens),
        "axes": {name: list(values) for name, values in result.axes.items()},
        "method": result.method,
        "target": asdict(result.target),
        "targets": [asdict(one) for one in result.targets],
        "model": asdict(result.model),
        "signed": result.signed,
        "over_layers": result.over_layers,
        "grid": None if result.grid is None else asdict(result.grid),
        "diagnostics": dict(result.diagnostics),
    }


def to_dict(result: Attribution) -> dict[str, Any]:
    """Return the row in focus, and each row if several were asked for; numbers that are not finite are None."""
    facts = {
        "tokens": list(result.tokens),
        "method": result.method,
        "position": result.target.position,
        "scores": result.row().tolist(),
        "layers": [{"layer": layer, "scores": result.row(layer=layer).tolist()} for layer in result.axes["layer"]],
        "target": asdict(result.target),
        **({} if not result.targets else {"targets": [_row(result, one) for one in result.targets]}),
        "model": asdict(result.model),
        "signed": result.signed,
        "over_layers": result.over_layers,
        **({} if result.grid is None else {"grid": asdict(result.grid), "picture": result.picture().tolist()}),
        "diagnostics": dict(result.diagnostics),
    }
    return {name: _finite(value) for name, value in facts.items()}


def _row(result: Attribution, target: Target) -> dict[str, Any]:
    return asdict(target) | {"scores": result.row(target.position).tolist()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
