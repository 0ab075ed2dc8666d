"""The path of an answer as a graph, token → layer → number explained, for methods whose parts per layer add up to it.

The edge from a token to a layer is the token's share of what that layer adds to the number, traced back to the tokens;
the edge from the layer to the number is all that the layer adds. What no layer adds (biases, MLPs, the target's own
embedding, the final norm and the head) are terms with an edge of their own, so the edges into the number add up to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mambascope.attribution import Attribution
from mambascope.characters import piece_names
from mambascope.errors import InputError
from mambascope.explained import WHOLE_MODEL, Target
from mambascope.numbering import whole_number
from mambascope.trust import TERMS

#: The terms of ALTI-Logit beside the tokens.
BESIDE = ("residual", "bias", "other", "constant")

#: How far, as a share of all parts' sizes, float32 scores may lie from the sum whose error was measured before.
ROUNDING = 1e-6


@dataclass(frozen=True)
class PathNode:
    """A node of a path graph.

    Attributes:
        kind: `token`, `layer`, `term` or `number`.
        place: The position of a token, the number of a layer, the place of a term in `BESIDE`; 0 for the number.
        label: What it is called: a token's text, `layer 3`, a term in words, what was asked about.
        mixer: The kind of mixer in a layer, such as `scan`, where it is known; a term's short name, such as `bias`.
        value: What it adds to the number: its edge to it, or the sum of a token's edges; the number itself.
    """

    kind: Literal["token", "layer", "term", "number"]
    place: int
    label: str
    value: float
    mixer: str = ""


@dataclass(frozen=True)
class PathEdge:
    """An edge of a path graph: its ends, as places in `PathGraph.nodes`, and what flows along it."""

    source: int
    target: int
    weight: float


@dataclass(frozen=True)
class PathGraph:
    """The path of one number.

    Attributes:
        nodes: Tokens in order, layers in order, terms, and last the number explained.
        edges: From tokens to layers, where they are not zero, then from layers and terms to the number.
        target: What is explained.
        conservation_error: |number - Σ edges into it| over the sum of the sizes of all parts.
    """

    nodes: tuple[PathNode, ...]
    edges: tuple[PathEdge, ...]
    target: Target
    conservation_error: float

    def into(self, node: int) -> float:
        """Return the sum of the edges into a node, given by its place in `nodes`."""
        return sum(edge.weight for edge in self.edges if edge.target == node)


def no_parts(method: str) -> str:
    """Return the sentence that refuses a method without parts per layer."""
    return f"{method} has no parts per layer that add up to the number explained, so it has no path; use alti-logit"


def path_graph(result: Attribution, position: int | None = None) -> PathGraph:
    """Return the path of one target's number.

    Args:
        result: A result of ALTI-Logit, or of another method with the same terms.
        position: The target; by default the one in focus.

    Raises:
        InputError: if the method has no parts per layer that add up, that position is not in the result, or its parts
            miss the number by more than was measured, as after a merger by the largest score.
    """
    row = result.axes["target"].index(_place(result, position))
    focus = result.targets[row] if result.targets else result.target
    evidence = _evidence(result, row)
    layers: tuple[Any, ...] = tuple(result.axes["layer"])
    if layers == (WHOLE_MODEL,) and result.model.layers == 1:
        layers = (0,)
    parts, measured = _numbers(evidence), evidence.get("conservation_error")
    if not parts or WHOLE_MODEL in layers or result.over_layers != "sum":
        raise InputError(no_parts(result.method))
    number, *beside = parts
    rows = result.scores[:, row].double().tolist()
    error = _missed(number, rows, beside)
    if not math.isfinite(error):
        raise InputError(f"the {result.method} scores hold values that are not finite numbers, so they have no path")
    if not error <= (measured if isinstance(measured, float) else 0.0) + ROUNDING:
        raise InputError(
            f"the parts of this result miss the number explained by {error:.1e} of their sizes, more than was measured "
            "when it was made; draw the path of a result whose tokens were summed, or not taken together"
        )
    return _graph(result, focus, layers, rows, beside, number, error)


def _graph(
    result: Attribution,
    focus: Target,
    layers: tuple[int, ...],
    rows: list[list[float]],
    beside: list[float],
    number: float,
    error: float,
) -> PathGraph:
    kinds = result.layer_kinds or (result.model.kinds if len(result.model.kinds) == len(layers) else ())
    names, sums = piece_names(result.tokens), [sum(row) for row in rows]
    nodes = [
        *(PathNode("token", k, name, sum(row[k] for row in rows)) for k, name in enumerate(names)),
        *(
            PathNode("layer", layer, f"layer {layer}", total, kinds[k] if kinds else "")
            for k, (layer, total) in enumerate(zip(layers, sums, strict=True))
        ),
        *(PathNode("term", k, TERMS[name], beside[k], name) for k, name in enumerate(BESIDE)),
        PathNode("number", 0, focus.asked, number),
    ]
    tokens, last = len(names), len(nodes) - 1
    edges = [
        PathEdge(source, tokens + k, weight)
        for k, row in enumerate(rows)
        for source, weight in enumerate(row)
        if weight
    ]
    edges += [PathEdge(k, last, nodes[k].value) for k in range(tokens, last)]
    return PathGraph(tuple(nodes), tuple(edges), focus, error)


def _place(result: Attribution, position: int | None) -> int:
    """Return a target's position; refuses one that is not in the result."""
    place = result.target.position if position is None else whole_number(position, "position")
    result.row(place)
    return place


def _evidence(result: Attribution, row: int) -> dict[str, Any]:
    """Return the evidence of one row."""
    each = result.diagnostics.get("per_target")
    own = each[row] if isinstance(each, list) and len(each) == len(result.axes["target"]) else {}
    return {**result.diagnostics, **own}


def _numbers(evidence: Mapping[str, Any]) -> list[float]:
    """Return the number explained and the terms beside the tokens; empty if the evidence does not have them all."""
    terms = evidence.get("terms")
    if not isinstance(terms, Mapping):
        return []
    found: list[Any] = [evidence.get("value"), *(terms.get(name) for name in BESIDE)]
    return found if all(isinstance(one, int | float) and not isinstance(one, bool) for one in found) else []


def _missed(number: float, rows: list[list[float]], beside: list[float]) -> float:
    parts = [*(score for row in rows for score in row), *beside]
    return abs(number - sum(parts)) / max(sum(map(abs, parts)), 1e-300)
