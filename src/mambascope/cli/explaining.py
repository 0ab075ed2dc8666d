"""`mambascope explain`: check what was asked for, explain, print, write."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope import show
from mambascope.cli.progress import LateProgress
from mambascope.errors import InputError
from mambascope.explanation import default_method, explain_methods
from mambascope.explanation.explaining import check_asked, check_heard
from mambascope.files import check_place, whole_file
from mambascope.methods.attribution import Attribution
from mambascope.methods.registry import METHODS, Method, find_method
from mambascope.trace.families import AttentionFamily, find_mixers
from mambascope.trace.tokens import encode

FIGURES = (".png", ".pdf", ".svg")
FORMATS = (".html", *FIGURES, ".json", ".safetensors")

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
    number = _layer(layer)
    _check_out(out)
    if method is not None:  # what can be refused before the model is loaded
        check_asked([find_method(method)], number, "position" if targets == "auto" else targets, compat)
        check_heard([find_method(method)], question["target"], question["foil"])
    model, tokenizer = load()
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
    command = "mambascope " + shlex.join(sys.argv[1:])
    results = [
        dataclasses.replace(one, diagnostics={**one.diagnostics, "command": command, "text": text}) for one in results
    ]
    if as_json:
        print(json.dumps(results[0].to_dict(), ensure_ascii=False))
    else:
        results[0].show()
    if out is not None:  # after the result is shown: a full disk must not lose it
        with Console(stderr=True).status(f"writing {escape(str(out))}"):
            write(results, out)
        if not as_json:
            print(f"written   {out}" + (", to open in a browser" if suffix == ".html" else ""))


def _every_position(model: Any, tokenizer: Any, text: str, suffix: str, compat: str) -> bool:
    """Return whether a file of this kind shows every position of this text unless told otherwise."""
    if suffix not in (".html", ".safetensors", *FIGURES) or compat != "published":
        return False
    _, pieces = encode(tokenizer, text, vocab_size=model.get_input_embeddings().num_embeddings)
    return len(pieces) <= EVERY_TARGET


def write(results: list[Attribution], path: Path) -> None:
    """Write a result in the format that the path's suffix names, whole or not at all."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        results[0].save(path)
        return
    if suffix in FIGURES:
        show.save_figure(results[0], path)
        return
    content = results[0].to_html(*results[1:]) if suffix == ".html" else json.dumps(results[0].to_dict())
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8")


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


def _layer(layer: str) -> int | slice | Literal["all"]:
    if layer == "all":
        return "all"
    first, colon, last = layer.partition(":")
    try:
        return slice(int(first or 0), int(last) if last else None) if colon else int(layer)
    except ValueError:
        raise InputError(f"--layer {layer!r} is neither a number, a range such as 15: or 3:7, nor all") from None


def _check_out(out: Path | None) -> None:
    """Refuse a file that could not be written, before any work is done for it."""
    if out is None:
        return
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"--out {out} has no known ending; choose one of {', '.join(FORMATS)}")
    check_place(out)
