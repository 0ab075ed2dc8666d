"""Made-up results for the tests of `mambascope.show`: lower-triangular scores over tokens of any kind, and pictures."""

from __future__ import annotations

from dataclasses import replace

import torch

from mambascope.attribution import Attribution, Model, Target
from mambascope.grid import Grid
from mambascope.theory.gallery import Gallery, MixerGallery
from mambascope.theory.heads import SHARES, Head
from mambascope.theory.probe_texts import ProbeTexts

PLAIN = (
    "When",
    " Mary",
    " and",
    " John",
    " went",
    " to",
    " the",
    " store",
    ",",
    " John",
    " gave",
    " a",
    " drink",
    " to",
)
HOSTILE = (
    "<script>document.documentElement.dataset.hostile = 1</script>",
    "</script><img src=x onerror='document.documentElement.dataset.hostile = 2'>",
    "&", "&amp;", "\n", "\u2028", "😀", "", "\"it's\"", "[bold]", "[/]", "\x1b[31mred", "\u202ehidden", "$x_1$",
    "$\\frac$", "日本語", "a\\b", "${title}", "<!--", "]]>", "\ud800", " end",
)  # fmt: skip

PATCHES = Grid(4, 6, 12, patch=8, stride=8)


def result(
    tokens: tuple[str, ...] | int = PLAIN,
    layers: int = 3,
    signed: bool = False,
    single: bool = False,
    method: str = "hidden_attention",
    seed: int = 0,
    reach: float = 8.0,
    **diagnostics: object,
) -> Attribution:
    """Return a result whose scores fall off with distance, as those of state-space layers do.

    Args:
        tokens: The text, or how many tokens of a made-up one.
        layers: How many layers; they are numbered 0, 2, 4 and so on, as in a hybrid.
        signed: Whether scores may be negative.
        single: Whether only the last position is explained.
        method: The method's name.
        seed: For the random numbers.
        reach: The distance over which scores fall to a third.
        diagnostics: Entries beside the usual ones.
    """
    names = tuple(f" word{j}" for j in range(tokens)) if isinstance(tokens, int) else tokens
    length, random = len(names), torch.Generator().manual_seed(seed)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    size = torch.randn(layers, length, length, generator=random).exp() * torch.exp(-distance.clamp(min=0) / reach)
    scores = size * torch.randn(layers, length, length, generator=random).sign() if signed else size
    scores = scores.tril()
    targets = tuple(range(length))
    if single:
        scores, targets = scores[:, -1:], targets[-1:]
    return Attribution(
        scores=scores.contiguous(),
        tokens=names,
        axes={"layer": tuple(range(0, 2 * layers, 2)), "target": targets, "source": tuple(range(length))},
        method=method,
        target=Target(length - 1, names[-1], ((" Mary", 0.612), (" John", 0.201), ("\n", 0.033), (" a", 0.01))),
        model=Model("made-up/mamba-tiny", "mamba", "MambaForCausalLM", layers, 64),
        signed=signed,
        diagnostics={"reconstruction_error": 4.1e-7, "seconds": 1.234, "command": "mambascope explain <tiny> 'a & b'"}
        | {"reconstruction_error_per_layer": [4.1e-7] * layers}
        | diagnostics,
    )


def with_removals(made: Attribution, count: int = 4) -> Attribution:
    """Return a result whose top sources were removed: each cut loses twice its score, each zeroed one the negative."""
    entries = []
    for position in made.axes["target"]:
        tops = sorted(source.position for source in made.top(count, position))
        scores = made.row(position)[tops].tolist()
        entry = {"position": position, "asked": "logit of ' Mary'", "value": 4.5, "sources": tops, "scores": scores}
        entry |= {"knockout": [2 * score for score in scores], "occlusion": [-score for score in scores]}
        entries.append(entry | {"rank_correlation": {"knockout": 1.0, "occlusion": -1.0}})
    return replace(made, diagnostics={**made.diagnostics, "verified": entries})


def picture_result(
    grid: Grid = PATCHES,
    layers: int = 3,
    signed: bool = False,
    single: bool = False,
    method: str = "latim",
    seed: int = 0,
    focus: int | None = None,
    image: torch.Tensor | None = None,
    names: tuple[str, ...] = ("tabby cat", "rocket", "astronaut"),
    **diagnostics: object,
) -> Attribution:
    """Return a result of a picture, whose scores see in both directions.

    Args:
        grid: Where the patches lie.
        layers: How many layers; numbered as in `result`.
        signed: Whether scores may be negative.
        single: Whether only the focus is explained.
        method: The method's name.
        seed: For the random numbers.
        focus: The position in focus; by default the class token, or the last.
        image: The picture; by default one of random colours.
        names: The classes' names.
        diagnostics: Entries beside the usual ones.
    """
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(layers, grid.tokens, grid.tokens, generator=random)
    scores = scores if signed else scores.exp()
    place = focus if focus is not None else grid.class_position if grid.class_position is not None else grid.tokens - 1
    targets = tuple(range(grid.tokens))
    if single:
        scores, targets = scores[:, place : place + 1], (place,)
    if image is None:
        image = torch.randint(0, 256, (*grid.size, 3), generator=random, dtype=torch.uint8)
    shares = (0.612, 0.201, 0.033)
    return Attribution(
        scores=scores.contiguous(),
        tokens=tuple(grid.name(position) for position in range(grid.tokens)),
        axes={"layer": tuple(range(0, 2 * layers, 2)), "target": targets, "source": tuple(range(grid.tokens))},
        method=method,
        target=Target(place, grid.name(place), tuple(zip(names, shares, strict=False))),
        model=Model("made-up/vision-tiny", "vit", "ViTForImageClassification", layers, 64),
        signed=signed,
        diagnostics={"reconstruction_error": 4.1e-7, "seconds": 1.234, "command": "mambascope explain cat.png"}
        | {"reconstruction_error_per_layer": [4.1e-7] * layers, "picture": "cat.png"}
        | diagnostics,
        grid=grid,
        image=image,
    )


def made_gallery(tokens: tuple[str, ...] = PLAIN, channels: tuple[int, ...] | None = None, read: str | None = "A, b."):
    """Return a gallery of a layer with every label and of one with two mixers, whose maps fall off with distance.

    Args:
        tokens: The text.
        channels: How many channels each group of the first mixer has; by default its maps are heads'.
        read: The text that separators were looked for in.
    """
    size = min(len(tokens), 48)
    lags = torch.arange(size)[:, None] - torch.arange(size)

    def head(layer: int, number: int, label: str | None, share: float = 0.5, near: float = 0.9, even: float = 0.3):
        shares = {name: share if name == label else 0.1 for name in SHARES}
        lifts = {name: 9.0 if name == label else 1.0 for name in SHARES}
        return Head(layer, f"mixer.{layer}", "scan", number, shares, lifts, 12.0 - number, near, even)

    def maps(count: int) -> torch.Tensor:
        falls = torch.stack([0.3 + 0.6 * k / count * torch.ones(()) for k in range(count)])
        sizes = torch.where(lags >= 0, falls[:, None, None] ** lags.clamp(min=0), 0.0)
        return sizes / sizes.sum(dim=-1, keepdim=True)

    first = [head(0, k, label, 0.4 + 0.05 * k) for k, label in enumerate(("separator", "first", "induction"))]
    first += [head(0, 3, None), head(0, 4, None, near=0.2), head(0, 5, None, even=0.8)]
    second = [[head(4, k, None) for k in range(2)], [head(4, 0, "previous")]]
    mixers = (
        MixerGallery(0, "mixer.0", "scan", tuple(first), channels, maps(6)),
        MixerGallery(4, "mixer.4", "scan", tuple(second[0]), None, maps(2)),
        MixerGallery(4, "attention.4", "attention", tuple(second[1]), None, maps(1)),
    )
    return Gallery(tokens, mixers, ProbeTexts(torch.zeros(6, 48, dtype=torch.long), read))
