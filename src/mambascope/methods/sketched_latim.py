"""LaTIM's ℓ2 maps from a sketch: the top sources of every target exactly, the others as estimates with error bars.

A map costs one product with W_o (F, D) per pair. Here W_o is projected to k random directions first
(`mambascope.operators.random_projection`), so that the product of all pairs shrinks from D·F to D·k operations, and
only pairs that may be among a target's top sources are multiplied with W_o itself: those whose estimate, times the
factor that true values are hardly ever beyond, reaches the least of the top values found so far. A top source is missed
only if its own estimate is that far too low; how many pairs there are does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.arguments import count
from mambascope.brief import brief
from mambascope.memory import require_bytes
from mambascope.methods.checked import checked
from mambascope.methods.latim import latim, layers_of
from mambascope.methods.targets import band_of
from mambascope.operators.affine_map import ActivationRule, AffineMap, check_rule, projected
from mambascope.operators.blocks import Block, Workspace
from mambascope.operators.chosen_targets import within_band
from mambascope.operators.random_projection import length_error, length_factors, random_projection
from mambascope.trace import Trace

#: Most chance that some top source of a target is missed.
MISS = 1e-6


@dataclass(frozen=True, eq=False)
class SketchedMaps:
    """What `sketched_latim` returns.

    Attributes:
        maps: ‖T_ij(x_j)‖₂, exact or estimated, zero where i cannot see j.
        exact: Where they are exact: at the top sources of every target, at others that might have been, and at zeros.
        error: Root mean square of an estimate's relative error, over the draw of the directions.
        low: The true value is less than `low` times its estimate with a chance of 1e-6 at most.
        high: It is more than `high` times its estimate with a chance of 1e-6 at most.
    """

    maps: Float[Tensor, "b ... t L"]
    exact: Bool[Tensor, "b ... t L"]
    error: float
    low: float
    high: float

    __repr__ = brief


@checked
def sketched_latim(
    trace: Trace,
    layer: int | None = None,
    *,
    sketch: int = 64,
    exact: int = 8,
    rule: ActivationRule = "secant",
    seed: int = 0,
    targets: slice | None = None,
) -> SketchedMaps:
    """Return LaTIM's ℓ2 maps with the top sources of every target exact, and the other values estimated.

    An estimate is ‖S W_o r‖, where T = W_o r and the rows of S are random directions. That the true top sources of a
    target are among the exact values fails with a chance of 1e-6 at most, over the draw of S. An estimate is never
    larger than the least of its target's top values. In float32 vectors shorter than 1e-19 have no squares, so that
    their norms are rough or zero, as `latim`'s are.

    The products cost L²·D·k operations per layer, and D·F for every pair that is multiplied out. The mixing itself
    costs what it costs `latim`, so this pays for scans and delta rules in wide models (F well above k), hardly in
    narrow ones (`docs/cost.md`), and not for softmax attention without an output gate, where a pair's product has inner
    size H. It cannot be done where a norm or a gate follows W_o, or mixers side by side share no W_o. Layers of these
    three kinds are computed as `latim` does, and exact everywhere.

    Args:
        trace: A capture.
        layer: Number of the layer; None for all.
        sketch: k, the number of directions; a layer that has no more features is exact everywhere.
        exact: How many top sources of every target are exact.
        rule: The activation rule.
        seed: Seed of the directions.
        targets: The rows to return, a slice of consecutive positions; by default all.

    Returns:
        Maps (b, layers, t, L), or (b, t, L) when `layer` is a number, where they are exact, and the error elsewhere.

    Raises:
        InputError: if the layer, the rule or the targets do not exist, or a number is not one that this can take.
        MapTooLargeError: if the maps would not fit in memory.
    """
    check_rule(rule)
    sketch, exact, layers = count(sketch, "sketch"), count(exact, "exact"), layers_of(trace, layer)
    batch, length = trace.shape
    like, rows = trace.operator(layers[0]).x, band_of(targets, length)
    shape = (batch, len(layers), rows.stop - rows.start, length)
    needed, way_out = math.prod(shape) * (like.element_size() + 1), "ask for one layer at a time or shorten the text"
    require_bytes(needed, like.device, f"a map of shape {shape} with what is exact", way_out)
    maps, known = like.new_zeros(shape), torch.ones(shape, dtype=torch.bool, device=like.device)
    real = None if trace.attention_mask is None else trace.attention_mask.bool()
    error, low, high = 0.0, 1.0, 1.0
    for place, number in enumerate(layers):
        operator = trace.operator(number)
        W_o, device = operator.W_o, operator.x.device
        if W_o is None or not operator.projects_tiles or len(W_o) <= sketch:
            maps[:, place] = latim(trace, number, rule=rule, targets=rows)
            continue
        least, most = length_factors(sketch, len(W_o), MISS / exact)
        error, low, high = max(error, length_error(sketch, len(W_o))), min(low, least), max(high, most)
        own, exactly = maps[:, place].to(device), known[:, place].to(device)  # the same memory, unless it is elsewhere
        best, here = own.new_zeros(batch, shape[2], exact), None if real is None else real.to(device)
        found = _Found(own, exactly, best, most, W_o, here)
        S = random_projection(sketch, len(W_o), seed).to(W_o)
        for block, received, estimates in _estimated(operator, S @ W_o, rule, rows):
            found.add(block, rows, received, estimates)
        if device != maps.device:
            maps[:, place], known[:, place] = own, exactly
    known |= maps == 0
    if layer is not None:
        maps, known = maps[:, 0], known[:, 0]
    return SketchedMaps(maps, known, error, low, high)


def _estimated(
    operator: AffineMap, W_k: Float[Tensor, "k D"], rule: ActivationRule, rows: slice
) -> Iterator[tuple[Block, Float[Tensor, "b D t c"], Float[Tensor, "b t c"]]]:
    """Yield what W_o receives and the estimates of every block, the last sources first: in most scans they weigh most.

    What it receives is valid until the next block.
    """
    workspace = Workspace()
    for block in reversed(list(operator.blocks(rows))):
        received = operator.received_tile(block, rule, workspace)
        yield block, received, torch.linalg.vector_norm(projected(received, W_k, workspace), dim=1)


@dataclass(frozen=True, eq=False)
class _Found:
    """One layer's values so far, written in place.

    Attributes:
        maps: The values.
        known: Where they are exact.
        best: The largest exact values of every target.
        high: The factor of an estimate that its true value is hardly ever beyond.
        W_o: Output projection.
        real: True at real tokens; None without padding.
    """

    maps: Float[Tensor, "b t L"]
    known: Bool[Tensor, "b t L"]
    best: Float[Tensor, "b t n"]
    high: float
    W_o: Float[Tensor, "F D"]
    real: Bool[Tensor, "b L"] | None

    __repr__ = brief

    def add(
        self, block: Block, band: slice, received: Float[Tensor, "b D t c"], estimates: Float[Tensor, "b t c"]
    ) -> None:
        """Write a block's values: exact ones for what may be among the top, of which the likeliest are found first."""
        if self.real is not None:
            estimates = estimates * (self.real[:, block.rows, None] & self.real[:, None, block.columns])
        rows, most = within_band(block, band), self.best.shape[2]
        values, known = estimates.clone(), torch.zeros_like(estimates, dtype=torch.bool)
        likeliest = estimates >= estimates.topk(min(most, block.shape[1])).values[..., -1:]
        for asked in (likeliest, ~likeliest):
            best = self.best[:, rows]
            chosen = asked & (estimates > 0) & (estimates * self.high >= best[..., -1:])
            texts, targets, sources = chosen.nonzero(as_tuple=True)
            if len(texts):
                vectors = received[texts, :, targets, sources] @ self.W_o.t()
                values[chosen] = torch.linalg.vector_norm(vectors, dim=1)
                known |= chosen
                best.copy_(torch.cat([best, values * chosen], dim=2).topk(most).values)
        self.maps[:, rows, block.columns], self.known[:, rows, block.columns] = values, known
