"""Turn a task model's run into a folder of the zoo: `python -m training.zoo.export copying-mamba2`.

runs/NAME/checkpoint.pt becomes zoo/NAME (stock transformers, float16), and the run's curves training/curves/NAME*.csv.
The hybrids come with the package, so their folders are src/mambascope/weights/NAME.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training import copying, hybrids
from training.language.export import MOST_BYTES as PACKAGED_BYTES
from training.language.export import TOKENIZER, write_folder
from training.running.architectures import build, configuration
from training.running.bundled_start import WEIGHTS, bundled
from training.translation import data as translation_data
from training.translation.language_pairs import PAIRS

NAMES = (
    "copying-mamba",
    "copying-mamba2",
    "translation-en-fr-mamba",
    "translation-en-fr-mamba2",
    "translation-de-en-mamba2",
    "retrieval-mamba2",
    "sentiment-mamba",
)
#: What a task model's weights may weigh; those that come with the package, less (`training.language.export`).
MOST_BYTES = 8_000_000


def tokenizer_of(name: str, cache: Path | None) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a task model; `cache` is where a translation pair's lies, if not in its own folder."""
    if name.startswith("copying"):
        return copying.tokenizer()
    if name.startswith("translation"):
        return translation_data.load_tokenizer(cache or PAIRS["-".join(name.split("-")[1:3])].cache)
    return bundled({"sentiment-mamba": "tiny-mamba"}.get(name, hybrids.ORIGIN))[1]


def load_run(name: str, run: Path, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return the model of a run's checkpoint, in float32."""
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    architecture = checkpoint["settings"]["architecture"]
    if "bundled" in architecture:
        model = bundled(architecture["bundled"])[0]
    elif "hybrid" in architecture:
        model = hybrids.build(hybrids.configuration(architecture["hybrid"], len(tokenizer)))
    else:
        model = build(configuration(vocabulary=len(tokenizer), **architecture))
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def export(name: str, run: Path, cache: Path | None, folder: Path) -> int:
    """Write the folder of a task model; return the weights' size in bytes."""
    tokenizer = tokenizer_of(name, cache)
    separator = {"sep_token": tokenizer.sep_token} if tokenizer.sep_token else {}
    bos = {} if separator else {"bos_token": tokenizer.bos_token}
    config = {key: value for key, value in TOKENIZER.items() if key != "bos_token"} | bos | separator
    most = PACKAGED_BYTES if name in hybrids.NAMES else MOST_BYTES
    return write_folder(load_run(name, run, tokenizer), tokenizer, folder, most, config)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=(*NAMES, *hybrids.NAMES))
    parser.add_argument("--run", type=Path, help="default: runs/MODEL")
    parser.add_argument(
        "--cache", type=Path, help="where a translation pair's tokenizer lies (default: its own folder)"
    )
    parser.add_argument("--out", type=Path, help="default: zoo/MODEL, or src/mambascope/weights/MODEL")
    options = parser.parse_args()
    home = WEIGHTS if options.model in hybrids.NAMES else Path("zoo")
    run, folder = options.run or Path("runs") / options.model, options.out or home / options.model
    size = export(options.model, run, options.cache, folder)
    for table, suffix in (("curve", ""), ("validation", "-validation")):
        shutil.copyfile(run / f"{table}.csv", Path("training/curves") / f"{options.model}{suffix}.csv")
    print(f"{folder}: {size:,} bytes of weights")


if __name__ == "__main__":
    main()
