"""What every page is put together from: a template, one style, one script, and data that can only be data."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from string import Template
from typing import Any

from mambascope.methods.attribution import Attribution
from mambascope.show.tokens import visible


def assembled(
    template: str,
    *,
    about: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    result: Mapping[str, Any],
    blocks: Sequence[str],
) -> str:
    """Return a page that loads nothing.

    Every text from a model or a file reaches the browser as data and is set as text; the page's own policy forbids any
    script but its own and any connection.

    Args:
        template: The asset that holds the page's elements.
        about: What the page is about, for its title.
        styles: Assets that make its style.
        scripts: Assets that make its script, in this order.
        result: What the script reads: texts, axes, evidence.
        blocks: Elements that hold packed numbers, see `block`.
    """
    style, script = "\n".join(map(asset, styles)), "\n".join(['"use strict";', *map(asset, scripts)])
    return Template(asset(template)).substitute(
        title=html.escape(f"What {visible(about)} looked at"),
        style=style,
        style_hash=fingerprint(style),
        script=script,
        script_hash=fingerprint(script),
        result=script_json(result),
        blocks="\n".join(blocks),
    )


def method_facts(result: Attribution) -> dict[str, Any]:
    """Return what a page tells of one result beside its scores."""
    target = asdict(result.target)
    target["next_tokens"] = [(visible(token), probability) for token, probability in result.target.next_tokens]
    return {
        "name": result.method,
        "signed": result.signed,
        "over": result.over_layers,
        "target": target,
        "model": asdict(result.model) | {"name": visible(result.model.name)},
        "diagnostics": dict(result.diagnostics),
    }


def layer_kinds(result: Attribution) -> list[str] | None:
    """Return what each of a hybrid's layers mixes tokens with; None where they are all alike."""
    kinds = result.diagnostics.get("layer_kinds")
    return list(kinds) if kinds and len(kinds) == len(result.axes["layer"]) else None


def block(name: str, packed: str) -> str:
    """Return the element that holds packed numbers under a name."""
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>'


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: ASCII only, with no character that HTML could read as markup."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(value: Any) -> Any:
    """The value in JSON's own types; diagnostics may hold NaN, tuples, arrays or paths."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def asset(name: str) -> str:
    """Return the text of a file in `assets/`."""
    return resources.files("mambascope.show").joinpath("assets", name).read_text("utf-8")


def fingerprint(content: str) -> str:
    """Return what the page's policy knows a script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")
