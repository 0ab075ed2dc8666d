"""Read a checkpoint's tokenizer, and try it: several libraries read tokenizers, and each fails in its own ways.

Before a library reads tokenizer.json, its rules are checked: one that makes a text thousands of times longer is
refused. Afterwards a short text is encoded, so that one whose patterns never end, or which crashes, is refused here and
not in the middle of someone's work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mambascope.errors import CheckpointError, MambascopeError
from mambascope.families import kinds_of_type
from mambascope.loading.json_files import is_file, one_line, read_json
from mambascope.loading.schemas import ConfigFile, TokenizerFile, TokenizerSettings
from mambascope.panics import panics_unprinted

#: A folder with any of these files has a tokenizer of its own.
FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")

#: What a tokenizer's Rust library raises on a panic; it is not an `Exception`, and cannot be imported by name.
PANIC = "PanicException"

#: Repetitions, on which patterns such as `(a+)+$` try every division, and a bit of everything else.
PROBE = f"{'a' * 28}! The 1st café of {'0' * 28}, {' ' * 28}: déjà-vu; {'_' * 28}\n"

#: How long the probe may take, in seconds, and how many tokens a letter of it may become.
PATIENCE, MOST_TOKENS = 2.0, 100

#: How many times longer the rules of a tokenizer may make a text.
MOST_GROWTH = 4096


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a tokenizer of its own."""
    return any(is_file(folder / name) for name in FILES)


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder; raises CheckpointError if it cannot be read or fails on a short text."""
    try:
        _check_rules(folder)
        with panics_unprinted():
            tokenizer = _read(folder, trust_remote_code=trust_remote_code)
            _try(tokenizer)
    except BaseException as error:
        if not is_tokenizers_own(error):
            raise
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {one_line(error)}") from error
    return tokenizer


def is_tokenizers_own(error: BaseException) -> bool:
    """Return whether an error is a tokenizer's, also a crash of its library, and no interruption or lack of memory."""
    return (isinstance(error, Exception) and not isinstance(error, MemoryError)) or type(error).__name__ == PANIC


def _read(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder.

    If nothing names its class, transformers would use the usual one for the model's family and rebuild the tokenizer
    with that class's own splitting rules, which gives different tokens; in that case we follow the file.
    """
    path = folder / "tokenizer_config.json"
    settings = read_json(path, TokenizerSettings) if is_file(path) else {}
    if not {"tokenizer_class", "auto_map"} & settings.keys() and is_file(folder / "tokenizer.json"):
        return PreTrainedTokenizerFast.from_pretrained(folder, **_special_tokens(folder))
    if is_file(folder / "config.json"):
        read_json(folder / "config.json", ConfigFile)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _special_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens of a Transformer's usual tokenizer, such as `[MASK]`, by their roles.

    tokenizer.json holds the tokens, but not their roles.
    """
    config = folder / "config.json"
    if not is_file(config) or kinds_of_type(read_json(config, ConfigFile).get("model_type") or "") != {"attention"}:
        return {}
    known = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    usual = AutoTokenizer.from_pretrained(folder).special_tokens_map
    return {role: token for role, token in usual.items() if isinstance(token, str) and token in known}


def _check_rules(folder: Path) -> None:
    """Refuse a tokenizer.json whose rules could make a text far longer than it is."""
    path = folder / "tokenizer.json"
    if not is_file(path):
        return
    rules = read_json(path, TokenizerFile)
    for part in ("normalizer", "decoder"):
        growth = _growth(rules.get(part))
        if growth > MOST_GROWTH:
            raise CheckpointError(f"the {part} in tokenizer.json makes a text up to {growth:.0e} times longer")


def _growth(rule: Any) -> float:
    """Return how many times longer a rule, or a sequence of them, can make a text at most."""
    if not isinstance(rule, Mapping):
        return 1.0
    parts = [inner for inner in rule.values() if isinstance(inner, list)]
    growth = float(math.prod(_growth(part) for inner in parts for part in inner))
    if rule.get("type") == "Replace" and isinstance(rule.get("content"), str):
        pattern = rule.get("pattern")
        whole = pattern.get("String") if isinstance(pattern, Mapping) else None
        growth *= max(1.0, len(rule["content"]) / max(1, len(whole) if isinstance(whole, str) else 1))
    if isinstance(rule.get("prepend"), str):
        growth *= max(1, len(rule["prepend"]))
    return growth


def _try(tokenizer: PreTrainedTokenizerBase) -> None:
    """Encode a short text; what is only unknown to the tokenizer is no reason to refuse it."""
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise CheckpointError("it has no tokens beside special ones; the file with its vocabulary is missing")
    start = time.monotonic()
    try:
        tokens = len(tokenizer(PROBE, verbose=False)["input_ids"])
    except MambascopeError:
        raise
    except Exception:  # a text that it has no tokens for
        tokens = 0
    seconds = time.monotonic() - start
    if seconds > PATIENCE:
        raise CheckpointError(f"it takes {seconds:.1f} seconds for {len(PROBE)} letters")
    if tokens > MOST_TOKENS * len(PROBE):
        raise CheckpointError(f"it makes {tokens:,} tokens of {len(PROBE)} letters")
