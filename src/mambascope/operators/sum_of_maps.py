"""Several maps added up, as one exact affine map (methods sections 3 and 5).

    y_i = Σ_j T_ij(x_j) + β_i ,   T_ij = Σ_r w_r T^r_{ρ_r(i) ρ_r(j)}

Each part is a map of its own over the permuted tokens; ρ_r(i) is the step at which it reads token i, so a convolution
runs in its part's order. The vectors are added before any norm of them is taken. Vim's mixers (arXiv 2401.09417) are a
forward and a backward scan; a block may have a scan and an attention layer side by side, each scaled by a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.operators import affine_map
from mambascope.operators.affine_map import ActivationRule, AffineMap, check_rule
from mambascope.operators.blocks import Block, Places, Workspace, split
from mambascope.operators.chosen_targets import end
from mambascope.operators.multi_scan import MultiScan
from mambascope.operators.permutation import Part, Permutation, added, added_rows, as_slice, weighed


@dataclass(frozen=True, eq=False, repr=False)
class SumOfMaps(AffineMap):
    """Maps over the same tokens, added up: an affine map from source tokens to target tokens.

    Where all parts share one output projection, their outputs are added before it. Only then do they share channels,
    and the sum has a matrix per channel and one scan.

    Attributes:
        x: The layer's input.
        parts: The maps, each with the order in which it reads the tokens and the factor of its output.
        b_o: A bias added to the sum at every target, or None.
    """

    x: Float[Tensor, "b L E"]
    parts: tuple[Part[AffineMap], ...]
    b_o: Float[Tensor, " F"] | None = None

    @classmethod
    def side_by_side(cls, x: Float[Tensor, "b L E"], maps: Sequence[tuple[float, AffineMap]]) -> SumOfMaps:
        """Return the sum of maps that all read the tokens in their own order, each with a factor."""
        as_they_stand = Permutation.identity(x.shape[1], x.device)
        return cls(x, tuple(Part(one, as_they_stand, scale) for scale, one in maps))

    @cached_property
    def W_o(self) -> Float[Tensor, "F D"] | None:  # type: ignore[override]  # found here, given elsewhere
        """The output projection that all parts share; None if they share none."""
        first, *others = (part.mixer for part in self.parts)
        if first.W_o is None:
            return None
        for one in others:
            if one.W_o is None or not torch.equal(one.W_o, first.W_o) or one.scan.maps != first.scan.maps:
                return None
        return first.W_o

    @cached_property
    def scan(self) -> MultiScan:  # type: ignore[override]
        """The token mixing itself, as one sum of scans.

        Raises:
            InputError: if the parts share no channels.
        """
        self._require_common_channels()
        return MultiScan(tuple(Part(part.mixer.scan, part.permutation, part.scale) for part in self.parts))

    @cached_property
    def causal(self) -> bool:
        """Whether no target depends on later tokens: every part is causal and reads the tokens in their own order."""
        return all(part.permutation.is_identity and part.mixer.causal for part in self.parts)

    @property
    def inner_width(self) -> int:
        """D, the number of channels that the parts share, or else of all parts together."""
        return sum(part.mixer.inner_width for part in self.parts) if self.W_o is None else self.W_o.shape[1]

    @property
    def taps(self) -> int:
        """K, the most convolution taps of any part."""
        return max(part.mixer.taps for part in self.parts)

    @property
    def projects_tiles(self) -> bool:
        """Whether tiles are W_o times what `received_tile` returns: the parts share it; see `AffineMap`."""
        return self.W_o is not None

    def projecting_in(self, dtype: torch.dtype) -> SumOfMaps:
        """Return the same map with products with W_o in another dtype; see `AffineMap`."""
        parts = (replace(part, mixer=part.mixer.projecting_in(dtype)) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def output(self) -> Float[Tensor, "b L F"]:
        """Return y, rebuilt from the frozen coefficients by one scan per part."""
        return self._biased(added(self.parts, lambda part: part.mixer.output()))

    def through(self, tokens: Float[Tensor, "b L E"]) -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i of other tokens, differentiable in them; see `AffineMap`."""
        return self._biased(added(self.parts, lambda part: part.mixer.through(part.permutation.read(tokens))))

    def bias(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return β for every target: the part of the output that comes from biases and from no token."""
        return self._biased(added(self.parts, lambda part: part.mixer.bias(rule)))

    def explained(self, rule: ActivationRule = "secant") -> Float[Tensor, "b L F"]:
        """Return Σ_j T_ij + β_i under an activation rule."""
        return self._biased(added(self.parts, lambda part: part.mixer.explained(rule)))

    def contributions(
        self, target: int, rule: ActivationRule = "secant"
    ) -> tuple[Float[Tensor, "b L F"], Float[Tensor, "b F"]]:
        """Return the vectors T_ij(x_j) of one target i for every source j, and its bias β_i; see `AffineMap`."""
        self.seen(target)
        vectors, bias = self.x.new_zeros(()), self.x.new_zeros(())
        for part in self.parts:
            own, own_bias = part.mixer.contributions(int(part.permutation.steps[target]), rule)
            vectors = vectors + part.scale * part.permutation.restore(own)
            bias = bias + part.scale * own_bias
        return vectors, self._biased(bias)

    def passed_on(self, sources: Bool[Tensor, "b L"]) -> Float[Tensor, "b L F"]:
        """Return what every part passes on from the values of some sources, by one scan per part; see `AffineMap`."""
        return added(self.parts, lambda part: part.mixer.passed_on(part.permutation.read(sources)))

    def pull(self, q: Float[Tensor, "b L F"], rule: ActivationRule = "secant") -> Float[Tensor, "b L"]:
        """Return Σ_i q_i · T_ij(x_j) for every source j, by one reversed scan per part; see `AffineMap`."""
        check_rule(rule)
        return added(self.parts, lambda part: part.mixer.pull(part.permutation.read(q), rule))

    def implicit_pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the implicit attention, by one reversed scan per part; see `implicit_mean`."""
        return added(self.parts, lambda part: part.mixer.implicit_pull(part.permutation.read(v)))

    def implicit_row(self, target: int) -> Float[Tensor, "b c"]:
        """Return one row of `implicit_mean`, for the sources that the target sees."""
        row, seen = self.x.new_zeros(self.x.shape[:2]), self.seen(target)
        for part in self.parts:
            step = int(part.permutation.steps[target])
            row[:, part.permutation.tokens[part.mixer.seen(step)]] += part.scale * part.mixer.implicit_row(step)
        return row[:, seen]

    def implicit_mean(self, targets: slice | None = None) -> Float[Tensor, "b t L"]:
        """Return the implicit attention: the scaled sum of the parts', each averaged over that part's channels."""
        rows = slice(0, self.length) if targets is None else targets
        total = self.x.new_zeros(self.x.shape[0], rows.stop - rows.start, self.length)
        for part in self.parts:
            steps = part.permutation.steps
            own = as_slice(steps[rows])  # another order scatters the targets
            found = part.mixer.implicit_mean(own) if isinstance(own, slice) else part.mixer.implicit_mean()[:, own]
            total += part.scale * found[..., steps]
        return total

    def coarse_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield blocks that suit every part, or else whole rows: another order scatters a target's sources."""
        yield from self._common_blocks(max(taps, self.taps)) or super().coarse_blocks()

    def blocks(self, targets: Places | None = None) -> Iterator[Block]:
        """Yield blocks that hold every nonzero pair exactly once; causal whole rows end at the block's last target."""
        for block in super().blocks(targets):
            cut = self.causal and block.whole_rows
            yield replace(block, columns=slice(0, end(block.rows))) if cut else block

    def contribution_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b F t c"]:
        """Return T for one block."""
        if self.W_o is not None:
            return super().contribution_tile(block, rule, workspace)
        return self._added(block, workspace, lambda one, inner, own: one.contribution_tile(own, rule, inner))

    def received_tile(self, block: Block, rule: ActivationRule, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return what the shared W_o maps to T, for one block."""
        self._require_common_channels()
        return self._added(block, workspace, lambda one, inner, own: one.received_tile(own, rule, inner))

    def implicit_tile(self, block: Block, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return the implicit attention per channel for one block.

        Raises:
            InputError: if the parts share no channels.
        """
        self._require_common_channels()
        return self._added(block, workspace, lambda one, inner, own: one.implicit_tile(own, inner))

    def _added(
        self, block: Block, workspace: Workspace, tile: Callable[[AffineMap, Workspace, Block], Tensor]
    ) -> Float[Tensor, "b *D t c"]:
        if block.whole_rows:
            return added_rows(self.parts, self._part_blocks, block.rows, tile, workspace)[..., block.columns]
        inner = workspace.within("parts")
        return weighed(self.parts, (tile(part.mixer, inner, block) for part in self.parts), workspace)

    def _common_blocks(self, taps: int) -> list[Block]:
        """Return the blocks of the part that has the most, if they suit all parts: in a causal sum, none whole rows.

        A part whose matrix is a band has blocks of that band alone, which do not hold the other parts' pairs.
        """
        blocks = [list(part.mixer.coarse_blocks(taps)) for part in self.parts] if self.causal else []
        whole = any(block.whole_rows for own in blocks for block in own)
        triangles = [own for own in blocks if any(self._holds_farthest_pair(block) for block in own)]
        return [] if whole else max(triangles, key=len, default=[])

    def _holds_farthest_pair(self, block: Block) -> bool:
        """Return whether a block holds the pair of the last target and the first source."""
        return bool(block.columns.start == 0 and block.rows.stop == self.length)

    @cached_property
    def _part_blocks(self) -> list[list[Block]]:
        """The blocks of each part, cut by sources only: the caller chooses the targets."""
        return [
            [fine for one in part.mixer.coarse_blocks() for fine in split(one, one.shape[0], affine_map.TILE_COLUMNS)]
            for part in self.parts
        ]

    def _require_common_channels(self) -> None:
        if self.W_o is None:
            raise InputError(
                f"the {len(self.parts)} mixers of this layer share no channels, so the layer has no matrix per "
                f"channel; choose one of its mixers"
            )

    def _biased(self, y: Tensor) -> Tensor:
        return y if self.b_o is None else y + self.b_o
