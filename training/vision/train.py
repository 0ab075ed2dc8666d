"""Train a small vision model: `python -m training.vision.train digits vim`.

A Vision Mamba and a Vision Transformer of one size, for three data sets. The same command goes on from the last
checkpoint. Models of CIFAR-10 and CamVid do not ship, as their licences do not allow it: this command makes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from mambascope.models.vim import VisionMamba, VisionMambaConfig
from mambascope.models.vim.grid import ClassToken
from training.language.corpus import data_folder
from training.running.allocator import keep_pages
from training.running.loop import Reporting, Settings, train
from training.vision.patch_teaching import PatchTaught
from training.vision.pictures import DATASETS, PictureTask, picture_loss

MODELS = ("vim", "vit")
#: Pictures to a step.
BATCH = {"digits": 32, "cifar10": 64, "camvid": 16}
#: How long the models were trained, and for how many of these steps the rate fell.
STEPS = {
    "digits": {"vim": 1700, "vit": 6000},
    "cifar10": {"vim": 4500, "vit": 4500},
    "camvid": {"vim": 1500, "vit": 1500},
}
DECAY = {"digits": {"vim": 500, "vit": 1500}, "cifar10": {"vim": 1400, "vit": 1400}, "camvid": {"vim": 500, "vit": 500}}
WIDTH = 128
#: What makes the two about equally large.
VIM: dict[str, Any] = {"num_hidden_layers": 6, "state_size": 8}
VIT: dict[str, Any] = {
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 320,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def run_name(dataset: str, model: str, class_token: str) -> str:
    """Return the name of a model and of its run; that the class token stands in the middle is not said."""
    return f"vision-{dataset}-{model}" + ("" if class_token == "middle" else f"-{class_token}")


def architecture(model: str, task: PictureTask, class_token: str = "middle") -> dict[str, Any]:
    """Return the settings of a model's configuration."""
    shared = {
        "hidden_size": WIDTH,
        "image_size": list(task.size),
        "patch_size": task.patch,
        "id2label": dict(enumerate(task.classes)),
        "label2id": {name: k for k, name in enumerate(task.classes)},
    }
    if model == "vit":
        return shared | VIT
    return shared | VIM | ({} if class_token == "middle" else {"class_token": class_token})


def build(model: str, settings: dict[str, Any]) -> PreTrainedModel:
    """Return a freshly initialised model; seed torch before."""
    if model == "vim":
        return VisionMamba(VisionMambaConfig(**settings))
    # The fused attention of the CPU library takes longer backwards than all the rest of so small a model.
    return ViTForImageClassification(ViTConfig(**settings, attn_implementation="eager"))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", choices=tuple(DATASETS))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--class-token", choices=get_args(ClassToken), default="middle", help="where a vim has it")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--decay", type=int)
    parser.add_argument("--batch", type=int, help="pictures to a step")
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA)")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/vision-DATASET-MODEL)")
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    options = parser.parse_args()
    if options.model == "vit" and options.class_token != "middle":
        parser.error("a vit's class token stands first; --class-token is for a vim")
    keep_pages("training.vision.train")
    torch.set_num_threads(options.threads)
    batch = options.batch or BATCH[options.dataset]
    task: PictureTask = DATASETS[options.dataset](data_folder(options.data), batch, options.seed)
    settings = Settings(
        task=run_name(options.dataset, options.model, options.class_token),
        architecture=architecture(options.model, task, options.class_token),
        steps=options.steps or STEPS[options.dataset][options.model],
        decay=options.decay or DECAY[options.dataset][options.model],
        peak=options.peak,
        seed=options.seed,
        batches={"pictures": batch},
    )
    torch.manual_seed(options.seed)
    model = build(options.model, settings.architecture)
    learner = PatchTaught(model) if task.taught else model
    out = options.out or Path("runs") / settings.task
    reporting = Reporting(log_steps=100, validation_steps=500, unit="pictures")
    train(settings, learner, task, out, reporting, not options.eager, loss_of=picture_loss)


if __name__ == "__main__":
    main()
