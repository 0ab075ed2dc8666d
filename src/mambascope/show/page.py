"""The self-contained page: one file, no network, numbers packed small and decoded when looked at."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from mambascope.methods.attribution import Attribution
from mambascope.show.check import require_alike, require_finite
from mambascope.show.pack import CODES, THUMBNAIL, TOP, deflated, pack_layer, thumbnail
from mambascope.show.palette import ANCHORS
from mambascope.show.tokens import visible

SCRIPTS = (
    "decode.js", "colour.js", "text.js", "sources.js", "strip.js", "map.js", "mapinput.js", "scene.js", "evidence.js",
    "page.js",
)  # fmt: skip


def html_page(attribution: Attribution, *others: Attribution, command: str | None = None) -> str:
    """Return a page that shows the result and loads nothing: text, top sources, layers, maps and evidence.

    Every text from a model or a file reaches the browser as data and is set as text; the page's own policy forbids any
    script but its own and any connection.

    Args:
        attribution: The result that the page opens with.
        others: Results of other methods, with the same tokens and axes; they become switches in the page.
        command: The command line that makes the page again; by default the one in `diagnostics["command"]`.

    Raises:
        InputError: if the results differ in tokens or axes, or hold scores that are not finite numbers.
    """
    results = (attribution, *others)
    require_alike(*results)
    for result in results:
        require_finite(result)
    style, script = _asset("page.css"), "\n".join(['"use strict";', *map(_asset, SCRIPTS)])
    return Template(_asset("page.html")).substitute(
        title=html.escape(f"What {visible(attribution.model.name)} looked at"),
        style=style,
        style_hash=_fingerprint(style),
        script=script,
        script_hash=_fingerprint(script),
        result=_json(_description(results, command)),
        blocks="\n".join(block for index, result in enumerate(results) for block in _blocks(index, result)),
    )


def _description(results: tuple[Attribution, ...], command: str | None) -> dict[str, Any]:
    """Everything but the scores: texts, axes, colours, evidence."""
    first = results[0]
    kinds = first.diagnostics.get("layer_kinds")
    return {
        "tokens": list(first.tokens),
        "shown": {j: visible(token) for j, token in enumerate(first.tokens) if visible(token) != token},
        "targets": list(first.axes["target"]),
        "layers": list(first.axes["layer"]),
        "kinds": list(kinds) if kinds and len(kinds) == len(first.axes["layer"]) else None,
        "command": command or first.diagnostics.get("command"),
        "methods": [_method(result) for result in results],
        "palette": ANCHORS,
        "top": TOP,
        "codes": CODES,
        "thumbnail": THUMBNAIL,
    }


def _method(result: Attribution) -> dict[str, Any]:
    target = asdict(result.target)
    target["next_tokens"] = [(visible(token), probability) for token, probability in result.target.next_tokens]
    return {
        "name": result.method,
        "signed": result.signed,
        "over": result.over_layers,
        "causal": _is_causal(result),
        "target": target,
        "model": asdict(result.model) | {"name": visible(result.model.name)},
        "diagnostics": dict(result.diagnostics),
    }


def _blocks(index: int, result: Attribution) -> list[str]:
    """The scores of one result: a block for the mean and each layer, one of row sums, one of small maps."""
    sources, causal = len(result.tokens), _is_causal(result)
    lengths = [position + 1 if causal else sources for position in result.axes["target"]]
    blocks, totals, thumbnails = [], [], []
    for number, layer in enumerate((None, *result.axes["layer"])):
        matrix = result.matrix(layer)
        blocks.append(_block(f"block-{index}-{number}", pack_layer(matrix, result.axes["target"], lengths)))
        totals.append(matrix.abs().sum(dim=1).numpy())
        thumbnails.append(thumbnail(matrix))
    blocks.append(_block(f"totals-{index}", deflated(np.stack(totals).astype("<f4").tobytes())))
    blocks.append(_block(f"thumbs-{index}", deflated(np.stack(thumbnails).tobytes())))
    return blocks


def _is_causal(result: Attribution) -> bool:
    return all(not result.scores[:, row, position + 1 :].any() for row, position in enumerate(result.axes["target"]))


def _block(name: str, packed: str) -> str:
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>'


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: ASCII only, with no character that HTML could read as markup."""
    text = json.dumps(_plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """The value in JSON's own types; diagnostics may hold NaN, tuples, arrays or paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _asset(name: str) -> str:
    return resources.files("mambascope.show").joinpath("assets", name).read_text("utf-8")


def _fingerprint(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")
