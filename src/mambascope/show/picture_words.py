"""What to call the parts of a picture, and what of it is explained."""

from __future__ import annotations

from mambascope.methods.attribution import Attribution


def target_place(attribution: Attribution, position: int | None = None) -> tuple[int, int] | None:
    """Return row and column of the patch that is explained; None for the class token or the mean of the patches."""
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
        return f"explains the size of the features of {where}"
    asked = target.asked.replace("logit of class ", "").replace("minus that of", "against")
    stage, last = attribution.diagnostics.get("stage"), attribution.diagnostics.get("stages", 1) - 1
    if stage is not None and place is None:
        patches = f"the {target.pooled} patches of stage {stage} (0 to {last})"
        return f"explains {asked}, in {patches}" if asked else f"explains {patches} together"
    return f"explains {asked}, read from {where}" if asked else f"explains {where}"


def source_name(token: str) -> str:
    """Return what to call a token of a picture, given as `Grid.name` does."""
    return "class token" if token == "class" else f"patch {token}"


def sees(attribution: Attribution, count: int = 1) -> str:
    """Return the likeliest classes with their probabilities; empty for a model that names none."""
    return ", then ".join(f"{name} {share:.0%}" for name, share in attribution.target.next_tokens[:count])
