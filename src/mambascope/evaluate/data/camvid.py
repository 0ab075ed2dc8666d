"""CamVid's road scenes with a class for every pixel (Brostow, Fauqueur & Cipolla 2009), in SegNet's twelve classes.

A split is a tar archive of SPLIT/FRAME.jpg and SPLITannot/FRAME.png, whose grey levels are the class numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.evaluate.data.pictures import archived_files, decoded, resized

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
#: The class number of pixels that belong to none of the classes.
UNLABELLED = len(CLASSES)


@dataclass(frozen=True)
class Scenes:
    """Frames and the class of each of their pixels.

    Attributes:
        names: The frames' names.
        pixels: The frames.
        classes: The class of every pixel: its position in `CLASSES`, or `UNLABELLED`.
    """

    names: tuple[str, ...]
    pixels: UInt8[np.ndarray, "n H W 3"]
    classes: UInt8[np.ndarray, "n H W"]

    __repr__ = brief

    def shares(self) -> np.ndarray:
        """Return the share of each frame's pixels that each class covers, (n, 11)."""
        return np.stack([(self.classes == k).mean(axis=(1, 2)) for k in range(len(CLASSES))], axis=1)

    def resized(self, size: tuple[int, int]) -> UInt8[np.ndarray, "n h w 3"]:
        """Return the frames resized to (h, w), each pixel the mean of those that it replaces."""
        return resized(self.pixels, size)


def read_camvid(archive: Path) -> Scenes:
    """Return the scenes of `camvid_{train,val,test}_240x180.tar`, sorted by name.

    Raises:
        InputError: naming archive and file, if a file cannot be read, a frame has no labels or labels of another size,
            a label is not a class number, or there is no frame.
    """
    frames, labels = {}, {}
    for name, content in archived_files(archive):
        path = PurePosixPath(name)
        if path.suffix == ".jpg":
            frames[path.stem] = decoded(content, f"{archive}: {name}")
        elif path.suffix == ".png" and path.parent.name.endswith("annot"):
            labels[path.stem] = decoded(content, f"{archive}: {name}", "L")
    if not frames:
        raise InputError(f"{archive} holds no frame SPLIT/FRAME.jpg")
    unpaired = sorted(frames.keys() ^ labels.keys())
    if unpaired:
        raise InputError(f"{archive}: {unpaired[0]} has no {'labels' if unpaired[0] in frames else 'frame'}")
    names = tuple(sorted(frames))
    size = frames[names[0]].shape[:2]
    for name in names:
        if not size == frames[name].shape[:2] == labels[name].shape:
            raise InputError(
                f"{archive}: frame {name} or its labels do not have {size[1]}×{size[0]} pixels like the others"
            )
        if labels[name].max() > UNLABELLED:
            raise InputError(
                f"{archive}: a pixel of {name} is of class {labels[name].max()}; they are 0 to {UNLABELLED}"
            )
    return Scenes(names, np.stack([frames[n] for n in names]), np.stack([labels[n] for n in names]))
