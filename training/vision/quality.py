"""Measure a vision model: `python -m training.vision.quality digits zoo/vision-digits-vim`.

Float32, on the test pictures, which neither trained nor chose.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import mambascope
from training.language.corpus import data_folder
from training.vision.pictures import DATASETS


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", choices=tuple(DATASETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, _ = mambascope.load(options.folder)
    print(json.dumps(DATASETS[options.dataset](data_folder(options.data), 1, 0).test(model), indent=2))


if __name__ == "__main__":
    main()
