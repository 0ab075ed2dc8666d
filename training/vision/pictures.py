"""The pictures that vision models are trained on: batches of a step, and figures on held-out pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mambascope.evaluate.data.camvid import CLASSES as CAMVID_CLASSES
from mambascope.evaluate.data.camvid import read_camvid
from mambascope.evaluate.data.cifar10 import CLASSES as CIFAR10_CLASSES
from mambascope.evaluate.data.cifar10 import read_cifar10
from mambascope.evaluate.data.digits_on_textures import CLASSES as DIGITS
from mambascope.evaluate.data.digits_on_textures import SIDE, DigitPicture, DigitsOnTextures
from mambascope.evaluate.data.mnist import read_mnist
from mambascope.evaluate.data.picture_sets import PRESENT, SCENE, nearest
from mambascope.evaluate.data.pictures import normalised
from training.running.scans import fast_scans

#: Rows and columns by which a CIFAR-10 picture is moved at most.
SHIFT = 4
#: The shares of a patch's pixels from which on a digit, or a road scene's class, is what it shows.
INKED, MOST = 0.1, 0.5


class PictureBatch(NamedTuple):
    """Pixels and what they show.

    `shown` is a class each, (b,), or which classes are there, (b, classes). `patches`, where what each pixel shows is
    known, is the class that each patch shows, one more than the last where it is of none.
    """

    pixels: Float[Tensor, "b 3 H W"]
    shown: Tensor
    patches: Int[Tensor, "b rows columns"] | None = None

    @property
    def seen(self) -> int:
        """How many pictures there are."""
        return len(self.pixels)


class PictureTask(Protocol):
    """A data set to train on, as `training.running.loop` takes it."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def patch(self) -> int:
        """Pixels along a patch's side."""

    @property
    def taught(self) -> bool:
        """Whether what each patch shows is known, and taught."""

    def step(self, step: int) -> PictureBatch:
        """Return the batch of one step."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return figures on pictures held out for choosing."""

    def test(self, model: nn.Module) -> dict[str, float]:
        """Return figures on pictures held out for reporting."""


def picture_loss(model: nn.Module, batch: PictureBatch) -> Tensor:
    """Return the mean loss in nats: cross-entropy of one class each, or the mean of each class's binary one.

    Where patches have classes, their mean cross-entropy is added (`training.vision.patch_teaching`).
    """
    found = model(pixel_values=batch.pixels)
    logits = found.logits.float()
    if batch.shown.ndim == 1:
        return F.cross_entropy(logits, batch.shown)
    loss = F.binary_cross_entropy_with_logits(logits, batch.shown)
    if batch.patches is None:
        return loss
    return loss + F.cross_entropy(found.patches.float().flatten(0, 1), batch.patches.flatten())


def patch_classes(
    shown: Int[np.ndarray, "b H W"], patch: int, classes: int, least: float
) -> Int[np.ndarray, "b rows columns"]:
    """Return the class that most pixels of each patch are of; none, as `classes`, if it has less than `least` of them.

    Args:
        shown: Each pixel's class, `classes` where it is of none.
        patch: Pixels along a patch's side.
        classes: How many there are.
        least: The share of a patch's pixels from which on a class is what it shows.
    """
    b, H, W = shown.shape
    windows = shown.reshape(b, H // patch, patch, W // patch, patch)
    shares = np.stack([(windows == k).mean(axis=(2, 4)) for k in range(classes)], axis=-1)
    return np.where(shares.max(axis=-1) >= least, shares.argmax(axis=-1), classes)


@torch.no_grad()
def logits(model: nn.Module, pixels: UInt8[np.ndarray, "n H W 3"], batch: int = 250) -> Float[Tensor, "n classes"]:
    """Return a model's logits, in float32."""
    with fast_scans():
        parts = [pixels[k : k + batch] for k in range(0, len(pixels), batch)]
        return torch.cat([model(pixel_values=normalised(part)).logits.float() for part in parts])


def presence_figures(logits: Float[Tensor, "n classes"], there: Float[Tensor, "n classes"]) -> dict[str, float]:
    """Return the shares of (picture, class) pairs and of whole pictures judged right, at a probability of a half."""
    right = (logits > 0) == (there > 0.5)
    return {"classes_right": float(right.float().mean()), "pictures_right": float(right.all(dim=1).float().mean())}


class Digits:
    """Digits on textures, no training picture twice."""

    size = (SIDE, SIDE)
    classes = DIGITS
    patch = 8
    taught = True

    def __init__(self, data: Path, batch: int, seed: int, held_out: int = 1000) -> None:
        folder = data / "vis_mnist_t10k"
        self.images = read_mnist(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")
        self.batch, self.seed, self.held_out = batch, seed, held_out
        self.made = DigitsOnTextures(*self.images, "training", seed)

    def step(self, step: int) -> PictureBatch:
        made = [self.made.picture(index) for index in range(step * self.batch, (step + 1) * self.batch)]
        patches = patch_classes(np.stack([one.shown() for one in made]), self.patch, len(DIGITS), INKED)
        pixels, there = digit_arrays(made)
        return PictureBatch(normalised(pixels), torch.from_numpy(there), torch.from_numpy(patches))

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._figures(model, "validation")

    def test(self, model: nn.Module) -> dict[str, float]:
        return self._figures(model, "test")

    def _figures(self, model: nn.Module, part: str) -> dict[str, float]:
        held_out = DigitsOnTextures(*self.images, part)
        pixels, there = digit_arrays([held_out.picture(index) for index in range(self.held_out)])
        return presence_figures(logits(model, pixels), torch.from_numpy(there))


def digit_arrays(
    made: list[DigitPicture],
) -> tuple[UInt8[np.ndarray, "n H W 3"], Float[np.ndarray, "n 10"]]:
    """Return the pixels of pictures and which digits each shows."""
    return np.stack([one.pixels for one in made]), np.stack([one.presence() for one in made])


class Cifar10:
    """CIFAR-10, turned over and moved at random; the last 2,000 training pictures of an order by the seed choose."""

    size = (32, 32)
    classes = CIFAR10_CLASSES
    patch = 4
    taught = False

    def __init__(self, data: Path, batch: int, seed: int, held_out: int = 2000) -> None:
        self.folder, self.batch, self.seed = data / "vis_cifar10_jpg", batch, seed
        self.pictures = read_cifar10(self.folder / "cifar10_train_jpg.tar.xz")
        order = np.random.default_rng(0).permutation(len(self.pictures.labels))
        self.training, self.validation = order[:-held_out], order[-held_out:]

    def step(self, step: int) -> PictureBatch:
        chosen, rng = epochs(self.training, self.batch, self.seed, step)
        pixels = moved(self.pictures.pixels[chosen], SHIFT, rng)
        return PictureBatch(normalised(pixels), torch.from_numpy(self.pictures.labels[chosen]))

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._accuracy(model, self.pictures.pixels[self.validation], self.pictures.labels[self.validation])

    def test(self, model: nn.Module) -> dict[str, float]:
        pictures = read_cifar10(self.folder / "cifar10_test_jpg.tar.xz")
        return self._accuracy(model, pictures.pixels, pictures.labels)

    def _accuracy(self, model: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((logits(model, pixels).argmax(1).numpy() == labels).mean())}


@dataclass
class SmallScenes:
    """Road scenes as models see them, and the classes that are there."""

    pixels: UInt8[np.ndarray, "n H W 3"]
    shown: UInt8[np.ndarray, "n H W"]
    there: Float[np.ndarray, "n classes"]


class Camvid:
    """CamVid's road scenes, turned over and moved at random: which of eleven classes are there?"""

    size = SCENE
    classes = CAMVID_CLASSES
    patch = 8
    taught = True

    def __init__(self, data: Path, batch: int, seed: int) -> None:
        self.folder, self.batch, self.seed = data / "vis_camvid_small", batch, seed
        self.training, self.validation = self._read("train"), self._read("val")

    def step(self, step: int) -> PictureBatch:
        chosen, rng = epochs(np.arange(len(self.training.pixels)), self.batch, self.seed, step)
        both = np.concatenate([self.training.pixels[chosen], self.training.shown[chosen, ..., None]], axis=-1)
        pixels, shown = np.split(moved(both, 2 * SHIFT, rng), [3], axis=-1)
        patches = patch_classes(shown[..., 0], self.patch, len(CAMVID_CLASSES), MOST)
        there = torch.from_numpy(self.training.there[chosen])
        return PictureBatch(normalised(pixels), there, torch.from_numpy(patches))

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._figures(model, self.validation)

    def test(self, model: nn.Module) -> dict[str, float]:
        return self._figures(model, self._read("test"))

    def _figures(self, model: nn.Module, scenes: SmallScenes) -> dict[str, float]:
        return presence_figures(logits(model, scenes.pixels), torch.from_numpy(scenes.there))

    def _read(self, part: str) -> SmallScenes:
        scenes = read_camvid(self.folder / f"camvid_{part}_240x180.tar")
        return SmallScenes(
            scenes.resized(SCENE), nearest(scenes.classes, SCENE), (scenes.shares() > PRESENT).astype(np.float32)
        )


def epochs(
    places: Int[np.ndarray, " n"], batch: int, seed: int, step: int
) -> tuple[Int[np.ndarray, " batch"], np.random.Generator]:
    """Return the places of a step, each once in an epoch in an order by the seed, and a generator for the rest."""
    per_epoch = len(places) // batch
    epoch, within = divmod(step, per_epoch)
    order = np.random.default_rng((seed, 0, epoch)).permutation(places)
    return order[within * batch : (within + 1) * batch], np.random.default_rng((seed, 1, step))


def moved(pixels: UInt8[np.ndarray, "b H W c"], most: int, rng: np.random.Generator) -> UInt8[np.ndarray, "b H W c"]:
    """Return pictures, half of them mirrored, each moved by up to so many pixels; its edge is mirrored into the gap."""
    b, H, W, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    found = np.empty_like(pixels)
    for k, (y, x, mirrored) in enumerate(rng.integers((2 * most + 1, 2 * most + 1, 2), size=(b, 3)).tolist()):
        window = padded[k, y : y + H, x : x + W]
        found[k] = window[:, ::-1] if mirrored else window
    return found


DATASETS: dict[str, Callable[[Path, int, int], PictureTask]] = {"digits": Digits, "cifar10": Cifar10, "camvid": Camvid}
