"""Digits on textures: synthetic pictures of one to three handwritten digits on a piece of a photograph, with masks.

The masks are exact, because the digits were pasted there. So one can test whether a map finds the evidence for a class,
and not that for another class in the same picture. The training, validation and test splits share neither a digit nor a
pixel of a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.evaluate.data.free_photographs import STRIPS, strips

SIDE = 64
CLASSES = tuple(map(str, range(10)))
#: Where each split begins and ends in every thousand digits in MNIST's order; neighbours may be in one person's hand.
RUNS = {"training": (0, 800), "validation": (800, 850), "test": (850, 1000)}
#: The smallest and the largest length of a digit's longer side, by the number of digits in the picture.
SIZES = {1: (20, 36), 2: (20, 30), 3: (20, 26)}
#: How many random places are tried for a digit before it is left out.
TRIES = 50
#: The factor on a texture's brightness, and the least brightness (of 255) of ink: a digit is brighter than most of its
#: surroundings, so that small models can learn to read it on a small machine.
DARKENED, BRIGHT = 0.4, 180
BRIGHTNESS = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class DigitPicture:
    """One picture.

    Attributes:
        pixels: The picture.
        digits: The digits that it shows, all different.
        masks: For each digit, the pixels that are at least half ink; masks do not overlap.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    digits: tuple[int, ...]
    masks: Bool[np.ndarray, "digits H W"]

    __repr__ = brief

    def presence(self) -> Float[np.ndarray, "10"]:
        """Return 1 for each class that the picture shows, else 0."""
        return np.isin(np.arange(10), self.digits).astype(np.float32)

    def shown(self) -> Int[np.ndarray, "H W"]:
        """Return the digit at each pixel, 10 where there is none."""
        whose = np.full(self.pixels.shape[:2], len(CLASSES))
        for digit, mask in zip(self.digits, self.masks, strict=True):
            whose[mask] = digit
        return whose


class DigitsOnTextures:
    """An endless series of pictures; each depends only on split, seed and index."""

    def __init__(
        self, images: UInt8[np.ndarray, "n 28 28"], labels: Int[np.ndarray, " n"], split: str, seed: int = 0
    ) -> None:
        """Take the digits of a split, by class, and its strips of the photographs.

        Args:
            images: MNIST's test digits.
            labels: Their labels.
            split: `training`, `validation` or `test`.
            seed: Other seeds give other pictures of the same digits and textures.

        Raises:
            InputError: if there is no such split, it lacks a digit of some class, or the photographs are not installed.
        """
        self.textures = strips(split, SIDE)
        low, high = RUNS[split]
        place = np.arange(len(labels)) % 1000
        self.glyphs = [
            [_cropped(image) for image in images[(labels == k) & (place >= low) & (place < high)]] for k in range(10)
        ]
        missing = [k for k, glyphs in enumerate(self.glyphs) if not glyphs]
        if missing:
            raise InputError(f"the {split} split has no handwritten {missing[0]} among {len(labels)} digits")
        self.key = (seed, list(STRIPS).index(split))

    def picture(self, index: int) -> DigitPicture:
        """Return picture number `index`."""
        rng = np.random.default_rng((*self.key, index))
        pixels = self._background(rng)
        masks: list[np.ndarray] = []
        digits = []
        count = int(rng.integers(1, 4))
        taken = np.zeros((SIDE, SIDE), bool)
        for digit in rng.choice(10, size=count, replace=False).tolist():
            glyph = self.glyphs[digit][rng.integers(len(self.glyphs[digit]))]
            ink = _resized(glyph, int(rng.integers(SIZES[count][0], SIZES[count][1] + 1)))
            H, W = ink.shape
            for _ in range(TRIES):
                y, x = int(rng.integers(SIDE - H + 1)), int(rng.integers(SIDE - W + 1))
                if not (taken[y : y + H, x : x + W] & (ink > 0)).any():
                    break
            else:
                continue
            _paste(rng, pixels[y : y + H, x : x + W], ink)
            mask = np.zeros((SIDE, SIDE), bool)
            mask[y : y + H, x : x + W] = ink >= 0.5
            taken[y : y + H, x : x + W] |= ink > 0
            digits.append(digit)
            masks.append(mask)
        return DigitPicture((pixels + 0.5).astype(np.uint8), tuple(digits), np.stack(masks))

    def _background(self, rng: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
        """Return a piece of a photograph, flipped at random, tinted and darkened."""
        strip = self.textures[rng.integers(len(self.textures))]
        y, x = (int(rng.integers(size - SIDE + 1)) for size in strip.shape[:2])
        piece = strip[y : y + SIDE, x : x + SIDE]
        piece = piece[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        tinted = piece * rng.uniform(0.7, 1.3, size=3) + rng.uniform(-30, 30, size=3)
        return DARKENED * tinted.clip(0, 255)


def _cropped(image: UInt8[np.ndarray, "28 28"]) -> UInt8[np.ndarray, "h w"]:
    """Return a digit without its empty margins."""
    rows, columns = (np.flatnonzero(image.max(axis=axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(glyph: UInt8[np.ndarray, "h w"], longer: int) -> Float[np.ndarray, "H W"]:
    """Return a digit resized so that its longer side has so many pixels, as shares of ink from 0 to 1."""
    h, w = glyph.shape
    scale = longer / max(h, w)
    H, W = max(1, round(h * scale)), max(1, round(w * scale))
    return _weights(h, H) @ (glyph / 255.0) @ _weights(w, W).T


@cache
def _weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Return the weights that interpolate `old` pixels to `new` ones, linearly between their centres."""
    centres = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(old)))


def _paste(rng: np.random.Generator, window: Float[np.ndarray, "h w 3"], ink: Float[np.ndarray, "h w"]) -> None:
    """Blend a digit into the window, in one bright colour and nearly opaque."""
    while True:
        colour = rng.uniform(0, 255, size=3)
        if colour @ BRIGHTNESS >= BRIGHT:
            break
    share = rng.uniform(0.75, 1.0) * ink[..., None]
    window += share * (colour - window)
