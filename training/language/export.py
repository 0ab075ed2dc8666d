"""Turn a run's checkpoint into a folder that transformers loads: `python -m training.language.export tiny-mamba`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from mambascope.files import write_whole
from training.language.tokens import END_OF_TEXT, load_tokenizer
from training.running.architectures import NAMES, build, configuration

#: What a bundled model's weights may weigh.
MOST_BYTES = 6_000_000

#: What AutoTokenizer reads beside tokenizer.json; transformers would add notes about the machine that wrote it.
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": END_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "pad_token": END_OF_TEXT,
    "clean_up_tokenization_spaces": False,
}


def export(name: str, checkpoint: Path, cache: Path, folder: Path) -> int:
    """Write config.json, model.safetensors (float16) and the tokenizer; return the weights' size in bytes."""
    tokenizer = load_tokenizer(cache)
    model = build(configuration(name, len(tokenizer)))
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return write_folder(model, tokenizer, folder, MOST_BYTES, TOKENIZER)


def write_folder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    most_bytes: int,
    tokenizer_config: dict[str, Any],
) -> int:
    """Write a model in float16 and its tokenizer, and return the weights' size in bytes."""
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_whole(folder / "tokenizer_config.json", json.dumps(tokenizer_config, indent=2) + "\n")
    weights = folder / "model.safetensors"
    weights.chmod(0o644)
    size = weights.stat().st_size
    if size > most_bytes:
        raise ValueError(f"{weights} weighs {size} bytes, more than {most_bytes}.")
    return size


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=NAMES)
    parser.add_argument("--checkpoint", type=Path, help="default: runs/MODEL/checkpoint.pt")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--out", type=Path, help="default: src/mambascope/weights/MODEL")
    options = parser.parse_args()
    folder = options.out or Path("src/mambascope/weights") / options.model
    size = export(
        options.model, options.checkpoint or Path("runs") / options.model / "checkpoint.pt", options.cache, folder
    )
    print(f"{folder}: {size:,} bytes of weights")


if __name__ == "__main__":
    main()
