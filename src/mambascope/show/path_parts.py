"""The path of an answer as the page draws it: the strongest tokens, every layer, the terms, the number."""

from __future__ import annotations

from typing import Any

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.results.path_graph import PathGraph, path_graph

#: Tokens that are drawn one by one; the others of each layer are drawn together.
STRONGEST = 8

#: The most targets whose paths a page holds.
MOST_TARGETS = 64


def path_facts(result: Attribution) -> list[dict[str, Any]] | None:
    """Return the path of every target, if the result's parts per layer add up to the number explained."""
    targets = result.axes["target"]
    if len(targets) > MOST_TARGETS:
        return None
    try:
        return [_drawn(path_graph(result, position)) for position in targets]
    except InputError:
        return None


def _drawn(graph: PathGraph) -> dict[str, Any]:
    """Return the tokens with the largest edges, and each layer's edges from these and from all others together."""
    tokens = [place for place, node in enumerate(graph.nodes) if node.kind == "token"]
    layers = [place for place, node in enumerate(graph.nodes) if node.kind == "layer"]
    carried = dict.fromkeys(tokens, 0.0)
    edges: dict[tuple[int, int], float] = {}
    for edge in graph.edges:
        if edge.source in carried:
            carried[edge.source] += abs(edge.weight)
            edges[edge.source, edge.target] = edge.weight
    strongest = sorted(sorted(tokens, key=lambda token: -carried[token])[:STRONGEST])
    drawn = []
    for layer in layers:
        node, own = graph.nodes[layer], [edges.get((token, layer), 0.0) for token in strongest]
        drawn.append(
            {"layer": node.place, "kind": node.mixer, "value": node.value, "edges": own, "rest": node.value - sum(own)}
        )
    terms = [node for node in graph.nodes if node.kind == "term"]
    return {
        "tokens": strongest,
        "others": len(tokens) - len(strongest),
        "layers": drawn,
        "terms": [[node.label, node.value] for node in terms],
        "number": graph.nodes[-1].value,
        "asked": graph.nodes[-1].label,
        "error": graph.conservation_error,
    }
