"""Free photographs from the packages scikit-image and scikit-learn, cut into splits that share no pixel.

The licences are those stated in scikit-image's documentation of `skimage.data` and in scikit-learn's
`datasets/images/README.txt`; their pictures without a stated licence are left out.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from mambascope.errors import InputError
from mambascope.evaluate.data.pictures import decoded
from mambascope.numbering import shown


@dataclass(frozen=True)
class Photograph:
    """A photograph in an installed package.

    Attributes:
        package: The package that contains it.
        file: Its path in the package.
        licence: Its licence.
        credit: Its author.
    """

    package: str
    file: str
    licence: str
    credit: str


PHOTOGRAPHS = (
    Photograph("skimage", "data/brick.png", "CC0", "CC0Textures, Bricks25"),
    Photograph("skimage", "data/grass.png", "CC0", "linolafett, DeviantArt"),
    Photograph("skimage", "data/gravel.png", "CC0", "CC0Textures, Gravel04"),
    Photograph("skimage", "data/camera.png", "CC0", "Lav Varshney"),
    Photograph("skimage", "data/chelsea.png", "CC0", "Stefan van der Walt"),
    Photograph("skimage", "data/coffee.png", "CC0", "Rachel Michetti, Pikolo Espresso Bar"),
    Photograph("skimage", "data/astronaut.png", "public domain", "NASA"),
    Photograph("skimage", "data/rocket.jpg", "public domain", "SpaceX"),
    Photograph("skimage", "data/hubble_deep_field.jpg", "public domain", "NASA"),
    Photograph("sklearn", "datasets/images/china.jpg", "CC BY 2.0", "danielbuechele, Flickr"),
    Photograph("sklearn", "datasets/images/flower.jpg", "CC BY 2.0", "vultilion, Flickr"),
)

#: Where each split begins and ends, as a share of each photograph's width from the left.
STRIPS = {"training": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}


def strips(split: str, side: int) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Return a split's strip of every photograph, at full size and at half size, if it is large enough.

    Args:
        split: `training`, `validation` or `test`.
        side: The least width and height of a strip.

    Raises:
        InputError: if there is no such split, or a package with photographs is not installed.
    """
    if split not in STRIPS:
        raise InputError(f"unknown split {shown(split)} of the photographs; choose one of {', '.join(STRIPS)}")
    first, last = STRIPS[split]
    found = []
    for photograph in PHOTOGRAPHS:
        whole = _read(photograph)
        width = whole.shape[1]
        strip = whole[:, int(first * width) : int(last * width)]
        found += [one for one in (strip, _halved(strip)) if min(one.shape[:2]) >= side]
    return found


def _read(photograph: Photograph) -> UInt8[np.ndarray, "H W 3"]:
    try:
        content = importlib.resources.files(photograph.package).joinpath(photograph.file).read_bytes()
    except ModuleNotFoundError as error:
        name = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[photograph.package]
        raise InputError(
            f"the photographs of {name} are needed, which is not installed: pip install mambascope[vision]"
        ) from error
    except OSError as error:
        raise InputError(f"the installed {photograph.package} has no photograph {photograph.file}: {error}") from error
    return decoded(content, photograph.file)


def _halved(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture at half size, each pixel the mean of 2×2."""
    H, W = (size // 2 * 2 for size in pixels.shape[:2])
    fours = pixels[:H, :W].reshape(H // 2, 2, W // 2, 2, 3)
    return (fours.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
