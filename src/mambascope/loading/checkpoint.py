"""Read a checkpoint folder and build its model, or say in one sentence why it cannot be used.

Two rules. Nothing but tensors is ever unpickled, so that a downloaded file cannot run code. And a model is returned
only if every one of its tensors came from the file, because transformers would fill gaps with random numbers and carry
on, and if every tensor of the file has a place in the model, unless the caller allows it to be left out.
"""

from __future__ import annotations

import json
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from mambascope.errors import CheckpointError
from mambascope.notices import kept_off

#: Names of weights files; the first that exists in a folder is read.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
)


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_until = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log, warnings and progress bars of transformers while a model is read, then restore the settings.

    The log is silenced in this thread only; Python's warnings and progress bars in every thread, until the last thread
    that reads a model has finished.
    """
    global _quiet_users
    with _quiet_lock:
        if not _quiet_users:
            _without_warnings_and_bars(_quiet_until)
        _quiet_users += 1
    try:
        with kept_off("transformers", "huggingface_hub"):
            yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if not _quiet_users:
                _quiet_until.close()


def _without_warnings_and_bars(until: ExitStack) -> None:
    """Turn off Python's warnings and transformers' progress bars until the stack is closed."""
    until.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    if logging.is_progress_bar_enabled():
        logging.disable_progress_bar()
        until.callback(logging.enable_progress_bar)


def one_line(error: BaseException) -> str:
    """Return the message of another library's error on one line, for use in one of our sentences."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises CheckpointError if it is not valid JSON or not an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({one_line(error)}); it may be half-written: copy or download it again"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a JSON {type(found).__name__} where an object of settings was expected")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings in a folder's config.json; raises CheckpointError if there is none or it cannot be read."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json, so it is not a checkpoint; pass the folder that has one")
    return read_json(path)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder by name, on the CPU, in the precision of the file.

    Raises:
        CheckpointError: if there is no weights file, a shard is missing, or a file is damaged or holds anything other
            than tensors.
    """
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} holds no weights; looked for {', '.join(WEIGHT_FILES)}")
    if path.suffix != ".json":
        return read_file(path)
    tensors: dict[str, Tensor] = {}
    for shard in _shards(path):
        tensors.update(read_file(shard))
    return tensors


def _shards(index: Path) -> list[Path]:
    """Return the weights files that an index names; all must be in the same folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} has no usable weight_map; copy or download it again")
    shards = [index.parent / name for name in sorted(set(names.values()))]
    for shard in shards:
        if shard.parent != index.parent or shard.name in {"", ".", ".."}:
            raise CheckpointError(f"{index} names a weights file outside its folder: {shard}")
        if not shard.is_file():
            raise CheckpointError(f"{index} names {shard.name}, which is missing; copy or download it again")
    return shards


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one weights file; raises CheckpointError as `read_tensors` does."""
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise CheckpointError(f"{path} is a Git LFS pointer and not the weights; run `git lfs pull` in its folder")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a complete safetensors file ({one_line(error)}); copy or download it again"
            ) from error
    return _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file made by torch.save, which is a pickle: only tensors are accepted."""
    found = unpickled(path)
    for key, value in found.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise CheckpointError(
                f"{path} holds a {type(value).__name__} at {key!r} where a tensor was expected; save the model's "
                f"state_dict() alone"
            )
    return found


def unpickled(path: Path, allowed: Sequence[type] = ()) -> dict[Any, Any]:
    """Return the dict in a file made by torch.save; objects in it other than tensors and plain values are refused.

    Args:
        path: The file.
        allowed: Further classes whose objects are accepted; they must hold nothing but attributes.

    Raises:
        CheckpointError: if the file is damaged, holds other objects, or does not hold a dict.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds Python objects other than tensors, which mambascope never unpickles because "
            f"they can run code; save its tensors alone, as safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or half-written; copy or download it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}; save the model's state_dict() alone")
    return dict(found)


def build_model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    tensors: dict[str, Tensor],
    *,
    name: str,
    dtype: torch.dtype,
    options: dict[str, Any] | None = None,
    may_leave_out: Callable[[PreTrainedModel, str], bool] = lambda model, key: False,
) -> PreTrainedModel:
    """Return the model that holds exactly these tensors, in eval mode and without gradients.

    Args:
        model_class: its transformers class, or one with the same interface.
        config: its configuration.
        tensors: every tensor by its name in that class, or by a name that transformers accepts for it.
        name: what the user called the checkpoint, for messages.
        dtype: the precision to convert the tensors to.
        options: further arguments of the class.
        may_leave_out: given the model and the name of a tensor that has no place in it, returns whether that tensor may
            be left out.

    Raises:
        CheckpointError: if tensors are missing, left over, of the wrong shape, not floating-point, or not finite.
    """
    try:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in model_class(config, **options or {}).state_dict().items()}
        _check_shapes(shapes, tensors, name=name)
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options or {},
        )
    except (RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{name}: a {model_class.__name__} cannot be built from it: {one_line(error)}") from error
    _check_report(model, report, may_leave_out, name=name)
    _check_values(model, tensors, name=name)
    return model.requires_grad_(False).eval()


def _check_shapes(expected: dict[str, torch.Size], tensors: dict[str, Tensor], *, name: str) -> None:
    """Refuse tensors of the wrong shape by name, before transformers fails with an obscure error on tied ones."""
    wrong = sorted(key for key, value in tensors.items() if key in expected and expected[key] != value.shape)
    if wrong:
        key, others = wrong[0], f" (and {len(wrong) - 1} more do not fit)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{name}: {key} has shape {tuple(tensors[key].shape)} but its config.json asks for "
            f"{tuple(expected[key])}{others}"
        )


def _check_report(
    model: PreTrainedModel, report: dict[str, Any], may_leave_out: Callable[[PreTrainedModel, str], bool], *, name: str
) -> None:
    """Refuse a model whose values are not exactly the tensors of its file."""
    class_name = type(model).__name__
    for key, found, asked in sorted(report["mismatched_keys"]):
        _check_shapes({key: asked}, {key: torch.empty(found, device="meta")}, name=name)
    missing = sorted(report["missing_keys"])
    if missing and _is_whole_head(model, set(missing)):
        raise CheckpointError(
            f"{name} holds no head for a {class_name}, so its head would be random ({_few(missing)}); in its "
            f"config.json, architectures should name the class that it was saved from"
        )
    if missing:
        raise CheckpointError(f"{name} lacks {_count(missing)} that a {class_name} needs: {_few(missing)}")
    extra = sorted(key for key in report["unexpected_keys"] if not may_leave_out(model, key))
    if extra:
        raise CheckpointError(
            f"{name} holds {_count(extra)} for which a {class_name} has no place, so it is another model: {_few(extra)}"
        )
    if report["error_msgs"]:
        raise CheckpointError(f"{name}: {one_line(ValueError(report['error_msgs'][0]))}")


def _is_whole_head(model: PreTrainedModel, missing: set[str]) -> bool:
    """Return whether the missing tensors are all of a model's head and nothing else."""
    head = {key for key in model.state_dict() if not key.startswith(f"{model.base_model_prefix}.")}
    return missing <= head and head <= missing | model.all_tied_weights_keys.keys() and model.base_model is not model


def _check_values(model: PreTrainedModel, tensors: dict[str, Tensor], *, name: str) -> None:
    """Refuse tensors that are quantised or not finite, and two different tensors where the config ties them."""
    loaded = model.state_dict()
    for key, value in loaded.items():
        if not value.is_floating_point():
            continue
        if key in tensors and not tensors[key].is_floating_point():
            raise CheckpointError(f"{name}: {key} holds {_name(tensors[key].dtype)} values, not floating-point weights")
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{name}: {key} holds values that are NaN or infinite (as {_name(value.dtype)})")
    into, out = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(model.config, "tie_word_embeddings", False) and out is not None and into.weight is not out.weight:
        raise CheckpointError(
            f"{name}: its config.json ties the output weights to the embeddings, but the file holds two different "
            f"tensors; set tie_word_embeddings (tie_embeddings in a mamba_ssm config) to what was meant"
        )


def _few(keys: list[str], most: int = 3) -> str:
    """Return the first few of many names."""
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _count(keys: list[str]) -> str:
    return "1 tensor" if len(keys) == 1 else f"{len(keys)} tensors"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
