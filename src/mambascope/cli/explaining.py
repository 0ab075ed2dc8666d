"""`mambascope explain`: check what was asked for, explain, print, write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.cli.asked import layers_asked, short
from mambascope.cli.delivering import FIGURES, check_out, deliver
from mambascope.cli.progress import LateProgress
from mambascope.errors import InputError
from mambascope.explanation import default_method, explain_methods
from mambascope.explanation.explaining import check_asked, check_heard
from mambascope.methods.registry import METHODS, Method, find_method
from mambascope.trace.families import AttentionFamily, find_mixers
from mambascope.trace.preparation import reads_pictures
from mambascope.trace.tokens import encode

#: Longest text of which a figure or page shows every position unless told otherwise.
EVERY_TARGET = 512


def explain(
    text: str,
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase | None]],
    *,
    method: str | None,
    question: dict[str, Any],
    layer: str,
    targets: Literal["auto", "position", "all"],
    compat: Literal["published", "released"],
    as_json: bool,
    out: Path | None,
) -> None:
    """Explain one text and print or write the result; refuses what cannot work before the model is loaded."""
    text = sys.stdin.read() if text == "-" else text
    if not text:
        raise InputError("the text is empty; pass at least one word")
    number = layers_asked(layer)
    check_out(out)
    if method is not None:  # what can be refused before the model is loaded
        check_asked([find_method(method)], number, "position" if targets == "auto" else targets, compat)
        check_heard([find_method(method)], question["target"], question["foil"])
    model, tokenizer = load()
    if reads_pictures(model):
        raise InputError(
            f"{type(model).__name__} reads pictures, and there is no file {short(text)} that is one; name a picture"
        )
    suffix = out.suffix.lower() if out else ""
    shown = targets == "all" or (targets == "auto" and _every_position(model, tokenizer, text, suffix, compat))
    every: Literal["position", "all"] = "all" if shown else "position"
    named = {key: question[key] for key in ("target", "foil", "continuation")}
    chosen = find_method(method or default_method(model, **named, layer=number, targets=every))
    if targets == "auto" and chosen.scope == "model" and chosen.whole_map is None:
        every = "position"
    check_asked([chosen], number, every, compat)
    names = [chosen.name, *(_switches(chosen, model, every) if suffix == ".html" else ())]
    with LateProgress("explaining") as progress:
        results = explain_methods(
            model,
            tokenizer,
            text,
            methods=names,
            layer=number,
            targets=every,
            compat=compat,
            **question,
            progress=progress,
        )
    deliver(results, as_json, out, text=text)


def _every_position(model: Any, tokenizer: Any, text: str, suffix: str, compat: str) -> bool:
    """Return whether a file of this kind shows every position of this text unless told otherwise."""
    if suffix not in (".html", ".safetensors", *FIGURES) or compat != "published":
        return False
    _, pieces = encode(tokenizer, text, vocab_size=model.get_input_embeddings().num_embeddings)
    return len(pieces) <= EVERY_TARGET


def _switches(chosen: Method, model: Any, targets: str) -> list[str]:
    """Return the other methods that a page can switch to: of the same scope and cheap beside the chosen one."""
    kinds = {"attention" if isinstance(family, AttentionFamily) else "scan" for _, _, family in find_mixers(model)}
    return [
        other.name
        for other in METHODS.values()
        if other is not chosen
        and kinds <= other.kinds
        and (other.scope, other.split) == (chosen.scope, chosen.split)
        and other.needs != "interventions"
        and other.cost == "linear"
        and (other.asks == chosen.asks)
        and (targets == "position" or other.map is not None or other.whole_map is not None)
    ]
