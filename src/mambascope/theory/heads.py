"""What each head does, measured: whether it looks at the token before, at the first, at what followed the same token …

A head is a map of a layer: an attention head, a head of Mamba-2 or of a delta rule, a channel of Mamba-1. Its weights
are |α_ij| as shares of their row. Each label is a set of pairs (target i, source j):

    previous    j = i - 1
    first       j = 0
    same        an earlier place of the token at i
    induction   the place after an earlier place of the token at i
    separator   a mark of punctuation or a line's end

A head has a label if these pairs have much of the weight, and much more than their neighbours: the *share* is the mean
over targets of what such sources have together, the *lift* is how many times the weight of the two sources on either
side of it, if not in the set, each has. So a head that only forgets with distance has no label. Induction is measured
on rows of random tokens, written twice (Olsson et al. 2022, arXiv 2209.11895), as are `same`, `previous` and `first`;
`separator` is measured on a text; one mark alone is no evidence, since any token may draw weight, so a second, which
comes twice or more, must have twice its neighbours' weight.

A head without a label may still be `local` or `diffuse`, which `mambascope.theory.spread` defines: on the same rows,
its weight is near, or spread evenly. Random weights may be either, and hardly ever earn a label: of 1,152 heads of
Mamba-2 as initialised (768 wide, 8 layers of 24 heads, 6 seeds), five earned `separator` and none another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mambascope.errors import InputError
from mambascope.memory import require_room
from mambascope.numbering import whole_number
from mambascope.operators.token_mixer import TokenMixer
from mambascope.theory.channel_groups import Groups, group_maps
from mambascope.theory.spread import EVEN, NEAR, spread
from mambascope.trace import Trace, capture

#: The share of the weight that a label needs. Of random weights, few heads have as much by chance.
SHARES = {"previous": 0.3, "first": 0.4, "same": 0.2, "induction": 0.15, "separator": 0.3}
#: How many times its neighbours' weight such a source must have.
LIFT = 5.0
#: How many sources on either side are neighbours.
BESIDE = 2
#: Targets before this one have too few sources to tell anything from.
EARLIEST = 4
#: Numbers that are held at once while the maps are read.
AT_ONCE = 2**24
#: How many times its neighbours' weight a second mark of punctuation must have.
SECOND = 2.0


#: A head's mixer, its layer and its number.
Place = tuple[str, int, int]


@dataclass(frozen=True)
class Head:
    """What a head does.

    Attributes:
        layer: Number of its layer.
        name: Name of its mixer in the model.
        kind: The mixer's kind.
        head: Its number among the mixer's maps, or among its groups of channels.
        shares: Its share of the weight by label, from 0 to 1; NaN where no such pair was in the texts.
        lifts: How many times the weight of its neighbours such a source has, by label.
        distance: Mean distance of source and target, weighted, in tokens: its memory length.
        near: Which share of the sources that a target sees, nearest first, holds 90 % of its weight.
        even: How many sources share the weight, as a share of those that a target sees.
    """

    layer: int
    name: str
    kind: str
    head: int
    shares: dict[str, float]
    lifts: dict[str, float]
    distance: float
    near: float
    even: float

    @property
    def label(self) -> str | None:
        """The label with the largest share among those that it deserves; None if it deserves none."""
        earned = [name for name in self.shares if self.shares[name] >= SHARES[name] and self.lifts[name] >= LIFT]
        return max(earned, key=self.shares.__getitem__, default=None)

    @property
    def spread(self) -> Literal["local", "diffuse"] | None:
        """How its weight is spread, see `mambascope.theory.spread`; None if it is neither local nor diffuse."""
        return "local" if self.near <= NEAR else "diffuse" if self.even >= EVEN else None


def repeated_rows(tokens: Sequence[int], span: int, rows: int, seed: int = 0) -> Int[Tensor, "rows L"]:
    """Return rows of random tokens, each written twice; no token twice within a span if there are enough.

    Raises:
        InputError: if there are fewer than 2 tokens to draw from.
    """
    if len(tokens) < 2:
        raise InputError(f"rows that repeat need 2 tokens or more to draw from, found {len(tokens)}")
    draw, chosen = torch.Generator().manual_seed(whole_number(seed, "seed")), torch.tensor(list(tokens))
    times = -(-span // len(chosen))
    once = [torch.cat([torch.randperm(len(chosen), generator=draw) for _ in range(times)])[:span] for _ in range(rows)]
    return chosen[torch.stack(once)].repeat(1, 2)


def heads(
    model: Any,
    repeated: Int[Tensor, "b L"],
    text: Int[Tensor, "1 T"] | None = None,
    separators: Bool[Tensor, " T"] | None = None,
) -> list[Head]:
    """Return what every head of a model does.

    Args:
        model: A stock model of a supported family that reads text.
        repeated: Rows such as `repeated_rows` returns.
        text: The token ids of a text, for `separator`.
        separators: Which of its tokens are marks of punctuation or ends of lines.

    Raises:
        InputError: if the model cannot read them.
        UnsupportedModelError: as `capture` does.
    """
    marked = None if text is None or separators is None else (capture(model, input_ids=text), separators)
    return heads_of(capture(model, input_ids=repeated), marked)


def heads_of(
    repeated: Trace, marked: tuple[Trace, Bool[Tensor, " T"]] | None = None, groups: Groups | None = None
) -> list[Head]:
    """Return what every head does, or every group of channels where a mixer has groups.

    Args:
        repeated: A capture of rows such as `repeated_rows` returns.
        marked: A capture of a text, and which of its tokens are marks of punctuation or ends of lines.
        groups: The groups of channels, see `channel_groups`; by default, every channel is a head.
    """
    groups = groups or {}
    found = list(_measured(repeated, _of_repeated(repeated.inputs["input_ids"].cpu()), groups))
    if marked is None or not marked[1][EARLIEST:].any():
        return [head for _, head in found]
    return list(_with_separators(found, *marked, groups))


def _with_separators(
    found: Iterable[tuple[Place, Head]], trace: Trace, separators: Bool[Tensor, " T"], groups: Groups
) -> Iterator[Head]:
    """Yield heads with their share and lift of separators; the lift is a second mark's if that has too little."""
    text, separators = trace.inputs["input_ids"][0].cpu(), separators.cpu()
    before = _before(len(text))
    marks, counts = text[separators].unique(return_counts=True)
    pairs = {"separator": separators & before} | {str(int(mark)): (text == mark) & before for mark in marks[counts > 1]}
    measured = dict(_measured(trace, pairs, groups))
    for place, head in found:
        here = measured[place]
        known = sorted(lift for name, lift in here.lifts.items() if name != "separator" and lift == lift)
        second = known[-2] if len(known) > 1 else 0.0
        lift = here.lifts["separator"] if second >= SECOND else second
        yield replace(
            head,
            shares=head.shares | {"separator": here.shares["separator"]},
            lifts=head.lifts | {"separator": lift},
        )


def _before(length: int) -> Bool[Tensor, "1 L L"]:
    """Return which sources come before which targets, of targets that have some."""
    before = torch.ones(length, length, dtype=torch.bool).tril(-1)
    before[:EARLIEST] = False
    return before[None]


def _of_repeated(ids: Int[Tensor, "b L"]) -> dict[str, Bool[Tensor, "b L L"]]:
    """Return the pairs of every label that the tokens themselves decide."""
    length = ids.shape[1]
    before, alike = _before(length), ids[:, :, None] == ids[:, None, :]
    after = torch.zeros_like(alike)
    after[:, :, 1:] = alike[:, :, :-1]
    lags = torch.arange(length)[:, None] - torch.arange(length)
    return {
        "previous": (lags == 1) & before & torch.ones_like(alike),
        "first": (torch.arange(length) == 0) & before & torch.ones_like(alike),
        "same": alike & before,
        "induction": after & before & (lags > 1),
    }


def _measured(trace: Trace, pairs: dict[str, Bool[Tensor, "b L L"]], groups: Groups) -> Iterator[tuple[Place, Head]]:
    """Yield every head with its name, its layer and its number."""
    for layer, block in enumerate(trace.layers):
        for branch in block.branches:
            operator: Any = branch.operator()
            scan, number = operator.scan, 0
            for maps in weights(scan, *trace.shape, groups.get((branch.name, layer))):
                spreads = torch.stack(spread(maps, causal=scan.causal), dim=1).tolist()
                found = {name: _share_and_lift(maps, one.to(maps.device)) for name, one in pairs.items()}
                for head, own in enumerate(spreads):
                    shares = {name: float(share[head]) for name, (share, _) in found.items()}
                    lifts = {name: float(lift[head]) for name, (_, lift) in found.items()}
                    made = Head(layer, branch.name, branch.kind, number, shares, lifts, *own)
                    yield (branch.name, layer, number), made
                    number += 1


def weights(
    scan: TokenMixer, texts: int, length: int, groups: Int[Tensor, " M"] | None = None
) -> Iterator[Float[Tensor, "b M L L"]]:
    """Yield |α| as shares of their row, some maps at a time; rows without weight are zero.

    Args:
        scan: What mixes the tokens.
        texts, length: How many texts it read, and of how many tokens.
        groups: The group of every channel, whose maps are yielded instead; by default, every map is.

    Raises:
        MapTooLargeError: if they would not fit in memory.
    """
    if groups is not None:
        yield _as_shares(group_maps(scan, groups, texts, length))
        return
    some = min(scan.maps, max(1, AT_ONCE // (texts * length**2)))
    require_room((texts, some, length, length), scan.skip, "shorten the text", copies=5)  # two of them in float64
    for start in range(0, scan.maps, some):
        chosen = list(range(start, min(start + some, scan.maps)))
        yield _as_shares(scan.tile(slice(0, length), slice(0, length), chosen).abs())


def _as_shares(sizes: Float[Tensor, "b M L L"]) -> Float[Tensor, "b M L L"]:
    sizes = sizes.double()
    return sizes / sizes.sum(dim=-1, keepdim=True).clamp_min(1e-300)


def _share_and_lift(
    maps: Float[Tensor, "b M L L"], pairs: Bool[Tensor, "b L L"]
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Return the weight of pairs, and how many times their neighbours' weight each has."""
    share = (maps * pairs[:, None]).sum(dim=-1).transpose(1, 2)[pairs.any(dim=-1)].mean(dim=0)
    around = F.max_pool1d(pairs.double(), 2 * BESIDE + 1, stride=1, padding=BESIDE).bool()
    seen = torch.ones(pairs.shape[-2:], dtype=torch.bool, device=pairs.device).tril()
    inside, beside = (maps.transpose(0, 1)[:, some].mean(dim=1) for some in (pairs, around & ~pairs & seen))
    return share, inside / beside.clamp_min(1e-12)
