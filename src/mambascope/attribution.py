"""The one result type: scores, the tokens they belong to, and the evidence of how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mambascope.arguments import count
from mambascope.brief import one_line
from mambascope.characters import piece_names
from mambascope.errors import InputError
from mambascope.explained import WHOLE_MODEL, Model, Target
from mambascope.grid import Grid
from mambascope.numbering import shown, whole_number
from mambascope.saved_results import read_saved
from mambascope.verbs import Verbs, path_of


class Source(NamedTuple):
    """One line of `Attribution.top`: a source position, its token, its score and its share of the row's total."""

    position: int
    token: str
    score: float
    share: float


@dataclass(frozen=True, eq=False)
class Attribution(Verbs):
    """Scores of how much each target position drew from each source position, layer by layer.

    Attributes:
        scores: float32 on the CPU, shape (layer, target, source). Sources that a target cannot see are exactly zero.
        tokens: The text of every position, in order; joined, they give the text back where the tokenizer allows it.
        axes: The coordinates of `scores`: `layer` (numbers of the model's layers, or `WHOLE_MODEL` alone), `target` and
            `source` (positions).
        method: Name of the method that made the scores, as `mambascope explain --method` takes it.
        target: The position in focus.
        targets: What each row explains, if several positions were explained; empty for one.
        model: What was explained.
        signed: Whether scores can be negative.
        diagnostics: The evidence. `reconstruction_error` is the largest relative error with which the operators give
            the explained layers' outputs, or its estimate (`trace.self_check`); `reconstruction_error_per_layer` lists
            each layer's; `terms` add up to the
            number explained, `tokens` among them, and `conservation_error` is the relative error of their sum;
            `products_error` is how far products in another precision, `products`, put the scores off;
            `caution` says why the scores should not be relied on, if so; `seconds` is the time taken. For several
            targets, errors are the worst and `per_target` has each one's own. In hybrids, `direct_by_kind` is what each
            kind of mixer adds to the number directly, and `share_by_kind` its share of the sizes of all that is added.
        over_layers: Whether the model's scores are the mean of the layers' or their sum.
        grid: For a picture, which tokens are which patches, and the class token; None for a text.
        image: The part of the picture that the patches cover, for display.
        pixels: Scores of every pixel that the model read, on a scale of their own, from methods that go down to pixels.
    """

    scores: Float[Tensor, "layer target source"]
    tokens: tuple[str, ...]
    axes: Mapping[str, tuple[Any, ...]]
    method: str
    target: Target
    model: Model
    signed: bool = False
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    over_layers: Literal["mean", "sum"] = "mean"
    grid: Grid | None = None
    image: UInt8[Tensor, "height width 3"] | None = None
    pixels: Float[Tensor, "H W"] | None = None
    targets: tuple[Target, ...] = ()

    def __repr__(self) -> str:
        focus, rows = self.target, len(self.axes["target"])
        of_what = "tokens" if self.grid is None else f"tokens of {self.grid.rows} × {self.grid.columns} patches"
        parts = [
            f"{self.method} of {self.model.name}: {len(self.tokens)} {of_what} → "
            + self._which(rows)
            + (str(focus.position) if focus.pooled == 1 else f"the mean of {focus.pooled}")
        ]
        if len(self.axes["layer"]) > 1:
            parts.append(f"{len(self.axes['layer'])} layers")
        if focus.position in self.axes["target"]:
            parts += [f"top {source.token!r} {100 * source.share:.0f} %" for source in self.top(1)]
        if "caution" in self.diagnostics:
            parts.append(str(self.diagnostics["caution"]).partition(":")[0])
        return one_line("Attribution", parts)

    def _which(self, rows: int) -> str:
        if rows == 1:
            return "position "
        return f"{'every position' if rows == len(self.tokens) else f'{rows} positions'}, in focus "

    def __post_init__(self) -> None:
        _check_kinds(self)
        lengths = tuple(len(self.axes[name]) for name in ("layer", "target", "source"))
        if tuple(self.scores.shape) != lengths:
            raise InputError(f"scores of shape {tuple(self.scores.shape)} do not match axes of lengths {lengths}")
        if len(self.tokens) != lengths[2]:
            raise InputError(f"{len(self.tokens)} tokens were given for {lengths[2]} source positions")
        if self.targets and tuple(one.position for one in self.targets) != tuple(self.axes["target"]):
            raise InputError(f"{len(self.targets)} targets do not match the positions of {lengths[1]} rows")
        if self.grid is not None and self.grid.tokens != lengths[2]:
            raise InputError(f"a grid of {self.grid.tokens} tokens was given for {lengths[2]} source positions")

    @property
    def anchors(self) -> tuple[int, ...]:
        """The position of each row's token: the target itself, or the token generated after it."""
        if not self.targets:
            return tuple(self.axes["target"])
        return tuple(one.position if one.generated is None else one.generated for one in self.targets)

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """The kind of mixer in each layer of the axis; empty if it is not known, or the layers were taken together."""
        layers, kinds = self.axes["layer"], self.model.kinds
        if WHOLE_MODEL in layers:
            return ()
        if kinds and max(layers) < len(kinds):
            return tuple(kinds[layer] for layer in layers)
        held = self.diagnostics.get("layer_kinds") or ()  # as results of earlier versions have it
        return tuple(held) if len(held) == len(layers) else ()

    def kind_shares(self, position: int | None = None) -> dict[str, float]:
        """Return how much each kind of mixer carried for one target, as shares that sum to one.

        The shares of a method's own evidence, `share_by_kind`; without them, where there is a row per layer, each
        kind's part of all layers' absolute scores. Empty for a model whose layers are all alike.

        Args:
            position: The target; None for the one in focus.

        Raises:
            InputError: if that position is not in the result.
        """
        found, each = self.diagnostics, self.diagnostics.get("per_target")
        if position is not None and each and position in self.axes["target"]:
            found = each[self.axes["target"].index(position)]
        if "share_by_kind" in found:
            return dict(found["share_by_kind"])
        kinds, mass = self.layer_kinds, self.layer_mass(position).tolist()
        total = sum(mass)
        if len(set(kinds)) < 2 or not total:
            return {}
        return {
            kind: sum(m for m, one in zip(mass, kinds, strict=True) if one == kind) / total
            for kind in sorted(set(kinds))
        }

    def matrix(self, layer: int | str | None = None) -> Float[Tensor, "target source"]:
        """Return one layer's scores, or with `layer=None` those of all layers: their mean or sum, see `over_layers`.

        Raises:
            InputError: if that layer is not among the explained ones.
        """
        if layer is None:
            return self.scores.mean(dim=0) if self.over_layers == "mean" else self.scores.sum(dim=0)
        return self.scores[self._place(layer)]

    def _place(self, layer: int | str) -> int:
        """Return where a layer is on the axis."""
        layer = layer if isinstance(layer, str) and layer == WHOLE_MODEL else whole_number(layer, "layer")
        if layer not in self.axes["layer"]:
            raise InputError(f"layer {layer} is not in this result, which holds layers {list(self.axes['layer'])}")
        return self.axes["layer"].index(layer)

    def row(self, position: int | None = None, layer: int | str | None = None) -> Float[Tensor, " source"]:
        """Return one target's scores over all sources; by default the target in focus, over all layers.

        In focus is `target.position`, or if a class is read from the mean of all positions, the mean of their rows.

        Raises:
            InputError: if that position or layer is not in the result.
        """
        if position is None and 1 < self.target.pooled == len(self.axes["target"]):
            return self.matrix(layer).mean(dim=0)
        position = self.target.position if position is None else whole_number(position, "position")
        if position not in self.axes["target"]:
            raise InputError(
                f"position {position} is not in this result, which explains positions "
                f"{self.axes['target'][0]} to {self.axes['target'][-1]}"
            )
        here = self.scores[:, self.axes["target"].index(position)]  # the whole matrix may be larger than memory
        if layer is not None:
            return here[self._place(layer)]
        return here.mean(dim=0) if self.over_layers == "mean" else here.sum(dim=0)

    def picture(self, position: int | None = None, layer: int | str | None = None) -> Float[Tensor, "rows columns"]:
        """Return one target's scores arranged as the patches lie in the picture, without the class token's.

        Arguments as in `row`. `grid.position(row, column)` gives the position of a patch.

        Raises:
            InputError: if the result is of a text, or that position or layer is not in it.
        """
        if self.grid is None:
            raise InputError("this result is of a text, not of a picture")
        return self.grid.over_patches(self.row(position, layer))

    def top(self, k: int = 10, position: int | None = None, layer: int | str | None = None) -> list[Source]:
        """Return the `k` sources of largest absolute score for one target, best first, with their share of the total.

        The share is the absolute score over the sum of the row's absolute scores. A token that continues a character
        begun before it, and whose own text is empty, is named by its part: `‹2/3 of 好›`.

        Raises:
            InputError: if `k` is not a whole number from 1, or that position or layer is not in the result.
        """
        k, row = count(k, "k"), self.row(position, layer)
        total = float(row.abs().sum()) or 1.0
        last = self.target.position if position is None else position
        last = len(row) - 1 if position is None and self.target.pooled > 1 else last
        seen = last + 1 if not row[last + 1 :].any() else len(row)  # a causal model's future is no source
        order = row[:seen].abs().argsort(descending=True, stable=True)[:k].tolist()
        names = piece_names(self.tokens)
        return [Source(j, names[j], float(row[j]), abs(float(row[j])) / total) for j in order]

    def layer_mass(self, position: int | None = None) -> Float[Tensor, " layer"]:
        """Return, for one target, the sum of absolute scores in each layer: how much each layer carried.

        Sums are taken in float64, which no sum of finite float32 scores overflows.
        """
        rows = [self.row(position, layer).abs() for layer in self.axes["layer"]]
        return torch.stack([row.sum(dtype=torch.float64) for row in rows])

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Read what `save` wrote to a `.safetensors` file.

        Raises:
            CheckpointError: if the file is of another kind, missing, cut short, not an attribution, or one whose parts
                do not fit each other; the message says which.
        """
        return cls(**read_saved(path_of(path)))


def _check_kinds(result: Attribution) -> None:
    """Raise InputError if a part of a result is of another kind than it must be."""
    scores, axes = result.scores, result.axes
    if not isinstance(scores, Tensor) or not scores.is_floating_point() or scores.is_meta:
        raise InputError(f"scores must be a tensor of floats, found {shown(scores)}")
    if not isinstance(axes, Mapping) or any(
        not isinstance(axes.get(name), (tuple, list)) for name in ("layer", "target", "source")
    ):
        raise InputError(f"axes must give the coordinates of layer, target and source, found {shown(axes)}")
    if not isinstance(result.tokens, (tuple, list)) or not all(isinstance(one, str) for one in result.tokens):
        raise InputError(f"tokens must be texts, one for each source, found {shown(result.tokens)}")
    if not isinstance(result.method, str) or not result.method:
        raise InputError(f"method must be a name, found {shown(result.method)}")
    for name, kind in (("target", Target), ("model", Model)):
        if not isinstance(getattr(result, name), kind):
            raise InputError(f"{name} must be a {kind.__name__}, found {shown(getattr(result, name))}")
