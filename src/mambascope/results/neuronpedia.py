"""A path graph in the JSON form that Neuronpedia publishes for attribution graphs, which its site can show.

The form: github.com/hijohnnylin/neuronpedia, apps/webapp/app/api/graph/graph-schema.json. Its nodes were made for
features of transcoders; ours are tokens (`embedding`), layers and terms (a `feature_type` of their own, such as `scan`
or `bias`), and the number explained (`logit`). Each says what it is in its `clerp`, the label that the site shows.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from mambascope import __version__
from mambascope.attribution import Attribution
from mambascope.explained import Target
from mambascope.results.path_graph import PathGraph, PathNode, path_graph

MEANING = (
    "Edges from tokens to a layer: each token's share of what the layer's mixer adds to the number explained, traced "
    "back to the tokens by ALTI. Edges into the number: all that a layer adds to it directly, and the terms that no "
    "token accounts for. They add up to the number."
)


def to_neuronpedia(result: Attribution, position: int | None = None) -> dict[str, Any]:
    """Return one target's path graph as Neuronpedia's attribution graph; see `Attribution.to_neuronpedia`.

    Raises:
        InputError: as `path_graph`.
    """
    graph = path_graph(result, position)
    numbered = [_node(node, graph, result.model.layers) for node in graph.nodes]
    ids = [node["node_id"] for node in numbered]
    text = "".join(result.tokens) if result.grid is None else str(result.diagnostics.get("picture", ""))
    return {
        "metadata": {
            "slug": _slug(result, graph.target),
            "scan": result.model.name,
            "prompt_tokens": list(result.tokens),
            "prompt": text,
            "info": {"description": MEANING, "generator": {"name": "mambascope", "version": __version__}},
            "generation_settings": {
                "method": result.method,
                "position": graph.target.position,
                "value": graph.nodes[-1].value,
                "conservation_error": graph.conservation_error,
            },
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": numbered,
        "links": [
            {"source": ids[edge.source], "target": ids[edge.target], "weight": edge.weight} for edge in graph.edges
        ],
    }


def _node(node: PathNode, graph: PathGraph, layers: int) -> dict[str, Any]:
    """Return a node; terms lie above the layers, and the number above the terms."""
    at, number = graph.target.position, graph.nodes[-1]
    if node.kind == "token":
        return _entry("E", node.place, node.place, "embedding", node.label)
    if node.kind == "number":
        probability = _probability(graph.target)
        said = "?" if probability is None else f"{probability:.3f}"  # the site reads a probability out of the label
        known = {} if probability is None else {"token_prob": probability}
        entry = _entry(str(layers + 1), 0, at, "logit", f"{node.label} = {node.value:.4g} (p={said})")
        return entry | known | {"is_target_logit": True}
    adds = f"adds {node.value:+.4g} to the {number.label}"
    if node.kind == "layer":
        kind = node.mixer or "mixer"
        return _entry(str(node.place), 0, at, kind, f"{node.label}, {kind}: {adds}")
    return _entry(str(layers), node.place, at, node.mixer, f"{node.label}: {adds}")


def _entry(layer: str, index: int, position: int, kind: str, label: str) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{index}_{position}",
        "feature": index,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": kind,
        "jsNodeId": f"{layer}_{index}-{position}",
        "clerp": label,
    }


def _probability(target: Target) -> float | None:
    """Return the probability of the token or class whose logit is explained, if it is among the likeliest."""
    found = [p for name, p in target.next_tokens if target.asked in (f"logit of {name!r}", f"logit of class {name!r}")]
    return found[0] if found else None


def _slug(result: Attribution, target: Target) -> str:
    """Return a name for the graph that another text, model or question does not have."""
    asked = repr((result.tokens, result.model.name, result.method, target.position, target.asked))
    named = re.sub(r"[^a-z0-9]+", "-", f"{result.model.name} {result.method}".lower()).strip("-")
    return f"{named}-{hashlib.sha256(asked.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"
