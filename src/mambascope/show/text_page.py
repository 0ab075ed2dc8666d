"""The self-contained page of a text: one file, no network, numbers packed small and decoded when looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from mambascope.attribution import Attribution
from mambascope.characters import character_starts, piece_names
from mambascope.show.check import require_finite, require_same_text
from mambascope.show.gallery import gallery_blocks, gallery_facts
from mambascope.show.pack import CODES, THUMBNAIL, TOP, deflated, pack_layer, thumbnail
from mambascope.show.page_parts import assembled, block, layer_kinds, method_facts, target_facts
from mambascope.show.palette import ANCHORS
from mambascope.show.path_parts import path_facts
from mambascope.show.tokens import visible
from mambascope.theory.gallery import Gallery

SCRIPTS = (
    "decode.js", "colour.js", "text.js", "sources.js", "span.js", "overview.js", "strip.js", "map.js", "mapinput.js",
    "scene.js", "textscene.js", "exports.js", "address.js", "textview.js", "evidence.js", "folding.js", "page.js",
)  # fmt: skip

#: What the text shows for a token that continues the character before it.
PART = "·"


def text_page(
    attribution: Attribution, *others: Attribution, command: str | None = None, gallery: Gallery | None = None
) -> str:
    """Return a page that shows the result and loads nothing: text, top sources, layers, maps and evidence.

    Every text from a model or a file reaches the browser as data and is set as text; the page's own policy forbids any
    script but its own and any connection.

    Args:
        attribution: The result that the page opens with.
        others: Results of other methods on the same text, with any layers and targets, which the page can switch to.
        command: The command line that makes the page again; by default the one in `diagnostics["command"]`.
        gallery: What each head does, and its map of the text.

    Raises:
        InputError: if the results or the gallery are of different texts, or hold scores that are not finite numbers.
    """
    results = (attribution, *others)
    require_same_text(*results)
    for result in results:
        require_finite(result)
    facts = [_facts(result) for result in results]
    followed = any(one["path"] for one in facts) or "lens" in attribution.diagnostics
    removed = any("verified" in result.diagnostics for result in results)
    path, heads = ["path"] * followed, ["heads"] * (gallery is not None)
    added = ["removal"] * removed
    return assembled(
        sections=[f"{name}.html" for name in ("page", *path, "maps", *heads)],
        about=attribution.model.name,
        styles=[f"{name}.css" for name in ("page", *added, *path, *heads)],
        scripts=[*(f"{name}.js" for name in [*added, *path]), *SCRIPTS, *(["headmap.js", "heads.js"] if heads else [])],
        result=_description(results, facts, command) | {"gallery": gallery_facts(gallery, attribution.tokens)},
        blocks=[one for index, result in enumerate(results) for one in _blocks(index, result)]
        + gallery_blocks(gallery),
    )


def _description(results: tuple[Attribution, ...], facts: list[dict[str, Any]], command: str | None) -> dict[str, Any]:
    """Return everything but the scores: texts, axes, colours, evidence."""
    first = results[0]
    names, starts = piece_names(first.tokens), character_starts(first.tokens)
    in_text = [visible(name) if starts[j] == j else PART for j, name in enumerate(names)]
    return {
        "tokens": list(first.tokens),
        "shown": {j: word for j, word in enumerate(in_text) if word != first.tokens[j]},
        "parts": {j: visible(name) for j, name in enumerate(names) if starts[j] != j},
        "command": command or first.diagnostics.get("command"),
        "methods": facts,
        "palette": ANCHORS,
        "top": TOP,
        "codes": CODES,
        "thumbnail": THUMBNAIL,
    }


def _facts(result: Attribution) -> dict[str, Any]:
    """Return what the page says about one result, with its own layers and targets."""
    return method_facts(result) | {
        "causal": _is_causal(result),
        "targets": list(result.axes["target"]),
        "anchors": list(result.anchors),
        "rows": [target_facts(one) for one in result.targets] or None,
        "layers": list(result.axes["layer"]),
        "kinds": layer_kinds(result),
        "path": path_facts(result),
    }


def _blocks(index: int, result: Attribution) -> list[str]:
    """Return one result's scores: a block for all layers and each layer, one for row sums, one for small maps."""
    sources, causal = len(result.tokens), _is_causal(result)
    lengths = [position + 1 if causal else sources for position in result.axes["target"]]
    blocks, totals, thumbnails = [], [], []
    for number, layer in enumerate((None, *result.axes["layer"])):
        matrix = result.matrix(layer)
        blocks.append(block(f"block-{index}-{number}", pack_layer(matrix, result.axes["target"], lengths)))
        totals.append(matrix.abs().sum(dim=1).numpy())
        thumbnails.append(thumbnail(matrix))
    blocks.append(block(f"totals-{index}", deflated(np.stack(totals).astype("<f4").tobytes())))
    blocks.append(block(f"thumbs-{index}", deflated(np.stack(thumbnails).tobytes())))
    return blocks


def _is_causal(result: Attribution) -> bool:
    return all(not result.scores[:, row, position + 1 :].any() for row, position in enumerate(result.axes["target"]))
