"""The parts of a long text to show on one screen: around the target, and around the sources that matter most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BEFORE_TARGET = 24
AFTER_TARGET = 4
AROUND_SOURCE = 6


def excerpt(cells: Sequence[int], target: int, sources: Iterable[int], budget: int) -> list[range]:
    """Return the runs of positions to show, in order, that fit a budget of character cells.

    The whole text comes back as one run where it fits. Otherwise the target's surroundings come first, then those of
    the sources in the order given, until the budget is spent.

    Args:
        cells: The width of each token on the screen.
        target: The target's position.
        sources: Source positions, most important first.
        budget: How many cells the screen has for the text.
    """
    if sum(cells) <= budget:
        return [range(len(cells))]
    kept: set[int] = set()
    spent = 0
    for position in _wish_list(target, sources, len(cells)):
        if position in kept:
            continue
        if spent + cells[position] > budget:
            break
        kept.add(position)
        spent += cells[position]
    kept.add(target)
    return _runs(sorted(kept))


def _wish_list(target: int, sources: Iterable[int], length: int) -> list[int]:
    """Return positions in the order in which we would like to show them, nearest to each centre first."""
    wishes = [target]
    wishes += range(target - 1, target - 1 - BEFORE_TARGET, -1)
    wishes += range(target + 1, target + 1 + AFTER_TARGET)
    for source in sources:
        wishes.append(source)
        for distance in range(1, AROUND_SOURCE + 1):
            wishes += (source - distance, source + distance)
    wishes += sorted(range(length), key=lambda position: abs(position - target))  # into whatever room is left
    return [position for position in wishes if 0 <= position < length]


def _runs(positions: Sequence[int]) -> list[range]:
    runs: list[range] = []
    for position in positions:
        if runs and runs[-1].stop == position:
            runs[-1] = range(runs[-1].start, position + 1)
        else:
            runs.append(range(position, position + 1))
    return runs
