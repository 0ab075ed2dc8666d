"""The sets of pictures on which maps are evaluated, by name; no model of this project was trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.evaluate.data import camvid, cifar10, digits_on_textures
from mambascope.evaluate.data.folder import data_file
from mambascope.evaluate.data.mnist import read_mnist
from mambascope.evaluate.data.pictures import resized
from mambascope.numbering import shown

#: The height and width to which road scenes are resized for the models of this project, from 180 and 240.
SCENE = (96, 128)
#: A class counts as present in a road scene if it covers more than this share of its pixels.
PRESENT = 0.005
#: How many digit pictures the set has.
DIGIT_PICTURES = 300


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and its labels.

    Attributes:
        pixels: The picture.
        classes: The classes that it shows.
        masks: The pixels of each class; None if they are not known.
        labelled: The pixels with a label; None for all.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    classes: tuple[int, ...]
    masks: Bool[np.ndarray, "classes H W"] | None = None
    labelled: Bool[np.ndarray, "H W"] | None = None

    __repr__ = brief


@runtime_checkable
class PictureSet(Protocol):
    """A set of pictures, by number."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of every picture."""

    @property
    def exclusive(self) -> bool:
        """Whether each picture has exactly one class; otherwise any number of classes may be present."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def picture(self, number: int) -> LabelledPicture:
        """Return one picture."""


class DigitSet:
    """The test split of digits on textures."""

    classes = digits_on_textures.CLASSES
    size = (digits_on_textures.SIDE, digits_on_textures.SIDE)
    exclusive = False

    def __init__(self) -> None:
        images = data_file("vis_mnist_t10k", "t10k-images-idx3-ubyte.gz")
        labels = data_file("vis_mnist_t10k", "t10k-labels-idx1-ubyte.gz")
        self._made = digits_on_textures.DigitsOnTextures(*read_mnist(images, labels), "test")

    def __len__(self) -> int:
        return DIGIT_PICTURES

    def picture(self, number: int) -> LabelledPicture:
        """Return one picture, with the mask of each of its digits."""
        made = self._made.picture(number)
        return LabelledPicture(made.pixels, made.digits, made.masks)


class CifarSet:
    """CIFAR-10's test pictures, shuffled so that the classes are mixed."""

    classes = cifar10.CLASSES
    size = (cifar10.SIDE, cifar10.SIDE)
    exclusive = True

    def __init__(self) -> None:
        self._pictures = cifar10.read_cifar10(data_file("vis_cifar10_jpg", "cifar10_test_jpg.tar.xz"))
        self._order = np.random.default_rng(0).permutation(len(self._pictures.labels))

    def __len__(self) -> int:
        return len(self._order)

    def picture(self, number: int) -> LabelledPicture:
        """Return one picture."""
        place = self._order[number]
        return LabelledPicture(self._pictures.pixels[place], (int(self._pictures.labels[place]),))


class CamvidSet:
    """CamVid's test scenes, resized, each with the classes that cover enough of it."""

    classes = camvid.CLASSES
    size = SCENE
    exclusive = False

    def __init__(self) -> None:
        self._scenes = camvid.read_camvid(data_file("vis_camvid_small", "camvid_test_240x180.tar"))
        self._shares = self._scenes.shares()

    def __len__(self) -> int:
        return len(self._scenes.names)

    def picture(self, number: int) -> LabelledPicture:
        """Return one picture, with the mask of each class that is present."""
        present = np.flatnonzero(self._shares[number] > PRESENT)
        shown = nearest(self._scenes.classes[number], SCENE)
        masks = shown == present[:, None, None]
        pixels = resized(self._scenes.pixels[number][None], SCENE)[0]
        return LabelledPicture(pixels, tuple(present.tolist()), masks, shown != camvid.UNLABELLED)


def nearest(classes: UInt8[np.ndarray, "*n H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "*n h w"]:
    """Return labels resized to (h, w): each new pixel gets the label of the old pixel at its centre."""
    old = classes.shape[-2:]
    rows, columns = ((2 * np.arange(new) + 1) * length // (2 * new) for length, new in zip(old, size, strict=True))
    return classes[..., rows[:, None], columns]


SETS: dict[str, Callable[[], PictureSet]] = {"digits": DigitSet, "cifar10": CifarSet, "camvid": CamvidSet}


@lru_cache(maxsize=3)
def picture_set(name: str) -> PictureSet:
    """Return the set of this name.

    Raises:
        InputError: if there is no such set, or its files are missing or damaged.
    """
    if name not in SETS:
        raise InputError(f"unknown pictures {shown(name)}; choose one of {', '.join(SETS)}")
    return SETS[name]()
