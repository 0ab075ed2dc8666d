"""What results must be to be drawn: finite numbers, and of one text or picture where they share a page."""

from __future__ import annotations

import torch

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.grid import Grid

#: Numbers of layers that are also drawn small, one by one.
SMALL_MULTIPLES = range(2, 49)


def require_finite(attribution: Attribution) -> None:
    """Refuse a result that holds NaN or infinity: any drawing of it would mislead.

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
    if attribution.pixels is not None and not attribution.pixels.isfinite().all():
        raise InputError(
            f"the {attribution.method} scores of pixels hold values that are not finite numbers, which cannot be "
            "drawn; check the model's weights and number format"
        )
    if not attribution.matrix().isfinite().all():
        raise InputError(
            f"the {attribution.method} scores of single layers are so large that all layers' together are not finite "
            "numbers, which cannot be drawn; check the model's weights and number format"
        )


def require_same_text(attribution: Attribution, *others: Attribution) -> None:
    """Refuse results that cannot share one page because their texts differ.

    Raises:
        InputError: naming the method.
    """
    for other in others:
        if other.tokens != attribution.tokens:
            raise InputError(f"{other.method} explains another text than {attribution.method}; make a page for each")


def require_layers(attribution: Attribution, layer: int | None, layers: str) -> None:
    """Raise InputError if a figure is asked to show each layer and cannot."""
    count = len(attribution.axes["layer"])
    if layers == "each" and (layer is not None or count not in SMALL_MULTIPLES):
        raise InputError(
            f"layers='each' draws 2 to 48 layers beside their mean, but this result has {count} and layer={layer} was "
            "asked for; use layers='mean'"
        )


def require_picture(attribution: Attribution) -> Grid:
    """Return where the patches of a result's picture lie; raises InputError if it is of a text."""
    if attribution.grid is None:
        raise InputError("this result is of a text, not of a picture; draw it with figure()")
    return attribution.grid


def require_same_picture(attribution: Attribution, *others: Attribution) -> None:
    """Refuse results that cannot share one page because their pictures or patches differ.

    Raises:
        InputError: naming the method.
    """
    for other in others:
        ours, theirs = attribution.image, other.image
        differ = ours is not None and theirs is not None and not torch.equal(ours, theirs)
        if differ or other.grid != attribution.grid:
            raise InputError(f"{other.method} explains another picture than {attribution.method}; make a page for each")
