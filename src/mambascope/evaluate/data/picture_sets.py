"""The sets of pictures that maps are judged on, held out from every model of this project, each under its name."""

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

#: What road scenes are made of for the models of this project: rows and columns, from 180 and 240.
SCENE = (96, 128)
#: The share of a road scene's pixels from which on a class counts as there.
THERE = 0.005
#: How many digit pictures there are to judge on.
DIGIT_PICTURES = 300


@dataclass(frozen=True)
class JudgedPicture:
    """A picture and what is known of it.

    Attributes:
        pixels: The picture.
        classes: The classes that it shows.
        masks: The pixels of each; none where that is not known.
        labelled: The pixels of which it is known what they show; None for all.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    classes: tuple[int, ...]
    masks: Bool[np.ndarray, "classes H W"] | None = None
    labelled: Bool[np.ndarray, "H W"] | None = None

    __repr__ = brief


@runtime_checkable
class PictureSet(Protocol):
    """Pictures by number."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""

    @property
    def exclusive(self) -> bool:
        """Whether a picture is of one class, so that the likeliest is the answer; else each is there or not."""

    def __len__(self) -> int:
        """Return how many there are."""

    def picture(self, number: int) -> JudgedPicture:
        """Return one of them."""


class DigitSet:
    """Digits on textures, of digits and pieces of photographs that no model was trained on."""

    classes = digits_on_textures.CLASSES
    size = (digits_on_textures.SIDE, digits_on_textures.SIDE)
    exclusive = False

    def __init__(self) -> None:
        images = data_file("vis_mnist_t10k", "t10k-images-idx3-ubyte.gz")
        labels = data_file("vis_mnist_t10k", "t10k-labels-idx1-ubyte.gz")
        self._made = digits_on_textures.DigitsOnTextures(*read_mnist(images, labels), "test")

    def __len__(self) -> int:
        return DIGIT_PICTURES

    def picture(self, number: int) -> JudgedPicture:
        """Return one of them, with the mask of each of its digits."""
        made = self._made.picture(number)
        return JudgedPicture(made.pixels, made.digits, made.masks)


class CifarSet:
    """CIFAR-10's test pictures, in an order in which the classes take turns by chance."""

    classes = cifar10.CLASSES
    size = (cifar10.SIDE, cifar10.SIDE)
    exclusive = True

    def __init__(self) -> None:
        self._pictures = cifar10.read_cifar10(data_file("vis_cifar10_jpg", "cifar10_test_jpg.tar.xz"))
        self._order = np.random.default_rng(0).permutation(len(self._pictures.labels))

    def __len__(self) -> int:
        return len(self._order)

    def picture(self, number: int) -> JudgedPicture:
        """Return one of them."""
        place = self._order[number]
        return JudgedPicture(self._pictures.pixels[place], (int(self._pictures.labels[place]),))


class CamvidSet:
    """CamVid's test scenes, made small, with the classes that cover enough of them."""

    classes = camvid.CLASSES
    size = SCENE
    exclusive = False

    def __init__(self) -> None:
        self._scenes = camvid.read_camvid(data_file("vis_camvid_small", "camvid_test_240x180.tar"))
        self._shares = self._scenes.shares()

    def __len__(self) -> int:
        return len(self._scenes.names)

    def picture(self, number: int) -> JudgedPicture:
        """Return one of them, with the pixels of each class that is there."""
        there = np.flatnonzero(self._shares[number] > THERE)
        shown = nearest(self._scenes.classes[number], SCENE)
        masks = shown == there[:, None, None]
        pixels = resized(self._scenes.pixels[number][None], SCENE)[0]
        return JudgedPicture(pixels, tuple(there.tolist()), masks, shown != camvid.UNLABELLED)


def nearest(classes: UInt8[np.ndarray, "*n H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "*n h w"]:
    """Return labels at another size (h, w): of each new pixel that of the old one in its middle."""
    old = classes.shape[-2:]
    rows, columns = ((2 * np.arange(new) + 1) * length // (2 * new) for length, new in zip(old, size, strict=True))
    return classes[..., rows[:, None], columns]


SETS: dict[str, Callable[[], PictureSet]] = {"digits": DigitSet, "cifar10": CifarSet, "camvid": CamvidSet}


@lru_cache(maxsize=3)
def picture_set(name: str) -> PictureSet:
    """Return a set by its name.

    Raises:
        InputError: if there is no such set, or its files are absent or damaged.
    """
    if name not in SETS:
        raise InputError(f"unknown pictures {name!r}; choose one of {', '.join(SETS)}")
    return SETS[name]()
