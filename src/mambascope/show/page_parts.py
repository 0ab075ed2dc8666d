"""The parts of every page: one frame, a style, a script, and data that can never run as code."""

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

from mambascope.attribution import Attribution, Target
from mambascope.methods.registry import METHODS
from mambascope.show.evidence import evidence_sentences, kind_sentences, time_taken
from mambascope.show.tokens import visible
from mambascope.trust import caution


def assembled(
    *,
    sections: Sequence[str],
    about: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    result: Mapping[str, Any],
    blocks: Sequence[str],
) -> str:
    """Return a page that draws with a script of its own and loads nothing.

    Args:
        sections: The assets that hold what the page shows.
        about: What the page is about, for its title.
        styles: The assets of its style.
        scripts: The assets of its script, in this order.
        result: What the script reads: texts, axes, evidence.
        blocks: Elements that hold packed numbers, see `block`.
    """
    script = "\n".join(['"use strict";', *map(_code, scripts)])
    body = Template(asset("scripted.html")).substitute(
        sections="".join(map(asset, sections)), result=script_json(result), blocks="\n".join(blocks), script=script
    )
    title = html.escape(f"What {visible(about)} looked at")
    return document(title, body, styles, f"script-src '{fingerprint(script)}'; img-src data: blob:")


def document(title: str, body: str, styles: Sequence[str], allowed: str, rules: str = "") -> str:
    """Return a page; its own policy forbids every script and connection that is not allowed.

    Args:
        title: Its title, as HTML.
        body: Its elements, in which every text from a model or a file is data, or escaped.
        styles: The assets of its style.
        allowed: What the policy allows besides the style; empty for nothing.
        rules: More of its style.
    """
    style = "\n".join([*map(_code, styles), rules]).strip()
    policy = "; ".join(filter(None, (f"style-src '{fingerprint(style)}'", allowed)))
    return Template(asset("document.html")).substitute(title=title, style=style, policy=policy, body=body)


def method_facts(result: Attribution) -> dict[str, Any]:
    """Return what a page says about one result besides its scores."""
    known, words = METHODS.get(result.method), caution(result.diagnostics)
    facts = {name: fact for name, fact in result.diagnostics.items() if name != "per_target"}
    return {
        "name": result.method,
        "title": known.title if known else "",
        "paper": known.paper if known else "",
        "signed": result.signed,
        "over": result.over_layers,
        "target": target_facts(result.target),
        "model": asdict(result.model) | {"name": visible(result.model.name)},
        "diagnostics": facts | ({"caution": words} if words else {}),
        "evidence": [*kind_sentences(result.kind_shares()), *evidence_sentences(result.diagnostics)],
        "time": time_taken(result.diagnostics) or "not measured",
    }


def target_facts(target: Target) -> dict[str, Any]:
    """Return what a page says about one position and the number explained there."""
    return asdict(target) | {"next_tokens": [(visible(token), share) for token, share in target.next_tokens]}


def layer_kinds(result: Attribution) -> list[str] | None:
    """Return the kind of each of a hybrid's layers; None where all layers are alike."""
    kinds = result.layer_kinds
    return list(kinds) if len(set(result.model.kinds or kinds)) > 1 else None


def block(name: str, packed: str) -> str:
    """Return the element that holds packed numbers under a name."""
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>'


def script_json(value: Any) -> str:
    """Return JSON for use inside a script element: ASCII only, with no character that HTML could read as markup."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(value: Any) -> Any:
    """Return the value in JSON's own types; diagnostics may hold NaN, tuples, arrays or paths."""
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


def _code(name: str) -> str:
    """Return an asset's lines without indentation and without those that only comment; no string spans lines."""
    lines = (line.strip() for line in asset(name).split("\n"))
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def fingerprint(content: str) -> str:
    """Return the hash by which the page's policy knows a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")
