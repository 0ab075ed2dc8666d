"""What a layer remembers: how far it looks back, how fast it forgets, and the state that it keeps.

All is read from the layer's matrices α, map by map (a map is a channel of Mamba-1, a head of most others): of a text,
over the targets of its second half, which have half of it or more before them; of a picture, over all its patches, and
distances are those of patches in the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.grid import Grid
from mambascope.numbering import whole_number
from mambascope.operators.token_mixer import Recurrent, TokenMixer
from mambascope.trace import Trace
from mambascope.trace.block import Branch

#: Share of |α| that lies within the reach of a map.
WITHIN = 0.9
#: Numbers that are held at once while the maps are read.
AT_ONCE = 2**24
#: Share of a map's largest entry below which its entries do not count towards its decay.
SEEN = 1e-7


@dataclass(frozen=True)
class LayerMemory:
    """How far one mixer looks back, and how fast it forgets.

    Attributes:
        layer: Number of its layer.
        name: Its name in the model.
        kind: Its kind.
        distance: Mean of |i - j|, weighted by |α_ij|, in tokens: the attention distance. Of a picture, in patches.
        reach: How many tokens, from the target on, hold 90 % of |α_ij|: the effective receptive field. Of a picture,
            the radius within which 90 % lie, in whole patches.
        entropy: Of |α_ij| over the sources, in bits; 2 to its power is how many tokens share the weight.
        decay: Factor by which |α_ij| falls per token or patch (least squares); 0 where it falls within one.
        similarity: Mean cosine of the stream's vectors of two different tokens, after the layer; NaN without a stream.
        held: How much of the last state each token still holds, see `held`; None if the mixer keeps no state.
    """

    layer: int
    name: str
    kind: str
    distance: Float[Tensor, " M"]
    reach: Float[Tensor, " M"]
    entropy: Float[Tensor, " M"]
    decay: Float[Tensor, " M"]
    similarity: float
    held: Float[Tensor, " L"] | None

    __repr__ = brief


def memory(trace: Trace, layer: int, *, grid: Grid | None = None) -> list[LayerMemory]:
    """Return what each mixer of a layer remembers; nearly always there is one.

    Args:
        trace: A capture of one text or picture, of at least 4 tokens. Of a model with stages, the trace of one.
        layer: Number of the layer, from 0; negative numbers count from the end.
        grid: For a picture, where its patches are. What goes to or comes from a class token is left out.

    Raises:
        InputError: if the layer does not exist, the trace is of several texts or of fewer tokens, or the grid is of
            another number of tokens.
    """
    if trace.shape[0] != 1 or trace.shape[1] < 4:
        raise InputError(
            f"what a layer remembers is read from one text of 4 tokens or more; this trace holds {trace.shape[0]} of "
            f"{trace.shape[1]}"
        )
    if grid is not None and grid.tokens != trace.shape[1]:
        raise InputError(f"a grid of {grid.tokens} tokens does not match the {trace.shape[1]} of the trace")
    number = trace.index(layer)
    block = trace.layers[number]
    places = None if grid is None else list(grid.patch_positions)
    stream = None if block.stream_out is None else block.stream_out[0]
    similar = float("nan") if stream is None else similarity(stream if places is None else stream[places])
    return [_of_mixer(number, branch, similar, grid) for branch in block.branches]


def _of_mixer(layer: int, branch: Branch, similar: float, grid: Grid | None) -> LayerMemory:
    """Return what a mixer remembers."""
    length = branch.captured.x.shape[1]
    if grid is None:
        rows, places = slice(length // 2, length), list(range(length))
        apart: Tensor = (torch.arange(length)[rows, None] - torch.arange(length)).abs()
    else:
        rows, places = slice(0, length), list(grid.patch_positions)
        apart = patches_apart(grid)
    targets = slice(None) if grid is None else places
    found = [read_maps(maps[:, targets][:, :, places], apart.to(maps.device))
             for maps in _maps(branch.operator().scan, length, rows)]  # fmt: skip
    distance, reach, entropy, decay = (torch.cat(part) for part in zip(*found, strict=True))
    operator: Any = branch.operator()
    shares = _held(operator)[0] if isinstance(operator.scan, Recurrent) else None
    return LayerMemory(layer, branch.name, branch.kind, distance, reach, entropy, decay, similar, shares)


def _maps(scan: TokenMixer, length: int, rows: slice) -> Iterator[Float[Tensor, "M t L"]]:
    """Yield |α| of some targets, some maps at a time."""
    some = max(1, AT_ONCE // (length * (rows.stop - rows.start)))
    for start in range(0, scan.maps, some):
        chosen = list(range(start, min(start + some, scan.maps)))
        yield scan.tile(rows, slice(0, length), chosen)[0].abs().double()


def patches_apart(grid: Grid) -> Float[Tensor, "P P"]:
    """Return the distance of every two patches, in patches."""
    places = torch.cartesian_prod(torch.arange(grid.rows), torch.arange(grid.columns)).double()
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def read_maps(maps: Float[Tensor, "M t s"], apart: Real[Tensor, "t s"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return distance, reach, entropy and decay of maps of absolute values, each (M,).

    Args:
        maps: |α| of some targets and sources.
        apart: How far each source is from each target: whole numbers of tokens, or distances in patches.
    """
    shares = maps / maps.sum(dim=-1, keepdim=True).clamp_min(1e-300)
    distance = (shares * apart).sum(dim=-1).mean(dim=-1)
    entropy = torch.special.entr(shares).sum(dim=-1).mean(dim=-1) / torch.log(torch.tensor(2.0, dtype=maps.dtype))
    tokens = not apart.is_floating_point()
    lags = apart if tokens else apart.ceil().long()
    by_lag = shares.new_zeros(*shares.shape[:-1], int(lags.max()) + 1)
    by_lag.scatter_add_(-1, lags.expand_as(shares), shares)
    reach = (by_lag.cumsum(dim=-1) < WITHIN).sum(dim=-1).double().add(1 if tokens else 0).mean(dim=-1)
    return distance, reach, entropy, decays(maps, lags)


def decays(maps: Float[Tensor, "M t s"], lags: Int[Tensor, "t s"]) -> Float[Tensor, " M"]:
    """Return the factor per token by which the mean of |α| falls with the lag, by least squares; 0 in three tokens."""
    most = int(lags.max())
    sums = maps.new_zeros(maps.shape[0], most + 1)
    sums.scatter_add_(-1, lags.flatten().expand(len(maps), -1), maps.flatten(1))
    used = maps.amax(dim=0) > 0  # what no map reads, such as the future, is no pair
    counts = torch.bincount(lags[used], minlength=most + 1).clamp_min(1)
    sizes = (sums / counts)[:, 1 : (most + 1) // 2 + 1]
    at = torch.arange(1, sizes.shape[1] + 1, device=maps.device, dtype=maps.dtype)
    seen = (sizes > SEEN * maps.amax(dim=(1, 2))[:, None]).to(maps.dtype)
    count = seen.sum(dim=-1, keepdim=True)
    across = (at - (seen * at).sum(dim=-1, keepdim=True) / count.clamp_min(1)) * seen
    slope = (across * sizes.clamp_min(1e-300).log()).sum(dim=-1) / across.square().sum(dim=-1).clamp_min(1e-300)
    return torch.where(count[:, 0] >= 3, slope.exp(), torch.zeros_like(slope))


def similarity(stream: Float[Tensor, "L F"]) -> float:
    """Return the mean cosine of two different tokens' vectors: near 1, the layers have made all tokens alike."""
    unit = torch.nn.functional.normalize(stream.double(), dim=-1)
    count = len(unit)
    return float((unit.sum(dim=0).square().sum() - count) / (count * (count - 1)))


def state(trace: Trace, layer: int, position: int) -> Float[Tensor, "b D N"]:
    """Return the state h of a layer's mixer after it has read the token at a position.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        position: From 0, padding counted; negative numbers count from the end.

    Raises:
        InputError: if the layer or the position does not exist.
        UnsupportedModelError: if the mixer keeps no state of fixed size, or the layer has several mixers.
    """
    operator = _recurrent(trace, layer)
    scan, v = operator.scan, operator.slope * operator.preactivation
    length = trace.shape[1]
    place = whole_number(position, "position")
    if not -length <= place < length:
        raise InputError(f"position {position} does not exist: the text has {length} tokens")
    with torch.no_grad():
        numbers = [scan.reading(number).apply(v)[:, place] for number in range(scan.state_size)]
    return torch.stack(numbers, dim=-1)


def held(trace: Trace, layer: int) -> Float[Tensor, "b L"]:
    """Return how much of the last state each token still holds, as shares of the tokens' parts; they add up to 1.

    The state is the sum of what every token wrote, decayed. The share of token j is ‖its part‖ over the sum of ‖parts‖,
    over all channels and numbers of the state.

    Args:
        trace: A capture; texts must not be padded on the right, or their last state is that after the padding.
        layer: Number of the layer, from 0; negative numbers count from the end.

    Raises:
        InputError: if the layer does not exist.
        UnsupportedModelError: if the mixer keeps no state of fixed size, or the layer has several mixers.
    """
    return _held(_recurrent(trace, layer))


def _held(operator: Any) -> Float[Tensor, "b L"]:
    """Return the shares of the last state of a mixer's recurrence."""
    scan, v = operator.scan, operator.slope * operator.preactivation
    length = v.shape[1]
    squares = torch.zeros_like(v[..., 0], dtype=torch.float64)
    with torch.no_grad():
        for number in range(scan.state_size):
            row = scan.channels(scan.reading(number).tile(slice(length - 1, length), slice(0, length)))[:, :, 0]
            squares += (row.transpose(1, 2) * v).double().square().sum(dim=-1)
    sizes = squares.sqrt()
    return sizes / sizes.sum(dim=1, keepdim=True).clamp_min(1e-300)


def _recurrent(trace: Trace, layer: int) -> Any:
    """Return the affine map of a layer whose mixer is a recurrence; its values are what the slope leaves of u."""
    branch = trace.layers[trace.index(layer)].branch
    operator: Any = branch.operator()
    if not isinstance(operator.scan, Recurrent):
        raise UnsupportedModelError(
            f"layer {trace.index(layer)} ({branch.name}) mixes by {branch.kind}, which keeps no state of fixed size"
        )
    return operator
