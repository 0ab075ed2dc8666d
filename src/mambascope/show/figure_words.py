"""What figures of texts say: what they show, by which method, and how to read them."""

from __future__ import annotations

from mambascope.attribution import WHOLE_MODEL, Attribution
from mambascope.methods.registry import METHODS
from mambascope.show.screen import percent
from mambascope.show.text import target_name
from mambascope.show.typeface import drawable

LONGEST_MODEL = 40
SHADES = "Shades follow the square root of the score"


def heading(attribution: Attribution) -> str:
    """Return what a figure of a text shows, without naming the method."""
    target = attribution.target
    if target.generated is not None:
        return "Which tokens each generated token was drawn from"
    if len(attribution.axes["target"]) > 1:
        every = len(attribution.axes["target"]) == len(attribution.tokens)
        return f"Which tokens each {'token of the text' if every else 'of these tokens'} drew from"
    if target.asked:
        return f"What the {drawable(target.asked)} was drawn from"
    return f"What position {target.position}, ‘{drawable(target_name(attribution))}’, drew from"


def made_by(attribution: Attribution, layer: int | None) -> str:
    """Return the method and what it shows, the model, the layers, and for a single target the prediction there."""
    known = METHODS.get(attribution.method)
    name = attribution.model.name
    name = name if len(name) <= LONGEST_MODEL else "…" + name[1 - LONGEST_MODEL :]
    layers = f"layer {layer}" if layer is not None else layers_together(attribution)
    lines = f"{attribution.method}{f': {known.title}' if known else ''}\n{drawable(name)}, {layers}"
    target = attribution.target
    if len(attribution.axes["target"]) == 1 and target.next_tokens:
        token, probability = target.next_tokens[0]
        where = f"position {target.position}, ‘{drawable(target_name(attribution))}’"
        lines += f"; after {where}, it predicts ‘{drawable(token)}’ ({percent(probability)})"
    return lines


def layers_together(attribution: Attribution) -> str:
    """Return how the layers make up what is drawn: `mean of 7 layers`, `whole model`."""
    layers = attribution.axes["layer"]
    if len(layers) > 1:
        return f"{attribution.over_layers} of {len(layers)} layers"
    return "whole model" if layers[0] == WHOLE_MODEL else f"layer {layers[0]}"


def how_to_read_map(attribution: Attribution, small: bool) -> str:
    """Return how to read a map of all targets, with or without its layers beside it."""
    says = "Rows: the token that receives (target). Columns: the token that it drew from (source). "
    if attribution.signed:
        says += "Blue: the source adds, orange with a minus: it takes away; the deeper, the more. "
    else:
        says += "The darker, the more was drawn. "
    return says + f"{SHADES}." + (" At the right, each layer by its number, on its own scale." * small)


def how_to_read_bars(attribution: Attribution, layers: bool) -> str:
    """Return how to read the sources of one target as bars."""
    says = "A bar for each token of the text, from top to bottom: how much was drawn from it"
    says += " (hatched: it takes away)." if _takes_away(attribution) else "."
    return says + (" At the right, how much each layer carried: the sum of its absolute scores." * layers)


def how_to_read_line(attribution: Attribution, named: int, layers: bool) -> str:
    """Return how to read the sources of one target in a long text."""
    says = "The text from left to right: each line's height is the square root of what was drawn from the token there"
    says += " (downwards, orange: it takes away)" if _takes_away(attribution) else ""
    says += f". The {named} largest are named, with position and share of the sum of absolute scores."
    if layers:
        says += " Below, each layer by itself, all on one scale; the bars: the sum of each layer's absolute scores."
    return says


def _takes_away(attribution: Attribution) -> bool:
    return bool((attribution.row(attribution.axes["target"][0]) < 0).any())
