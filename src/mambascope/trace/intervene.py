"""Passes through a stock model in which chosen sources give nothing to chosen targets: causal ground truth.

The model's own code runs, but its scans leave out the sources' share. With s the input of the scan, and every other
coefficient unchanged, that share of target i is

    Σ_{j in sources} (alpha_ij + D [i=j]) s_j ,

a second scan over the sources alone, so nothing of size L x L is ever held. The skip D counts as part of j = i: the
value s_j reaches the output through alpha and, at its own position, through D, and both paths are cut. The effect of
s_j on Δ, B and C, and the gate, stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import Family, ScanCall, find_mixers
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import scanning
from mambascope.trace.scanning import read_call, scanned

#: Cost of a pair in a tile, in tokens of a scan: measured for Mamba-1 on a CPU; Mamba-2's tiles are cheaper.
PAIR_COST = 4


@dataclass(frozen=True, eq=False)
class Knockout:
    """Which sources give nothing to which targets.

    Attributes:
        mixers: Names of the mixers in which they are cut, as in `named_modules`.
        sources: True at the sources, for every text of the batch.
        targets: The positions that lose them; None for all, which is the same as setting the sources' values to zero.
    """

    mixers: Collection[str]
    sources: Bool[Tensor, "b L"]
    targets: tuple[int, ...] | None = None

    __repr__ = brief


def scan_mixers(model: nn.Module) -> list[tuple[str, nn.Module, Family]]:
    """Return the name, module and family of every mixer that has a scan.

    Raises:
        UnsupportedModelError: if there is none.
    """
    found = [(name, mixer, family) for name, mixer, family in find_mixers(model) if isinstance(family, Family)]
    if not found:
        raise UnsupportedModelError(f"{type(model).__name__} holds no selective scan from which to cut a source")
    return found


@contextmanager
def intervening(own: nn.Module, edit: Knockout | None) -> Iterator[None]:
    """Run this thread's calls of a private copy, or of one of its mixers, with an edit inside the block.

    No gradients are kept. With no edit the model runs unchanged, with our scans where its own would be slow; this works
    for any model.

    Args:
        own: A private copy of a model.
        edit: What is left out.

    Raises:
        UnsupportedModelError: if there is an edit and no scan to apply it to.
    """
    mixers = scan_mixers(own) if edit is not None else _scan_mixers_if_any(own)
    editor = _Editor(edit, {family.scan_point: family for _, _, family in mixers})
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for name, mixer, _ in mixers:
            if edit is not None and name in edit.mixers:
                stack.enter_context(editor.inside(mixer))
        stack.enter_context(intercepting(editor, editor.families))
        yield


def _scan_mixers_if_any(model: nn.Module) -> list[tuple[str, nn.Module, Family]]:
    try:
        return scan_mixers(model)
    except UnsupportedModelError:
        return []


@dataclass
class _Editor:
    """Runs scans, leaving out the cut sources in the mixers that the edit names."""

    edit: Knockout | None
    families: dict[PatchPoint, Family]
    cutting: bool = False
    calls: int = 0

    @contextmanager
    def inside(self, mixer: nn.Module) -> Iterator[None]:
        """Keep track of when this mixer runs."""

        def before(*_: Any) -> None:
            self.cutting, self.calls = True, 0

        def after(*_: Any) -> None:
            self.cutting = False

        handles = [mixer.register_forward_pre_hook(before), mixer.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of a scan call."""
        family = self.families[point]
        call = read_call(family, args, kwargs)
        if self.edit is None or not self.cutting:
            return call.give(_intact(family, original, call, args, kwargs))
        edit, sources = self.edit, self.edit.sources
        reading = family.readings[self.calls % len(family.readings)]
        self.calls += 1
        if sources.shape != call.s.shape[:2]:
            raise InputError(
                f"sources of shape {tuple(sources.shape)} do not match the text's (batch, tokens) "
                f"{tuple(call.s.shape[:2])}"
            )
        order = reading.tokens(call.coefficients)
        sources = sources[:, order]
        if edit.targets is None:
            kept = replace(call, s=call.s.masked_fill(sources[..., None], 0))
            return call.give(_intact(family, original, kept, args, kwargs))
        o = _intact(family, original, call, args, kwargs)
        rows = order.argsort()[list(edit.targets)].tolist()
        o[:, rows] -= _share(family, call, sources, rows).to(o.dtype)
        return call.give(o)


def _intact(
    family: Family, original: Callable[..., Any], call: ScanCall, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Float[Tensor, "b L D"]:
    """Return the scan of a call's input: by the model's compiled kernel if it has one, else by ours."""
    if scanning.has_kernel(call.s):
        return call.take(original(call.give(call.s).contiguous(), *args[1:], **kwargs))
    return scanned(family, call)


def _share(family: Family, call: ScanCall, sources: Bool[Tensor, "b L"], rows: list[int]) -> Float[Tensor, "b t D"]:
    """Return what the sources give to the target rows of a call, gated if the scan applies the gate."""
    working = torch.promote_types(call.s.dtype, torch.float32)
    scan = family.scan(call.coefficients, working)
    v = call.s.to(working) * sources[..., None]
    places = sources.any(dim=0).nonzero()
    if not len(places):
        return v[:, rows]
    span = slice(int(places[0]), int(places[-1]) + 1)
    few = PAIR_COST * len(rows) * (span.stop - span.start) <= v.shape[1]
    mixed = _through_tiles(scan, v, rows, span) if few else scan.apply(v)[:, rows]
    share = torch.addcmul(mixed, scan.skip, v[:, rows])
    z = call.coefficients.get("z")
    return share if z is None else share * F.silu(z[:, rows].to(working))


def _through_tiles(scan: TokenMixer, v: Float[Tensor, "b L D"], rows: list[int], span: slice) -> Float[Tensor, "b t D"]:
    """Return (alpha v)_i for the target rows, where v is zero outside the span."""
    given = v[:, span].transpose(1, 2)
    tiles = (scan.channels(scan.tile(slice(row, row + 1), span))[:, :, 0] for row in rows)
    return torch.stack([(tile * given).sum(dim=-1) for tile in tiles], dim=1)
