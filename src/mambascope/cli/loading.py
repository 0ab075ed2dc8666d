"""Loading for the command: precisions are given by name, and the libraries print nothing."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import transformers
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.cli.wording import in_options
from mambascope.errors import InputError
from mambascope.loading.bundled import bundled_models
from mambascope.loading.constructed import is_constructed
from mambascope.loading.load import load as load_model
from mambascope.loading.zoo import PREFIX


def load(
    name: str,
    tokenizer: str | None,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    image_size: int | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return the model and tokenizer that the options name; raises as `mambascope.load` does."""
    transformers.logging.set_verbosity_error()
    local = name in bundled_models() or name.startswith(PREFIX) or is_constructed(name) or os.path.exists(name)
    with warnings.catch_warnings(record=True) as assumed:
        warnings.simplefilter("always")
        with Console(stderr=True).status(f"loading {escape(name)}") if local else nullcontext():  # downloads show bars
            loaded = load_model(
                name,
                dtype=getattr(torch, dtype),
                device=device,
                tokenizer=tokenizer,
                image_size=image_size,
                trust_remote_code=trust_remote_code,
            )
    for one in assumed:
        print(f"mambascope: {in_options(str(one.message))}", file=sys.stderr)
    return loaded


def check_size(image_size: int | None, names: Sequence[str]) -> None:
    """Raise InputError if `--image-size` is given and none of several models is a file."""
    if image_size is not None and not any(map(os.path.isfile, names)):
        raise InputError("--image-size is for models in files as their authors released them, and none of these is one")


def size_for(name: str, image_size: int | None) -> int | None:
    """Return what `--image-size` means for one of several models: only files are in need of it."""
    return image_size if os.path.isfile(name) else None
