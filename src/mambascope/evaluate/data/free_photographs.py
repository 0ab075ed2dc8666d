"""Photographs that anyone may use, as scikit-image and scikit-learn carry them, cut into parts that share no pixel.

Licences are those that scikit-image's documentation of `skimage.data` and scikit-learn's `datasets/images/README.txt`
state; pictures of theirs without a stated licence are left out.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from mambascope.errors import InputError
from mambascope.evaluate.data.picture_files import decoded


@dataclass(frozen=True)
class Photograph:
    """A photograph in an installed package.

    Attributes:
        package: The package that carries it.
        file: Its place there.
        licence: What may be done with it.
        credit: Whose it is.
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

#: The share of each photograph's width, from the left, where a part begins and ends.
STRIPS = {"training": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}


def strips(part: str, side: int) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Return a part's strip of every photograph, at full size and, where it is wide enough still, at half size.

    Args:
        part: `training`, `validation` or `test`.
        side: The least width and height that is of use.

    Raises:
        InputError: if there is no such part, or a package that carries photographs is not installed.
    """
    if part not in STRIPS:
        raise InputError(f"unknown part {part!r} of the photographs; choose one of {', '.join(STRIPS)}")
    first, last = STRIPS[part]
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
            f"{name}, whose photographs are needed, is not installed: pip install mambascope[vision]"
        ) from error
    except OSError as error:
        raise InputError(
            f"the installed {photograph.package} carries no photograph {photograph.file}: {error}"
        ) from error
    return decoded(content, photograph.file)


def _halved(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the mean of every 2×2 pixels."""
    H, W = (size // 2 * 2 for size in pixels.shape[:2])
    fours = pixels[:H, :W].reshape(H // 2, 2, W // 2, 2, 3)
    return (fours.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
