"""LaTIM (Pitorro & Treviso, arXiv 2502.15612): token-to-token contribution vectors and their norms.

The paper applies the activation to each source's share (activation rule `silu`, eq. 13), which leaves a residual; our
default, `secant`, leaves none: the vectors and the bias add up to the mixer's output.

Mixers without an activation, such as softmax attention, have the same vectors under every rule. For attention their
norms are Kobayashi et al.'s (`norm_based`) but for the bias of the values, which belongs to β here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.arguments import choice, count
from mambascope.errors import InputError
from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.method import LATIM, Method
from mambascope.methods.targets import band_of, of_each_text, without_padding
from mambascope.numbering import shown
from mambascope.operators.affine_map import ActivationRule
from mambascope.operators.chosen_targets import within_band
from mambascope.trace import Trace

#: The precision of products with W_o: that of the trace, or bfloat16 with sums in float32.
Precision = Literal["own", "bfloat16"]


@checked
def contributions(
    trace: Trace, layer: int, target: int, rule: ActivationRule = "secant"
) -> tuple[Float[Tensor, "b L E"], Float[Tensor, "b E"]]:
    """Return the vectors T_ij(x_j) that every source j gives to one target i in one layer, and the bias β_i.

    With the `secant` rule their sum over j plus the bias is the mixer's output at i. Time O(L·D·(N + E)).

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        target: Position i; negative numbers count back from each text's own last token.
        rule: Activation rule: `secant` (exact), `silu` (the paper's), or `identity` (models without the activation).

    Raises:
        InputError: if the layer, the target or the rule does not exist, or the target is padding in one of the texts.
    """
    operator = trace.operator(layer)
    vectors, bias = of_each_text(trace, target, lambda place: operator.contributions(place, rule))
    return vectors, bias


@checked
def latim(
    trace: Trace,
    layer: int | None = None,
    norm: Literal[1, 2] = 2,
    rule: ActivationRule = "secant",
    *,
    precision: Precision = "own",
    targets: slice | None = None,
) -> Float[Tensor, "b *layers t L"]:
    """Return ‖T_ij(x_j)‖_p for every target i and source j (LaTIM ℓp), zero where i cannot see j.

    The products cost L²·D·E operations per layer; memory beyond the answer is one tile.

    Args:
        trace: A capture.
        layer: Number of the layer; None for all.
        norm: p, 1 or 2.
        rule: The activation rule.
        precision: `bfloat16` multiplies with W_o in bfloat16 and adds up in float32, which is faster where the
            processor multiplies bfloat16 itself; `own` multiplies in the precision of the trace. `latim_error` measures
            what that costs.
        targets: The rows to return, a slice of consecutive positions; by default all.

    Returns:
        (b, layers, t, L), or (b, t, L) when `layer` is a number; t is L unless targets are chosen.

    Raises:
        InputError: if the layer, the norm, the rule, the precision or the targets do not exist, or the trace is in
            float64 and another precision is asked for.
        MapTooLargeError: if the maps would not fit in memory.
    """
    check_norm(norm)
    layers = layers_of(trace, layer)
    batch, length = trace.shape
    dtype = _dtype_of_products(trace, precision)
    like = trace.operator(layers[0]).x
    rows = band_of(targets, length)
    shape = (batch, len(layers), rows.stop - rows.start, length)
    require_room(shape, like, "ask for one layer at a time or shorten the text")
    maps = like.new_zeros(shape)
    for place, number in enumerate(layers):
        operator = trace.operator(number)
        operator = operator if dtype is None else operator.projecting_in(dtype)
        own = maps[:, place].to(operator.x.device)  # the same memory, but for a layer on another device
        for block, tile in operator.contribution_tiles(rule, rows):
            _write_norms(tile, norm, own[:, within_band(block, rows), block.columns])
        if own.device != maps.device:
            maps[:, place] = own
    maps = without_padding(trace, maps, rows)
    return maps if layer is None else maps[:, 0]


@checked
def latim_row(
    trace: Trace, layer: int, target: int, norm: Literal[1, 2] = 2, rule: ActivationRule = "secant"
) -> Float[Tensor, "b L"]:
    """Return one target's row of `latim`, in O(L·D·(N + E))."""
    check_norm(norm)
    vectors, _ = contributions(trace, layer, target, rule)
    return torch.linalg.vector_norm(vectors, ord=norm, dim=-1)


@checked
def latim_error(
    trace: Trace,
    maps: Float[Tensor, "b *layers t L"],
    layer: int | None = None,
    norm: Literal[1, 2] = 2,
    rule: ActivationRule = "secant",
    *,
    rows: int = 4,
    targets: slice | None = None,
) -> Float[Tensor, "*layers"]:
    """Return how far maps of `latim` are from the same in the trace's own precision, measured at some targets.

    The targets are spread evenly over those that the maps have, the last among them. Their rows are computed anew, each
    in O(L·D·(N + E)). The error is ‖row - exact row‖ / ‖exact row‖ over all of them.

    Args:
        trace: The capture from which the maps are.
        maps: What `latim` returned, for one layer or for all.
        layer, norm, rule, targets: As they were given to `latim`.
        rows: How many targets; no more than the maps have.

    Returns:
        One number per layer, or a single one when `layer` is a number.

    Raises:
        InputError: if the layer, the norm, the rule or the targets do not exist, or the maps are not of that shape.
    """
    check_norm(norm)
    (batch, length), layers = trace.shape, layers_of(trace, layer)
    band = band_of(targets, length)
    held = band.stop - band.start
    measured = min(count(rows, "rows"), held)
    places = [band.stop - 1 - place * held // measured for place in range(measured)]
    shape = (batch, *(() if layer is not None else (len(layers),)), held, length)
    if not isinstance(maps, Tensor) or maps.shape != shape:
        raise InputError(f"maps must be what latim returned, of shape {shape}, found {shown(maps)}")
    found = maps.reshape(batch, len(layers), held, length)[:, :, [place - band.start for place in places]]
    errors = []
    for place, number in enumerate(layers):
        operator = trace.operator(number)
        vectors = torch.stack([operator.contributions(target, rule)[0] for target in places], dim=1)
        own = torch.linalg.vector_norm(vectors, ord=norm, dim=-1)
        if trace.attention_mask is not None:
            real = trace.attention_mask.bool().to(own.device)
            own = own * (real[:, places, None] & real[:, None])
        errors.append(((found[:, place].to(own.device) - own).norm() / own.norm()).to(maps.device))
    return torch.stack(errors) if layer is None else errors[0]


def layers_of(trace: Trace, layer: int | None) -> Sequence[int]:
    """Return the number of the layer that is asked for, or of every layer for None."""
    return range(len(trace.layers)) if layer is None else [trace.index(layer)]


def _dtype_of_products(trace: Trace, precision: str) -> torch.dtype | None:
    """Return the dtype of products with W_o, or None for the trace's own."""
    if choice(precision, get_args(Precision), "precision") == "own":
        return None
    own = trace.operator(0).x.dtype
    if own != torch.float32:
        raise InputError(
            f"precision='bfloat16' is for models in float32 or less, but this one is in {shown(own)}; leave it out, or "
            "load the model in float32"
        )
    return torch.bfloat16


def _write_norms(tile: Float[Tensor, "b F t c"], norm: int, out: Float[Tensor, "b t c"]) -> None:
    """Write the norms of vectors, which are overwritten: torch's ℓ1 norm takes eight times as long as this sum."""
    tile = tile.to(out.dtype)
    if norm == 1:
        torch.sum(tile.abs_(), dim=1, out=out)
    else:
        torch.linalg.vector_norm(tile, ord=norm, dim=1, out=out)


def check_norm(norm: object) -> None:
    """Raise InputError unless the norm is 1 or 2."""
    choice(norm, (1, 2), "norm")


def _variant(name: str, title: str, rule: ActivationRule = "secant", norm: Literal[1, 2] = 2, **facts: Any) -> Method:
    row, whole = partial(latim_row, norm=norm, rule=rule), partial(latim, norm=norm, rule=rule)

    def band(trace: Trace, layer: int, targets: slice, precision: Precision = "own") -> Float[Tensor, "b t L"]:
        return latim(trace, layer, norm, rule, precision=precision, targets=targets)

    facts |= {"map": whole, "band": band, "map_error": partial(latim_error, norm=norm, rule=rule), "from_inputs": True}
    return Method(name, title, LATIM, signed=False, row=row, rule=rule, **facts)


METHODS = [
    _variant("latim", "ℓ2 norm of each source's exact contribution to the layer's output", shows_layers=True),
    _variant("latim-l1", "ℓ1 norm of each source's exact contribution to the layer's output", norm=1, offered=False),
    _variant(
        "latim-silu",
        "ℓ2 norm of contributions with the paper's activation of each share, which leaves a residual",
        rule="silu",
        offered=False,
    ),
    _variant(
        "latim-identity",
        "ℓ2 norm of contributions without the activation, for models trained without it",
        rule="identity",
        offered=False,
    ),
]
