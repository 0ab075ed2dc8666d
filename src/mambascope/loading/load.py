"""Load a model and its tokenizer by name: a bundled one, or from a folder, a released file or the hub."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from mambascope.arguments import flag
from mambascope.errors import CheckpointError, InputError, UnsupportedModelError
from mambascope.families import kinds_of_type, model_types
from mambascope.loading import hub, mamba_ssm, mistral, pretrained, released_mambavision, released_vim, released_vmamba
from mambascope.loading.bundled import bundled_folder, bundled_names
from mambascope.loading.checkpoint import build_model, quiet, read_config
from mambascope.loading.constructed import is_constructed, load_constructed
from mambascope.loading.containers import SUFFIXES, read_contents
from mambascope.loading.json_files import checked, is_file, is_folder, one_line
from mambascope.loading.model_class import named_class, stock_class
from mambascope.loading.released import find_released
from mambascope.loading.schemas import OWN_SETTINGS
from mambascope.loading.tokenizer import FILES as TOKENIZER_FILES
from mambascope.loading.tokenizer import has_tokenizer, load_tokenizer
from mambascope.loading.weights import read_tensors
from mambascope.loading.zoo import refuse_path
from mambascope.models.mambavision import MambaVision
from mambascope.models.vim import VisionMamba
from mambascope.models.vmamba import VMamba
from mambascope.numbering import shown

#: Model classes of this project, by model type.
OWN_MODELS: dict[str, Any] = {model.config_class.model_type: model for model in (VisionMamba, VMamba, MambaVision)}


@dataclass(frozen=True)
class _Source:
    """Where a checkpoint is: a folder, and the hub repository that it is a copy of, if any."""

    name: str
    folder: Path
    repository: str | None = None


def load(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    tokenizer: str | Path | None = None,
    image_size: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return a model, ready to be explained, and its tokenizer.

    The model is in eval mode, without gradients, and holds exactly the tensors of its checkpoint: a checkpoint that is
    incomplete or damaged is refused, never patched up. No file runs code: from pickles, nothing but tensors is read.
    Tensors in a Transformer's checkpoint that belong to a head other than its class's are left out. If a file holds a
    moving average beside the weights of the last step, the average is loaded. What had to be assumed about a released
    file is told in a warning, and so is code of the authors that is not run because transformers has a class of that
    name.

    Args:
        name: a bundled model (`tiny-mamba`, `tiny-mamba2`, `tiny-hybrid`, `tiny-delta-hybrid`); one of the zoo, such as
            `zoo:copying-mamba2`; one known by construction, such as `constructed:recall-mamba`; a folder with
            config.json and weights, in the layout of transformers or of the original `mamba_ssm` package; a folder with
            params.json, Mistral's own layout, of a Mamba model; a hub id, `organisation/name`, of one of the first two
            layouts; or a file of Vim, VMamba or MambaVision as its authors released it. The model's class is the one
            that config.json names in `architectures`, such as BertForSequenceClassification.
        dtype: precision of the model; by default float32, whatever the precision of the file: on a CPU half precision
            is slow, and scores computed in it are inexact. In bfloat16 and float16, transformers keeps some parameters
            in float32 all the same: A_log of Zamba and OlmoHybrid, dt_bias of Kimi Linear, the routers of NemotronH and
            Kimi Linear (gate.weight, e_score_correction_bias), expert_bias of LFM2-MoE, the frequencies of rotary
            embeddings; in float16 also time_decay and time_first of RWKV-4. A_log, D and dt_bias of other families are
            rounded like all weights.
        device: where to put the model; by default the CPU.
        tokenizer: folder or hub id of the tokenizer, if the model's own folder has none.
        image_size: side in pixels of the pictures that a released Vim, VMamba or MambaVision was trained on, for files
            that do not say it; by default 224, as in the published models. A folder's config.json says it.
        trust_remote_code: allow a checkpoint to run its own Python code. Only for code that you have read.

    Returns:
        The model and its tokenizer. The tokenizer is None if the folder has none and none was named, as for a vision
        model; checkpoints in the `mamba_ssm` layout usually have none (the state-spaces models use
        `EleutherAI/gpt-neox-20b`).

    Raises:
        CheckpointError: if there is no such checkpoint, or it is incomplete, damaged, or larger than free memory.
        UnsupportedModelError: if the model belongs to a family, or has parts, that mambascope cannot read.
        InputError: if dtype, device or image_size cannot be used, image_size is given for anything but a released file,
            or there is no constructed model of that name.
    """
    for given, what in ((name, "load"), (tokenizer, "tokenizer")):
        if not isinstance(given, (str, Path)) and (given is not None or what == "load"):
            raise InputError(f"{what} takes a name, a folder or a hub id, found {shown(given)}")
    flag(trust_remote_code, "trust_remote_code")
    dtype, device, image_size = _checked_dtype(dtype), _checked_device(device), _checked_size(image_size)
    if is_constructed(name):
        model, own_tokenizer = load_constructed(name, tokenizer=tokenizer, dtype=dtype)
        return model.to(device), own_tokenizer
    own_tokenizer = None
    try:
        with quiet():
            released = _released(name, dtype=dtype, image_size=image_size)
            if released is not None:
                model, told = released
            elif image_size is not None:
                raise InputError(
                    f"image_size={image_size} is for files of Vim, VMamba or MambaVision as their authors released "
                    f"them, which do not say it, and {shown(str(name))[1:-1]} is no such file; leave it out"
                )
            else:
                model, own_tokenizer, told = _from_folder(name, dtype, tokenizer, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise CheckpointError(
            f"{shown(str(name))[1:-1]} cannot be read: {error.strerror or one_line(error)}"
        ) from error
    if told:
        warnings.warn(f"{name} {told}", stacklevel=2)
    return model.to(device), own_tokenizer


def _released(name: str | Path, *, dtype: torch.dtype, image_size: int | None) -> tuple[PreTrainedModel, str] | None:
    """Return the model in a file of its authors, and what was assumed; None if the name is not that of such a file."""
    path = _path(name)
    if path.suffix not in SUFFIXES or not is_file(path):
        return None
    contents = read_contents(path)
    if found := find_released(contents, released_vim.LAYOUT):
        model, notes = released_vim.build(found, image_size=image_size, dtype=dtype)
    elif found := find_released(contents, released_vmamba.LAYOUT):
        model, notes = released_vmamba.build(found, image_size=image_size, dtype=dtype)
    elif found := find_released(contents, released_mambavision.LAYOUT):
        model, notes = released_mambavision.build(found, image_size=image_size, dtype=dtype)
    else:
        return None
    return model, f"does not say everything about its model; taken: {'; '.join(notes)}" if notes else ""


def _from_folder(
    name: str | Path, dtype: torch.dtype, tokenizer: str | Path | None, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, str]:
    """Return the model and tokenizer of a folder with config.json, a bundled model or a hub repository.

    The third part says, after the checkpoint's name, whose code was not run; it is empty if there was none.
    """
    source = _find(name, trust_remote_code=trust_remote_code)
    native = mistral.is_mistral(source.folder)
    settings = {} if native else read_config(source.folder)
    if native:
        model_class, config = mistral.to_transformers(source.folder, name=source.name)
    elif mamba_ssm.is_mamba_ssm(settings):
        model_class, config = mamba_ssm.to_transformers(settings, name=source.name)
    else:
        model_class, config = _transformers_class(source, settings, trust_remote_code=trust_remote_code)
    own_tokenizer = _tokenizer(source, tokenizer, trust_remote_code=trust_remote_code)
    folder = source.folder if source.repository is None else hub.fetch_weights(source.repository)
    tensors = read_tensors(folder)
    if pretrained.is_transformer(config):
        model = pretrained.build_transformer(model_class, config, tensors, name=source.name, dtype=dtype)
    else:
        tensors = mamba_ssm.rename_tensors(mistral.rename_tensors(tensors) if native else tensors)
        model = build_model(model_class, config, tensors, name=source.name, dtype=dtype)
    model.name_or_path = model.config.name_or_path = source.name
    stock = stock_class(settings)
    told = f"brings its own Python code, which was not run: transformers' own {stock} was loaded" if stock else ""
    return model, own_tokenizer, told


def _path(name: str | Path) -> Path:
    """Return a name as a path, with `~` for the user's home where there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # another user's home that does not exist
        return Path(name)


def _find(name: str | Path, *, trust_remote_code: bool) -> _Source:
    """Return where a checkpoint is; from a hub repository only the small files are fetched."""
    own = bundled_folder(name) if isinstance(name, str) else None
    if own is not None:
        return _Source(str(name), own)
    path, written = _path(name), shown(str(name), 200)[1:-1]
    if is_folder(path):
        return _Source(str(name), path)
    if is_file(path):
        raise CheckpointError(f"{written} is a file; pass the folder that holds it together with its config.json")
    if os.path.lexists(path):
        raise CheckpointError(f"{written} is neither a folder nor a regular file; pass the folder that has config.json")
    refuse_path(path)
    if isinstance(name, Path) or not hub.is_repository(name):
        raise CheckpointError(
            f"there is no folder {written} and no bundled model of that name (bundled: {bundled_names()}; "
            f"`mambascope models` lists the zoo's too); a model on the Hugging Face hub is named organisation/name"
        )
    code = ("*.py",) if trust_remote_code else ()
    return _Source(name, hub.fetch(name, hub.SETTINGS + hub.TOKENIZER + code), name)


def _transformers_class(
    source: _Source, settings: dict[str, Any], *, trust_remote_code: bool
) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """Return the class and configuration of a checkpoint in the transformers layout."""
    model_type = settings.get("model_type")
    if model_type in OWN_MODELS and settings.get("auto_map"):
        raise UnsupportedModelError(
            f"{source.name} brings its authors' own {model_type} code, which is not needed: pass the path of its "
            f"weights file, or save it with mambascope's class"
        )
    if model_type in OWN_MODELS:
        model_class = OWN_MODELS[model_type]
        settings = checked(settings, OWN_SETTINGS[model_type], f"{source.name}: its config.json")
        try:
            return model_class, model_class.config_class.from_dict(settings)
        except Exception as error:
            raise CheckpointError(f"{source.name}: its config.json cannot be used: {one_line(error)}") from error
    brings_code = bool(settings.get("auto_map")) and stock_class(settings) is None
    inside = settings.get("text_config")  # of a wrapper around a language model
    types = (model_type, inside.get("model_type") if isinstance(inside, Mapping) else None)
    known = any(kinds_of_type(one) for one in types if isinstance(one, str))
    if not known and not brings_code:  # a class of its own may be built like a known one
        said = shown(model_type)[1:-1] if model_type else "that its config.json does not name"
        raise UnsupportedModelError(
            f"{source.name} is a model of type {said}; supported are {', '.join(model_types())}, and checkpoints of "
            "mamba_ssm (Mamba-1, Mamba-2), Vim, VMamba and MambaVision"
        )
    if settings.get("quantization_config"):
        raise UnsupportedModelError(f"{source.name} holds quantised weights; pass the checkpoint it was made from")
    if brings_code and not trust_remote_code:
        raise CheckpointError(
            f"{source.name} brings its own Python code (auto_map in its config.json), which is not run unless you "
            f"allow it: read that code, then pass trust_remote_code=True"
        )
    try:
        if brings_code:
            config = AutoConfig.from_pretrained(source.folder, trust_remote_code=True)
            if "AutoModelForCausalLM" in settings["auto_map"]:
                reference = settings["auto_map"]["AutoModelForCausalLM"]
                return get_class_from_dynamic_module(reference, str(source.folder)), config
        else:
            config = CONFIG_MAPPING[model_type].from_dict(settings)
    except Exception as error:  # strict dataclasses raise their own classes, a checkpoint's own code may raise anything
        raise CheckpointError(f"{source.name}: its config.json cannot be used: {one_line(error)}") from error
    return named_class(settings, config, name=source.name), config


def _tokenizer(source: _Source, other: str | Path | None, *, trust_remote_code: bool) -> PreTrainedTokenizerBase | None:
    """Return a checkpoint's tokenizer, or another one if one was named; None if there is none."""
    if other is not None:
        return load_tokenizer(_find_tokenizer(other), trust_remote_code=trust_remote_code)
    if not has_tokenizer(source.folder):
        return None
    return load_tokenizer(source.folder, trust_remote_code=trust_remote_code)


def _find_tokenizer(name: str | Path) -> Path:
    """Return the folder of a tokenizer, given a bundled model, a folder or a hub id."""
    own = bundled_folder(name) if isinstance(name, str) else None
    folder = own or _path(name)
    if not is_folder(folder) and isinstance(name, str) and hub.is_repository(name):
        folder = hub.fetch(name, hub.SETTINGS + hub.TOKENIZER)
    if not has_tokenizer(folder):
        written = shown(str(name), 200)[1:-1]
        raise CheckpointError(f"{written} holds no tokenizer; looked for {', '.join(TOKENIZER_FILES)}")
    return folder


def _checked_size(size: int | None) -> int | None:
    """Return the side of the pictures; refuse one that no picture has."""
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 100_000):
        raise InputError(f"image_size must be a number of pixels, found {shown(size)}")
    return size


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Return the precision to load in; refuse one that cannot hold weights."""
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype must be a floating-point type such as torch.float32, found {shown(dtype)}")
    return dtype


def _checked_device(device: torch.device | str | None) -> torch.device:
    """Return the device to load onto; refuse one that this machine does not have before anything is read."""
    if device is None:
        return torch.device("cpu")
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        named = shown(device)[1:-1] if isinstance(device, str) else shown(device)
        raise InputError(f"device {named} cannot be used here: {one_line(error)}") from error
    if found.type == "meta":
        raise InputError("device meta holds no weights, so nothing can be explained there; choose another")
    return found
