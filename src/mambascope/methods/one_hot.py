"""The row that a product over layers starts from: the targets."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.trace import Trace


def one_hot(trace: Trace, target: int | Sequence[int]) -> Float[Tensor, "b L"]:
    """Return a row with equal weights at the targets that sum to one.

    Args:
        trace: A capture.
        target: Position, or several; negative numbers count from the end.

    Raises:
        InputError: if a target is not a position of the text, or there is none.
    """
    targets = positions(trace, target)
    rho = trace.operator(len(trace.layers) - 1).x.new_zeros(trace.shape)
    for position in targets:
        rho[:, position] += 1 / len(targets)
    return rho


def positions(trace: Trace, target: int | Sequence[int]) -> list[int]:
    """Return the targets as positions counted from 0; errors as in `one_hot`."""
    targets = [target] if isinstance(target, int) else list(target)
    length = trace.shape[1]
    wrong = [position for position in targets if not -length <= position < length]
    if wrong or not targets:
        raise InputError(
            f"target {wrong[0] if wrong else targets} is not a position of this text, which has positions 0 to "
            f"{length - 1}"
        )
    return [position % length for position in targets]
