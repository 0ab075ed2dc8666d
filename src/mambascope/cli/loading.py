"""Loading for the command: precisions are given by name, and the libraries print nothing."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import nullcontext

import torch
import transformers
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mambascope.loading.bundled import bundled_models
from mambascope.loading.constructed import is_constructed
from mambascope.loading.load import load as load_model
from mambascope.loading.zoo import PREFIX


def load(
    name: str, tokenizer: str | None, dtype: str, device: str, trust_remote_code: bool
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
                trust_remote_code=trust_remote_code,
            )
    for one in assumed:
        print(f"mambascope: {one.message}", file=sys.stderr)
    return loaded
