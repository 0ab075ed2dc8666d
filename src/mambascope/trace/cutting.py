"""What one mixer computes when some sources give nothing: the value path is cut, and nothing else.

A mixer passes values s from sources to targets by a matrix. The share of sources S in what target i receives is

    scans, delta rules, …      Σ_{j in S} (alpha_ij + D [i=j]) s_j     s the scan's input
    softmax attention          Σ_{j in S} p_ij v_j                     v = W_V x + b_V, per head

and is left out. What decides how tokens mix stays as it was, the sources' own part in it too: Δ, B and C; p, which is
not normalised again; gates; and so does what goes past the mixing, as MambaVision's channels without a scan do. So the
same is cut in every kind of mixer, and biases of values are cut with them. Mamba
Knockout (arXiv 2505.24244) cuts alpha_ij alone and keeps D at j = i; we cut both, as value zeroing (Mohebbi et al.,
arXiv 2301.12971) sets the whole value to zero. Knockouts that mask attention before its softmax cut more: the other
sources then receive the share of p that the masked one had.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.families import Captured, Family, MixerFamily, ScanCall
from mambascope.families.family import Reading
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import scanning
from mambascope.trace.block import precision
from mambascope.trace.scanning import read_call, scanned

#: Cost of a pair in a tile, in tokens of a scan: measured for Mamba-1 on a CPU; Mamba-2's tiles are cheaper.
PAIR_COST = 4

#: Where the values stand among the arguments of an attention function: (module, q, k, v, …).
VALUES = 3


@dataclass(frozen=True, eq=False)
class Cut:
    """Which sources give nothing to which targets.

    Attributes:
        sources: True at the sources, for every text of the batch.
        targets: The positions that lose them; None for all.
    """

    sources: Bool[Tensor, "b L"]
    targets: tuple[int, ...] | None = None

    __repr__ = brief

    def require(self, texts: int, tokens: int) -> None:
        """Raise InputError unless the sources are those of this many texts and tokens."""
        if tuple(self.sources.shape) != (texts, tokens):
            raise InputError(
                f"sources of shape {tuple(self.sources.shape)} do not match the text's (batch, tokens) "
                f"{(texts, tokens)}"
            )


def cut_scan(
    family: Family,
    reading: Reading,
    cut: Cut,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return the result of a scan call without the sources' share, in the layout that the caller expects.

    Args:
        family: The family of the mixer that calls it.
        reading: Which of the mixer's calls it is.
        cut: What is cut, in the order of the text.
        original: The function that the mixer meant to call.
        args, kwargs: The arguments of the call.
    """
    call = read_call(family, args, kwargs)
    cut.require(*call.s.shape[:2])
    order = _order(reading, call)
    sources, kernel = cut.sources[:, order], scanning.has_kernel(call.s)
    if cut.targets is None and not kernel:
        return call.give(scanned(family, replace(call, s=call.s.masked_fill(sources[..., None], 0))))
    o = call.take(original(*args, **kwargs)) if kernel else scanned(family, call)
    rows = list(range(o.shape[1])) if cut.targets is None else order.argsort()[list(cut.targets)].tolist()
    if 2 * int(sources.sum()) > sources.numel():  # no difference of large sums for what is little
        o[:, rows] = (_share(family, call, ~sources, rows) + _of_bias(call, rows)).to(o.dtype)
    else:
        o[:, rows] -= _share(family, call, sources, rows).to(o.dtype)
    return call.give(o)


def cut_attention(
    cut: Cut, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return the output and p of an attention call (module, q, k, v, …) without the sources' share; p is intact.

    Args:
        cut: What is cut.
        original: The model's own function, in its eager form.
        args, kwargs: The arguments of the call.
    """
    bound = inspect.signature(original).bind(*args, **kwargs)
    name = list(bound.signature.parameters)[VALUES]
    value = bound.arguments[name]
    cut.require(value.shape[0], value.shape[2])
    kept = value.masked_fill(cut.sources[:, None, :, None], 0)
    if cut.targets is None:
        bound.arguments[name] = kept
    output, p, *_ = original(*bound.args, **bound.kwargs)
    if cut.targets is not None:
        rows = list(cut.targets)
        of_heads = kept.repeat_interleave(p.shape[1] // kept.shape[1], dim=1)  # query heads may share their values
        received = (p[:, :, rows] @ of_heads).transpose(1, 2)
        output[:, rows] = received.reshape(output[:, rows].shape)
    return output, p


def cut_output(mixer: nn.Module, family: MixerFamily, captured: Captured, cut: Cut) -> Tensor:
    """Return a mixer's output less the sources' share, which its exact affine map gives.

    For mixers that call no function in which their values could be cut. A norm inside such a mixer keeps its statistic.

    Args:
        mixer: The mixer.
        family: Its family.
        captured: What it consumed and gave in this call.
        cut: What is cut.
    """
    y = captured.y
    cut.require(*y.shape[:2])
    share = family.affine(mixer, captured, precision(y.dtype)).passed_on(cut.sources).to(y.dtype)
    rows = slice(None) if cut.targets is None else list(cut.targets)
    left = y.clone()
    left[:, rows] -= share[:, rows]
    return left if captured.grid is None else left.unflatten(1, captured.grid)


def _order(reading: Reading, call: ScanCall) -> Int[Tensor, " L"]:
    """Return the number of the token at each place of a call."""
    order = call.coefficients["order"] if reading.order is None else reading.order(call.s.shape[1])
    return order.to(call.s.device)


def _share(family: Family, call: ScanCall, sources: Bool[Tensor, "b L"], rows: list[int]) -> Float[Tensor, "b t D"]:
    """Return what the sources give to the target rows of a call, gated if the scan applies the gate.

    By the operator's tiles where few pairs are asked for, else by a second scan over the sources alone.
    """
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


def _of_bias(call: ScanCall, rows: list[int]) -> Float[Tensor, "*b t D"] | float:
    """Return what the target rows have from no source."""
    if call.bias is None:
        return 0.0
    working = torch.promote_types(call.s.dtype, torch.float32)
    bias, z = call.bias.to(working).expand(1, len(rows), -1), call.coefficients.get("z")
    return bias if z is None else bias * F.silu(z[:, rows].to(working))


def _through_tiles(scan: TokenMixer, v: Float[Tensor, "b L D"], rows: list[int], span: slice) -> Float[Tensor, "b t D"]:
    """Return (alpha v)_i for the target rows, where v is zero outside the span."""
    given = v[:, span].transpose(1, 2)
    tiles = (scan.channels(scan.tile(slice(row, row + 1), span))[:, :, 0] for row in rows)
    return torch.stack([(tile * given).sum(dim=-1) for tile in tiles], dim=1)
