"""Small vision checkpoints with random weights, and real pictures to show them: those that scikit-image brings."""

import json
from pathlib import Path

import numpy as np
import skimage.data

from models import stock_transformer
from vision_models import vision_mamba

CLASSES = {0: "tabby cat", 1: "rocket", 2: "astronaut", 3: "coffee", 4: "9"}
SIDE, PATCH = 32, 8
GRID = SIDE // PATCH
PROCESSOR = {
    "size": {"height": SIDE, "width": SIDE},
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.25, 0.5],
}


def labelled():
    return {"id2label": CLASSES, "label2id": {name: k for k, name in CLASSES.items()}}


def vit(**options):
    """Return a ViT for pictures of 32 x 32 pixels in 16 patches, with five named classes."""
    return stock_transformer("vit", **{"image_size": SIDE, "patch_size": PATCH} | labelled() | options)


def vim(**options):
    """Return a Vision Mamba of the same size, its class token in the middle."""
    return vision_mamba(**{"image_size": SIDE, "patch_size": PATCH, "num_channels": 3} | labelled() | options)


def saved(model, folder: Path, processor: dict | None = PROCESSOR) -> Path:
    """Save a model, with the file that says how its pictures are prepared unless that is None."""
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    model.name_or_path = str(folder)
    return folder


def astronaut() -> np.ndarray:
    """Return a square photograph, uint8 (512, 512, 3)."""
    return skimage.data.astronaut()


def cat() -> np.ndarray:
    """Return a photograph of a cat, uint8 (300, 451, 3)."""
    return skimage.data.chelsea()
