"""Positions in the texts of a batch, counted within each text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mambascope.errors import InputError
from mambascope.numbering import whole_numbers


def positions_in(
    mask: Shaped[Tensor, "b L"] | None, shape: tuple[int, int], target: int | Sequence[int], name: str = "target"
) -> Int[Tensor, "b T"]:
    """Return the positions of the targets in each text of a padded batch, counted from 0.

    Args:
        mask: The attention mask, zero at padding; None if there is none.
        shape: Number of texts, and of positions.
        target: One position, or several. Negative numbers count back from each text's own last token, others from the
            beginning of the row, including padding.
        name: What to call a target in the message.

    Raises:
        InputError: if a target is not a position, is padding in one of the texts, or there is none.
    """
    targets, (batch, length) = whole_numbers(target, name), shape
    wrong = [position for position in targets if not -length <= position < length]
    if wrong or not targets:
        raise InputError(
            f"{name} {wrong[0] if wrong else list(targets)} is not a position of this text, which has positions 0 to "
            f"{length - 1}"
        )
    if mask is None:
        rows = [[position % length for position in targets]] * batch
    else:
        rows = [_own(targets, real.nonzero()[:, 0].tolist(), text, name) for text, real in enumerate(mask)]
    return torch.tensor(rows, device="cpu")


def _own(targets: Sequence[int], own: list[int], text: int, name: str) -> list[int]:
    """Return the targets' positions in one text, whose own tokens are at `own`."""
    real = set(own)
    for target in targets:
        if target < 0 and -target > len(own):
            raise InputError(f"{name} {target} is not a position of text {text}, which has {len(own)} tokens")
        if target >= 0 and target not in real:
            stand = f"; its own tokens are at {own[0]} to {own[-1]}" if own else ""
            raise InputError(
                f"{name} {target} is padding in text {text}{stand}; negative numbers count back from each text's own "
                "last token"
            )
    return [own[target] if target < 0 else target for target in targets]
