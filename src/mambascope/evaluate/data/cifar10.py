"""CIFAR-10 (Krizhevsky 2009) as JPEG files in a tar archive, one folder per class."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from mambascope.errors import InputError
from mambascope.evaluate.data.pictures import Pictures, archived_files, decoded

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32


def read_cifar10(archive: Path) -> Pictures:
    """Return the pictures of `cifar10_train_jpg.tar.xz` or `cifar10_test_jpg.tar.xz`, in the archive's order.

    Files are SPLIT/CLASS/NUMBER.jpg, 32×32 pixels each; reading 50,000 takes about ten seconds.

    Raises:
        InputError: naming archive and file, if a picture cannot be read, has another size or is not in the folder of a
            class, or if there is none.
    """
    pixels, labels = [], []
    for name, content in archived_files(archive):
        path = PurePosixPath(name)
        if path.suffix != ".jpg":
            continue
        if path.parent.name not in CLASSES:
            raise InputError(
                f"{archive}: {name} is not in the folder of a class of CIFAR-10, which are {', '.join(CLASSES)}"
            )
        picture = decoded(content, f"{archive}: {name}")
        if picture.shape != (SIDE, SIDE, 3):
            raise InputError(f"{archive}: {name} has {picture.shape[1]}×{picture.shape[0]} pixels, not {SIDE}×{SIDE}")
        pixels.append(picture)
        labels.append(CLASSES.index(path.parent.name))
    if not pixels:
        raise InputError(f"{archive} holds no picture CLASS/NUMBER.jpg")
    return Pictures(np.stack(pixels), np.array(labels), CLASSES)
