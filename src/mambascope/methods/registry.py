"""Every method by name: what it is, whose it is, and how to get one row or the whole map of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from mambascope.errors import InputError
from mambascope.methods import hidden_attention, implicit_attention, latim
from mambascope.trace import Trace


@dataclass(frozen=True)
class Method:
    """One way to score sources.

    Attributes:
        name: What people type.
        title: What it shows, in a few words.
        paper: Where it comes from.
        signed: Whether scores can be negative.
        row: (trace, layer, target) → (b, L), one target's scores in time linear in L.
        map: (trace, layer) → (b, L, L), all targets.
    """

    name: str
    title: str
    paper: str
    signed: bool
    row: Callable[[Trace, int, int], Tensor]
    map: Callable[[Trace, int], Tensor]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "latim",
            "ℓ2 norm of each source's exact contribution to the layer's output",
            "Pitorro & Treviso, arXiv 2502.15612",
            False,
            latim.latim_row,
            latim.latim,
        ),
        Method(
            "latim-l1",
            "ℓ1 norm of each source's exact contribution to the layer's output",
            "Pitorro & Treviso, arXiv 2502.15612",
            False,
            partial(latim.latim_row, norm=1),
            partial(latim.latim, norm=1),
        ),
        Method(
            "hidden-attention",
            "the scan's own matrix, averaged over channels",
            "Ali, Zimerman & Wolf, arXiv 2403.01590",
            True,
            hidden_attention.hidden_attention_row,
            hidden_attention.hidden_attention_mean,
        ),
        Method(
            "implicit-attention",
            "the scan's matrix with gate, convolution and skip, averaged over channels",
            "Zimerman, Ali & Wolf, arXiv 2405.16504",
            True,
            implicit_attention.implicit_attention_row,
            partial(implicit_attention.implicit_attention, channels="mean"),
        ),
    )
}


def find_method(name: str) -> Method:
    """Return the method of this name, or raise InputError that lists those there are."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
