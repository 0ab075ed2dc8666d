"""Words for the parts of a picture, and for what is explained."""

from __future__ import annotations

from mambascope.attribution import Attribution
from mambascope.show.screen import percent

#: What precedes the classes of a model that judges each by itself: their probabilities need not add up to one.
INDEPENDENT = "each class by itself"
FEATURES = "the size of "


def target_place(attribution: Attribution, position: int | None = None) -> tuple[int, int] | None:
    """Return the row and column of the patch that is explained; None for the class token or the mean of the patches."""
    if attribution.grid is None or (position is None and attribution.target.pooled > 1):
        return None
    return attribution.grid.place(attribution.target.position if position is None else position)


def what_is_explained(attribution: Attribution, position: int | None = None) -> str:
    """Return what the scores are about: a class, and the token that it is read from."""
    target, place = attribution.target, target_place(attribution, position)
    where = f"patch {place[0]},{place[1]}" if place is not None else "the class token"
    if place is None and position is None and target.pooled > 1:
        where = f"the mean of {target.pooled} tokens"
    if target.asked.startswith("size of the features"):
        return f"explains {FEATURES}the features of {where}"
    asked = _asked(attribution)
    stage, last = attribution.diagnostics.get("stage"), attribution.diagnostics.get("stages", 1) - 1
    if stage is not None and place is None:
        patches = f"the {target.pooled} patches of stage {stage} (0 to {last})"
        return f"explains {asked}, in {patches}" if asked else f"explains {patches} together"
    return f"explains {asked}, read from {where}" if asked else f"explains {where}"


def heading(attribution: Attribution, position: int | None = None) -> str:
    """Return what a figure of a picture shows, without naming the method."""
    explained = what_is_explained(attribution, position).removeprefix("explains ")
    if explained.startswith(FEATURES):
        return f"Which patches {explained.removeprefix(FEATURES)} were drawn from"
    if attribution.target.asked:
        return f"Which patches {_asked(attribution)} was drawn from"
    return f"Which patches {explained.removesuffix(' together')} drew from"


def how_to_read(attribution: Attribution, position: int | None, layer: int | None, layers: bool) -> str:
    """Return how to read the scores that lie over a picture."""
    says = "Blue: the patch adds, orange: it takes away. " if attribution.signed else ""
    says += "The deeper the colour, the larger the score, scaled to the largest patch. Shares of all absolute scores: "
    says += f"{', '.join(shares(attribution, position, layer))}."
    return says + (" Below, each layer by its number, each on its own scale." if layers else "")


def source_name(token: str) -> str:
    """Return what to call a token of a picture, given as `Grid.name` does."""
    return "class token" if token == "class" else f"patch {token}"


def sees(attribution: Attribution, count: int = 1) -> str:
    """Return the likeliest classes with their probabilities; empty for a model that names none."""
    named = [f"{name} {percent(share)}" for name, share in attribution.target.next_tokens[:count]]
    if attribution.target.independent and len(named) > 1:
        return f"{INDEPENDENT}: {', '.join(named)}"
    return ", then ".join(named)


def shares(attribution: Attribution, position: int | None = None, layer: int | str | None = None) -> list[str]:
    """Return how much of a row the class token and the patches hold, and how much the largest patch.

    Colours over a picture are scaled to its own largest patch, however little that holds: this says how little.
    """
    row, patches = attribution.row(position, layer).abs(), attribution.picture(position, layer).abs()
    total = float(row.sum()) or 1.0
    largest = f"largest patch {percent(float(patches.max()) / total)}"
    if attribution.grid is None or attribution.grid.class_position is None:
        return [largest]
    of_class, of_patches = float(row[attribution.grid.class_position]) / total, float(patches.sum()) / total
    return [f"class token {percent(of_class)}", f"patches together {percent(of_patches)}", largest]


def _asked(attribution: Attribution) -> str:
    return attribution.target.asked.replace("logit of class ", "").replace("minus that of", "against")
