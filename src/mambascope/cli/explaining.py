"""`mambascope explain`: check what was asked for, explain, print, write."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.attribution import Attribution
from mambascope.cli.asked import layers_asked, short
from mambascope.cli.delivering import check_out, deliver
from mambascope.errors import InputError
from mambascope.explanation import default_method, explain_methods
from mambascope.explanation.explaining import check_options, check_targets
from mambascope.explanation.views import readable_methods, with_views
from mambascope.inputs.preparation import reads_pictures
from mambascope.methods.method import Method
from mambascope.methods.registry import find_method


def explain(
    text: str,
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase | None]],
    *,
    method: str | None,
    question: dict[str, Any],
    layer: str,
    targets: Literal["position", "all"],
    variant: Literal["published", "reference-code"],
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
        check_options([find_method(method)], number, targets, variant)
        check_targets([find_method(method)], question["target"], question["foil"])
    model, tokenizer = load()
    if reads_pictures(model):
        raise InputError(
            f"{type(model).__name__} reads pictures, and there is no file {short(text)} that is one; name a picture"
        )
    named = {key: question[key] for key in ("target", "foil", "continuation")}
    chosen = find_method(method or default_method(model, **named, layer=number, targets=targets))

    def explained(methods: Sequence[Method], every: bool) -> list[Attribution]:
        """Return results from one capture; methods that score a position are told of no target."""
        told = question if methods[0].asks or methods[0] is chosen else question | {"target": None, "foil": None}
        return explain_methods(
            model,
            tokenizer,
            text,
            methods=[one.name for one in methods],
            layer=number,
            targets="all" if every else "position",
            variant=variant,
            **told,
        )

    started = time.perf_counter()
    results = explained([chosen], targets == "all")
    if out is not None and out.suffix.lower() == ".html" and variant == "published":
        others = [one for one in readable_methods(model) if number == "all" or one.scope == "layer"]
        results = with_views(results[0], others, explained, started=started)
    deliver(results, as_json, out, text=text)
