"""What Neuronpedia demands of an attribution graph, written anew as a JSON schema.

Source: github.com/hijohnnylin/neuronpedia (Apache 2.0), apps/webapp/app/api/graph/graph-schema.json, version 1.0.0, at
commit b8efe84: which entries there are, their types, and which must be there. Its site demands more, see `for_the_site`
(apps/webapp/app/[modelId]/graph/utils.ts at commit 2a614bc, `formatCLTGraphData`).
"""

import math

TEXT, NUMBER, INTEGER, LIST = {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "array"}
TEXTS = {"type": "array", "items": TEXT}


def form(required, **properties):
    return {"type": "object", "properties": properties, "required": required}


DETAILS = ("feature_json_base_url", "neuronpedia_source_set", "neuronpedia_lorsa_source_set")
INFO = form(
    [],
    **dict.fromkeys(("description", "creator_name", "creator_url"), TEXT),
    source_urls=LIST,
    generator=form([], **dict.fromkeys(("name", "version", "url", "email"), TEXT)),
    create_time_ms=NUMBER,
)
METADATA = form(
    ["slug", "scan", "prompt_tokens", "prompt"],
    **dict.fromkeys(("slug", "scan", "prompt"), TEXT),
    prompt_tokens=TEXTS,
    feature_details=form([], **dict.fromkeys(DETAILS, TEXT)),
    node_threshold=NUMBER,
    info=INFO,
    generation_settings=form(
        [], desired_logit_prob=NUMBER, **dict.fromkeys(("max_n_logits", "batch_size", "max_feature_nodes"), INTEGER)
    ),
    pruning_settings=form([], node_threshold=NUMBER, edge_threshold=NUMBER),
)
NODE = form(
    ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
    **dict.fromkeys(("node_id", "feature_type", "jsNodeId", "clerp"), TEXT),
    feature={"type": ["integer", "null"]},
    layer={"type": ["string", "integer"]},
    ctx_idx=INTEGER,
    influence={"type": ["number", "null"]},
    activation={"type": ["number", "null"]},
)
SCHEMA = form(
    ["metadata", "qParams", "nodes", "links"],
    metadata=METADATA,
    qParams=form([], pinnedIds=TEXTS, supernodes=LIST, **dict.fromkeys(("linkType", "clickedId", "sg_pos"), TEXT)),
    nodes={"type": "array", "items": NODE},
    links={
        "type": "array",
        "items": form(["source", "target", "weight"], source=TEXT, target=TEXT, weight=NUMBER),
    },
)


def for_the_site(graph):
    """Check what the site's code takes for granted when it lays a graph out."""
    nodes, tokens = graph["nodes"], graph["metadata"]["prompt_tokens"]
    ids = [node["node_id"] for node in nodes]
    assert len(set(ids)) == len(ids)
    assert len({(node["layer"], node["feature"], node["ctx_idx"]) for node in nodes}) == len(nodes), "its own ids"
    assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= set(ids)
    assert all(math.isfinite(link["weight"]) for link in graph["links"])
    assert all(0 <= node["ctx_idx"] < len(tokens) for node in nodes)
    assert max(int(node["layer"]) for node in nodes if node["layer"] != "E" and node["feature_type"] != "logit") > 0
    for node in nodes:
        kind, label = node["feature_type"], node["clerp"]
        assert (kind == "embedding") == (node["layer"] == "E")
        assert "error" not in kind, "which it takes for what a transcoder misses"
        assert kind not in ("cross layer transcoder", "lorsa"), "which it takes for features"
        if kind == "logit":
            said = label.split("(p=")[1].split(")")[0]
            assert said == "?" or math.isclose(float(said), node["token_prob"], abs_tol=5e-4)
