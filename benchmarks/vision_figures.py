"""The figures of the Hidden Attention paper (arXiv 2403.01590) for vision, made with models that this project trains.

    python -m benchmarks.vision_figures influence  --models A,B --out docs/vision_influence.png [--count 50]
    python -m benchmarks.vision_figures matrices   --models A,B --out docs/vision_matrices.png [--picture 0]
    python -m benchmarks.vision_figures similarity --models A,B --out docs/vision_similarity.png [--count 50]
    python -m benchmarks.vision_figures picture    --out docs/digits.png [--picture 0]

`influence` (the paper's figure 3): how much each patch's place gives to the class token, the size of the hidden
attention averaged over layers and test pictures: how a class token's own place affects what it draws from. (Raw
attention is scaled to [0, 1] with its signs, so that what gives nothing lies at about 0.6 and hides the rest.)
`matrices` (figure 4): the layers at a quarter, a half and three quarters of the depth, for one picture. `similarity`
(figure 6): the cosine between the features of pairs of patches, layer by layer, which tends to 1 where patches become
indistinguishable. The grid of pictures and methods (figure 5) is `mambascope compare`; `picture` writes one of the
pictures to a file for it. Pictures are digits on textures (MAMBASCOPE_DATA).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import transformers
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import mambascope
from mambascope.evaluate.data.picture_sets import picture_set
from mambascope.evaluate.patch_maps import class_grid
from mambascope.evaluate.picture_task import model_inputs
from mambascope.files import whole_file
from mambascope.loading.zoo import PREFIX
from mambascope.methods.hidden_attention import hidden_attention
from mambascope.methods.raw_attention import raw_attention
from mambascope.show.palette import colormap
from mambascope.trace import Trace

DEPTHS = (0.25, 0.5, 0.75)
INK = colormap(signed=False)


def traces(model: Any, name: str, numbers: Sequence[int]) -> list[Trace]:
    """Return the captures of some pictures of a set."""
    pictures = picture_set(name)
    return [mambascope.capture(model, **model_inputs(model, pictures.picture(number))) for number in numbers]


def title(name: str, model: Any) -> str:
    """Return what a model is called in a figure."""
    place = getattr(model.config, "class_token", "first")
    short = Path(name).name.removeprefix(PREFIX)
    return f"{short}\n" + ("mean of all patches" if place == "none" else f"class token {place}")


def influence(models: dict[str, Any], pictures: str, numbers: Sequence[int]) -> Figure:
    """Return, for every model, how large the attention to each patch's place is, from where classes are read."""
    figure, axes = plt.subplots(1, len(models), figsize=(3 * len(models), 3.4), squeeze=False)
    for axis, (name, model) in zip(axes[0], models.items(), strict=True):
        found = traces(model, pictures, numbers)
        grid, positions = class_grid(model, model_inputs(model, picture_set(pictures).picture(numbers[0])))
        rows = [
            hidden_attention(one, layer, "mean")[0, list(positions)].abs().mean(dim=0)
            for one in found
            for layer in range(len(one.layers))
        ]
        image = axis.imshow(grid.over_patches(torch.stack(rows).mean(dim=0)).numpy(), cmap=INK, vmin=0)
        axis.set_title(title(name, model), fontsize=9)
        figure.colorbar(image, ax=axis, fraction=0.046, label="mean |hidden attention|")
    return plain(figure, axes)


def matrices(models: dict[str, Any], pictures: str, numbers: Sequence[int]) -> Figure:
    """Return raw attention at three depths for the first picture; each matrix has its own scale."""
    figure, axes = plt.subplots(len(models), len(DEPTHS), figsize=(9, 3.2 * len(models)), squeeze=False)
    for line, (name, model) in zip(axes, models.items(), strict=True):
        (trace,) = traces(model, pictures, numbers[:1])
        for axis, depth in zip(line, DEPTHS, strict=True):
            layer = min(int(depth * len(trace.layers)), len(trace.layers) - 1)
            values = raw_attention(trace, layer)[0]
            image = axis.imshow(values.numpy(), cmap=INK, vmin=0, vmax=float(values.flatten().quantile(0.99)))
            axis.set_title(f"{title(name, model).splitlines()[0]}, layer {layer} of {len(trace.layers)}", fontsize=9)
            figure.colorbar(image, ax=axis, fraction=0.046)
        line[0].set_ylabel("target token")
    for axis in axes[-1]:
        axis.set_xlabel("source token")
    return figure


def similarity(models: dict[str, Any], pictures: str, numbers: Sequence[int]) -> Figure:
    """Return how alike the features of pairs of patches are, by depth, and the pairs of one picture at three depths."""
    figure, axes = plt.subplots(len(models) + 1, len(DEPTHS), figsize=(9, 3.0 * (len(models) + 1)), squeeze=False)
    for axis in axes[0, 1:]:
        axis.set_visible(False)
    for line, (name, model) in zip(axes[1:], models.items(), strict=True):
        found = [cosines(trace, model, picture_set(pictures).picture(n)) for n, trace in
                 zip(numbers, traces(model, pictures, numbers), strict=True)]  # fmt: skip
        means = torch.stack([off_diagonal(layers) for layers in found])
        depth = torch.linspace(0, 1, means.shape[1])
        axes[0, 0].plot(depth, means.mean(dim=0), marker="o", markersize=3, label=title(name, model).splitlines()[0])
        for axis, share in zip(line, DEPTHS, strict=True):
            layer = min(int(share * len(found[0])), len(found[0]) - 1)
            image = axis.imshow(found[0][layer].numpy(), cmap=INK, vmin=0, vmax=1)
            axis.set_title(f"{title(name, model).splitlines()[0]}, before layer {layer}", fontsize=9)
            figure.colorbar(image, ax=axis, fraction=0.046)
    axes[0, 0].set(xlabel="depth (share of layers)", ylabel="mean cosine of two patches", ylim=(-0.1, 1))
    axes[0, 0].legend(fontsize=8)
    return figure


def cosines(trace: Trace, model: Any, picture: Any) -> Tensor:
    """Return the cosines of all pairs of patches in the residual stream before each layer, (layers, P, P)."""
    places = list(class_grid(model, model_inputs(model, picture))[0].patch_positions)
    streams = [block.stream_in for block in trace.layers]
    found = torch.stack([stream[0, places].float() for stream in streams if stream is not None])
    unit = torch.nn.functional.normalize(found, dim=-1)
    return unit @ unit.transpose(1, 2)


def off_diagonal(layers: Tensor) -> Tensor:
    """Return the mean of each matrix without its diagonal."""
    count = layers.shape[-1]
    return (layers.sum(dim=(1, 2)) - count) / (count * (count - 1))


def plain(figure: Figure, axes: Any) -> Figure:
    """Return a figure without ticks."""
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


FIGURES: dict[str, Callable[[dict[str, Any], str, Sequence[int]], Figure]] = {
    "influence": influence,
    "matrices": matrices,
    "similarity": similarity,
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=(*FIGURES, "picture"))
    parser.add_argument(
        "--models", default="zoo:vision-digits-vim,zoo:vision-digits-vit", help="names, separated by commas"
    )
    parser.add_argument("--set", default="digits", dest="pictures", help="digits, cifar10 or camvid")
    parser.add_argument("--picture", type=int, default=0, help="the first picture's number")
    parser.add_argument("--count", type=int, default=50, help="how many pictures")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if options.figure == "picture":
        with whole_file(options.out) as partial:
            Image.fromarray(picture_set(options.pictures).picture(options.picture).pixels).save(partial)
        return
    models = {name: mambascope.load(name)[0] for name in options.models.split(",")}
    numbers = range(options.picture, options.picture + options.count)
    drawn = FIGURES[options.figure](models, options.pictures, numbers)
    drawn.tight_layout()
    with whole_file(options.out) as partial:
        drawn.savefig(partial, dpi=150)
    print(f"written {options.out}")


if __name__ == "__main__":
    main()
