"""The learning rate: warm up, hold, decay at the end; a run can be cut short or drawn out while it holds."""

from __future__ import annotations


def learning_rate(step: int, steps: int, peak: float, warmup: int, decay: int) -> float:
    """Return the rate of one step of `steps`: linear over `warmup` steps, constant, linear to nothing over `decay`."""
    return peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay + 1)))
