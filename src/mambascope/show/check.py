"""What a result must be before it is drawn: made of numbers, and alike with the results drawn beside it."""

from __future__ import annotations

from mambascope.errors import InputError
from mambascope.methods.attribution import Attribution


def require_finite(attribution: Attribution) -> None:
    """Refuse a result that holds NaN or infinity: any picture of it would mislead.

    Raises:
        InputError: if a score is not a finite number; the message names the layers.
    """
    finite = attribution.scores.isfinite().flatten(1).all(dim=1).tolist()
    bad = [layer for layer, good in zip(attribution.axes["layer"], finite, strict=True) if not good]
    if bad:
        raise InputError(
            f"the {attribution.method} scores of layers {bad} hold values that are not finite numbers, which cannot be "
            "drawn; check the model's weights and number format (float16 overflows easily)"
        )


def require_alike(attribution: Attribution, *others: Attribution) -> None:
    """Refuse results that cannot share one page: their tokens and axes must be the same.

    Raises:
        InputError: naming the method and what differs.
    """
    for other in others:
        if other.tokens != attribution.tokens:
            raise InputError(f"{other.method} explains another text than {attribution.method}; make a page for each")
        for axis in ("layer", "target", "source"):
            if tuple(other.axes[axis]) != tuple(attribution.axes[axis]):
                raise InputError(
                    f"{other.method} holds other {axis} positions than {attribution.method}; make a page for each"
                )
