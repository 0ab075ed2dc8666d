"""Turn a vision model's run into a folder that `load` reads: `python -m training.vision.export digits vim`.

Models of digits go to zoo/NAME; those of pictures whose licence lets no weights ship stay in runs/NAME/model. The
curves of both go to training/curves/.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import PreTrainedModel

from mambascope.evaluate.data.pictures import MEAN, STD
from mambascope.files import write_whole
from mambascope.models.vim.grid import ClassToken
from training.vision.patch_teaching import PatchTaught
from training.vision.pictures import DATASETS
from training.vision.train import MODELS, build, run_name
from training.zoo.export import MOST_BYTES

#: The data sets of which weights may ship.
FREE = ("digits",)
#: The data sets whose pictures show several classes at once, each with a probability of its own.
SEVERAL = ("digits", "camvid")


def load_run(model: str, checkpoint: Path) -> PreTrainedModel:
    """Return the model of a run's checkpoint, in float32, without the head that taught its patches."""
    state = torch.load(checkpoint, weights_only=True)
    found = build(model, state["settings"]["architecture"])
    tensors = state["model"]
    taught = any(name.startswith("patch_head.") for name in tensors)
    (PatchTaught(found) if taught else found).load_state_dict(tensors)
    return found.eval()


def export(model: PreTrainedModel, folder: Path, size: tuple[int, int]) -> int:
    """Write config.json, model.safetensors (float16) and how pictures are prepared; return the weights' size in bytes.

    Args:
        model: The model.
        folder: Where to.
        size: Height and width of its pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder)
    settings: dict[str, Any] = {
        "do_resize": True,
        "size": {"height": size[0], "width": size[1]},
        "resample": 2,  # Pillow's bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    write_whole(folder / "preprocessor_config.json", json.dumps(settings, indent=2) + "\n")
    weights = folder / "model.safetensors"
    weights.chmod(0o644)
    written = weights.stat().st_size
    if written > MOST_BYTES:
        raise ValueError(f"{weights} weighs {written} bytes, more than {MOST_BYTES}.")
    return written


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", choices=tuple(DATASETS))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--class-token", choices=get_args(ClassToken), default="middle", help="where a vim has it")
    parser.add_argument("--run", type=Path, help="default: as training.vision.train names it")
    parser.add_argument("--out", type=Path, help="default: zoo/NAME, or the run's folder `model`")
    options = parser.parse_args()
    name = run_name(options.dataset, options.model, options.class_token)
    run = options.run or Path("runs") / name
    free = options.dataset in FREE
    folder = options.out or (Path("zoo") / name if free else run / "model")
    model = load_run(options.model, run / "checkpoint.pt")
    if options.dataset in SEVERAL:
        model.config.problem_type = "multi_label_classification"
    size = export(model, folder, tuple(model.config.image_size))
    for table, suffix in (("curve", ""), ("validation", "-validation")):
        shutil.copyfile(run / f"{table}.csv", Path("training/curves") / f"{name}{suffix}.csv")
    print(f"{folder}: {size:,} bytes of weights, {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
