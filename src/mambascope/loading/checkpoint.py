"""Read a checkpoint folder and build its model, or say in one sentence why it cannot be used.

Three rules. No file runs code. Nothing is built that is larger than what the file holds. And a model is returned only
if every one of its tensors came from the file, because transformers would fill gaps with random numbers and carry on,
or is a constant that the class computes from the configuration; and if every tensor of the file has a place in the
model, unless the caller allows it to be left out.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from mambascope.errors import CheckpointError, MambascopeError
from mambascope.families import FAMILIES, PlainFamily
from mambascope.loading.containers import WRAPPERS, shared_prefix
from mambascope.loading.json_files import is_file, one_line, read_json
from mambascope.loading.schemas import ConfigFile
from mambascope.loading.sizes import check_configuration, check_model, check_types
from mambascope.loading.weights import refuse_adapter
from mambascope.notices import kept_off
from mambascope.numbering import shown

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


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings in a folder's config.json; raises CheckpointError if there is none or it cannot be used."""
    path = folder / "config.json"
    if not is_file(path):
        refuse_adapter(folder)
        raise CheckpointError(f"{folder} holds no config.json, so it is not a checkpoint; pass the folder that has one")
    try:
        return read_json(path, ConfigFile)
    except CheckpointError as error:
        raise CheckpointError(
            str(error).replace(f"{path} cannot be used", f"{folder}: its config.json cannot be used")
        ) from error


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
        CheckpointError: if tensors are missing, left over, of the wrong shape, not floating-point, or not finite; or if
            the configuration asks for a larger model than they are.
        UnsupportedModelError: if they are quantised.
    """
    check_types(tensors, name=name)
    try:
        check_configuration(config, tensors, name=name)
        with torch.device("meta"):
            outline = model_class(config, **options or {})
        check_model(outline, tensors, dtype, name=name)
        shapes = {key: value.shape for key, value in outline.state_dict().items()}
        tensors = _named_as(outline, tensors)
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
    except MambascopeError:
        raise
    except Exception as error:  # whatever a class raises for settings that it cannot have
        raise CheckpointError(f"{name}: a {model_class.__name__} cannot be built from it: {one_line(error)}") from error
    _check_report(model, report, may_leave_out, name=name)
    _check_values(model, tensors, name=name)
    _take_values(model, tensors)
    return model.requires_grad_(False).eval()


def _named_as(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by names that the model has, without wrappers' prefixes such as Lightning's `model.`."""
    own = model.state_dict().keys()
    known, inner = own | {key.removeprefix(f"{model.base_model_prefix}.") for key in own}, tensors
    while inner and not inner.keys() & known:
        prefix = shared_prefix(inner, (*WRAPPERS, "model."))
        if not prefix:
            return tensors
        inner = {key.removeprefix(prefix): value for key, value in inner.items()}
    return inner


def _take_values(model: PreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Copy the values that are still those of a file, which may change while the model is in use."""
    mapped = {value.data_ptr() for value in tensors.values()}
    for value in (*model.parameters(), *model.buffers()):
        if value.data_ptr() in mapped:
            value.data = value.data.clone()


def _check_shapes(expected: dict[str, torch.Size], tensors: dict[str, Tensor], *, name: str) -> None:
    """Refuse tensors of the wrong shape by name, before transformers fails with an obscure error on tied ones."""
    wrong = sorted(key for key, value in tensors.items() if key in expected and expected[key] != value.shape)
    if wrong:
        key, others = wrong[0], f" (and {len(wrong) - 1} more do not fit)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{name}: {_few([key])} has shape {tuple(tensors[key].shape)} but its config.json asks for "
            f"{tuple(expected[key])}{others}"
        )


def _check_report(
    model: PreTrainedModel, report: dict[str, Any], may_leave_out: Callable[[PreTrainedModel, str], bool], *, name: str
) -> None:
    """Refuse a model whose values are not exactly the tensors of its file."""
    class_name = type(model).__name__
    for key, found, asked in sorted(report["mismatched_keys"]):
        _check_shapes({key: asked}, {key: torch.empty(found, device="meta")}, name=name)
    missing = sorted(key for key in report["missing_keys"] if not _is_constant(model, key))
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


def _is_constant(model: PreTrainedModel, key: str) -> bool:
    """Return whether a tensor is a buffer that the class of a mixer computes from the configuration."""
    place, _, buffer = key.rpartition(".")
    mixer = model.get_submodule(place)
    return any(
        buffer in family.constants and family.describes(mixer)
        for family in FAMILIES.values()
        if isinstance(family, PlainFamily)
    )


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
    return ", ".join(shown(key, 120)[1:-1] for key in keys[:most]) + (
        f" and {len(keys) - most} more" if len(keys) > most else ""
    )


def _count(keys: list[str]) -> str:
    return "1 tensor" if len(keys) == 1 else f"{len(keys)} tensors"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
