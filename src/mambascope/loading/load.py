"""Load a model and its tokenizer by name: a bundled one, or from a folder, a released file or the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.configuration_utils import PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from mambascope.arguments import flag
from mambascope.errors import CheckpointError, InputError, UnsupportedModelError
from mambascope.families import kinds_of_type, model_types
from mambascope.loading import hub, mamba_ssm, pretrained, released_mambavision, released_vim, released_vmamba
from mambascope.loading.bundled import bundled_folder, bundled_names
from mambascope.loading.checkpoint import build_model, one_line, quiet, read_config, read_json, read_tensors
from mambascope.loading.released_files import released_names
from mambascope.loading.zoo import refuse_path
from mambascope.models.mambavision import MambaVision
from mambascope.models.vim import VisionMamba
from mambascope.models.vmamba import VMamba
from mambascope.numbering import shown

#: Model classes of this project, by model type.
OWN_MODELS: dict[str, Any] = {model.config_class.model_type: model for model in (VisionMamba, VMamba, MambaVision)}

#: A folder with any of these files has a tokenizer of its own.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


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
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return a model, ready to be explained, and its tokenizer.

    The model is in eval mode, without gradients, and holds exactly the tensors of its checkpoint: a checkpoint that is
    incomplete or damaged is refused, never patched up. From pickles, nothing but tensors is read. Tensors in a
    Transformer's checkpoint that belong to a head other than its class's are left out.

    Args:
        name: a bundled model (`tiny-mamba`, `tiny-mamba2`); one of the zoo, such as `zoo:copying-mamba2`; a folder
            with config.json and weights, in the layout of transformers or of the original `mamba_ssm` package; a hub
            id, `organisation/name`, of either layout; or a file of Vim, VMamba or MambaVision as its authors released
            it. The model's class is the one that config.json names in `architectures`, such as
            BertForSequenceClassification.
        dtype: precision of the model; by default float32, whatever the precision of the file: on a CPU half precision
            is slow, and scores computed in it are inexact.
        device: where to put the model; by default the CPU.
        tokenizer: folder or hub id of the tokenizer, if the model's own folder has none.
        trust_remote_code: allow a checkpoint to run its own Python code. Only for code that you have read.

    Returns:
        The model and its tokenizer. The tokenizer is None if the folder has none and none was named, as for a vision
        model; checkpoints in the `mamba_ssm` layout usually have none (the state-spaces models use
        `EleutherAI/gpt-neox-20b`).

    Raises:
        CheckpointError: if there is no such checkpoint, or it is incomplete or damaged.
        UnsupportedModelError: if the model belongs to a family, or has parts, that mambascope cannot read.
        InputError: if dtype or device cannot be used.
    """
    if not isinstance(name, (str, Path)):
        raise InputError(f"load takes a name, a folder or a hub id, found {shown(name)}")
    if tokenizer is not None and not isinstance(tokenizer, (str, Path)):
        raise InputError(f"tokenizer takes a folder or a hub id, found {shown(tokenizer)}")
    flag(trust_remote_code, "trust_remote_code")
    dtype, device = _checked_dtype(dtype), _checked_device(device)
    with quiet():
        path = Path(name).expanduser()
        if released_vim.is_released(path):
            return released_vim.load_released(path, dtype=dtype).to(device), None
        names = released_names(path)
        for reader in (released_vmamba, released_mambavision):
            if reader.recognises(names):
                return reader.load_released(path, dtype=dtype).to(device), None
        source = _find(name, trust_remote_code=trust_remote_code)
        settings = read_config(source.folder)
        if mamba_ssm.is_mamba_ssm(settings):
            model_class, config = mamba_ssm.to_transformers(settings, name=source.name)
        else:
            model_class, config = _transformers_class(source, settings, trust_remote_code=trust_remote_code)
        own_tokenizer = _load_tokenizer(source, tokenizer, trust_remote_code=trust_remote_code)
        folder = source.folder if source.repository is None else hub.fetch_weights(source.repository)
        tensors = read_tensors(folder)
        if pretrained.is_transformer(config):
            model = pretrained.build_transformer(model_class, config, tensors, name=source.name, dtype=dtype)
        else:
            tensors = mamba_ssm.rename_tensors(tensors)
            model = build_model(model_class, config, tensors, name=source.name, dtype=dtype)
        model.name_or_path = model.config.name_or_path = source.name
    return model.to(device), own_tokenizer


def _find(name: str | Path, *, trust_remote_code: bool) -> _Source:
    """Return where a checkpoint is; from a hub repository only the small files are fetched."""
    own = bundled_folder(name) if isinstance(name, str) else None
    if own is not None:
        return _Source(str(name), own)
    path = Path(name).expanduser()
    if path.is_dir():
        return _Source(str(name), path)
    if path.exists():
        raise CheckpointError(f"{name} is a file; pass the folder that holds it together with its config.json")
    refuse_path(path)
    if isinstance(name, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise CheckpointError(
            f"there is no folder {name} and no bundled model of that name (bundled: {bundled_names()}; "
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
        try:
            return model_class, model_class.config_class.from_dict(settings)
        except (InputError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source.name}: its config.json cannot be used: {one_line(error)}") from error
    if model_type not in model_types():
        raise UnsupportedModelError(
            f"{source.name} is a model of type {model_type or 'that its config.json does not name'}; supported are "
            f"{', '.join(model_types())}, and checkpoints of mamba_ssm (Mamba-1, Mamba-2), Vim, "
            f"VMamba and MambaVision"
        )
    if settings.get("quantization_config"):
        raise UnsupportedModelError(f"{source.name} holds quantised weights; pass the checkpoint it was made from")
    brings_code = bool(settings.get("auto_map"))
    if brings_code and not trust_remote_code:
        raise CheckpointError(
            f"{source.name} brings its own Python code (auto_map in its config.json), which is not run unless you "
            f"allow it: read that code, then pass trust_remote_code=True"
        )
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=brings_code)
        if brings_code and "AutoModelForCausalLM" in settings["auto_map"]:
            reference = settings["auto_map"]["AutoModelForCausalLM"]
            return get_class_from_dynamic_module(reference, str(source.folder)), config
    except Exception as error:  # strict dataclasses raise their own classes, a checkpoint's own code may raise anything
        raise CheckpointError(f"{source.name}: its config.json cannot be used: {one_line(error)}") from error
    return _named_class(settings, config, name=source.name), config


def _named_class(settings: dict[str, Any], config: PreTrainedConfig, *, name: str) -> type[PreTrainedModel]:
    """Return the class that config.json names, if transformers has it for this configuration; else the usual one.

    The name comes from a file, so it is looked up only among the model classes of transformers. A Transformer that
    names only unknown classes is refused: its head would be left out unnoticed.
    """
    asked = settings.get("architectures") or ()
    for class_name in asked:
        named: Any = getattr(transformers, class_name, None) if isinstance(class_name, str) else None
        is_model = isinstance(named, type) and issubclass(named, PreTrainedModel)
        is_model = is_model and named.forward is not PreTrainedModel.forward  # as in abstract classes
        if is_model and getattr(named, "config_class", None) is type(config):
            return named
    usual = pretrained.usual_class(config)
    if asked and pretrained.is_transformer(config):
        raise UnsupportedModelError(
            f"{name} is a {', '.join(map(str, asked))}, which transformers does not have for models of "
            f"type {config.model_type}"
        )
    if usual is None:
        raise UnsupportedModelError(f"there is no model in transformers for a {type(config).__name__}")
    return usual


def _load_tokenizer(
    source: _Source, other: str | Path | None, *, trust_remote_code: bool
) -> PreTrainedTokenizerBase | None:
    """Return a checkpoint's tokenizer, or another one if one was named; None if there is none."""
    if other is None:
        if not _has_tokenizer(source.folder):
            return None
        folder = source.folder
    else:
        folder = _find_tokenizer(other)
    try:
        return _read_tokenizer(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # several libraries read tokenizers, each with its own errors
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {one_line(error)}") from error


def _read_tokenizer(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder.

    If nothing names its class, transformers would use the usual one for the model's family and rebuild the tokenizer
    with that class's own splitting rules, which gives different tokens; in that case we follow the file.
    """
    settings = folder / "tokenizer_config.json"
    named = settings.is_file() and bool({"tokenizer_class", "auto_map"} & read_json(settings).keys())
    if not named and (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, **_special_tokens(folder))
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _special_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens of a Transformer's usual tokenizer, such as `[MASK]`, by their roles.

    tokenizer.json holds the tokens, but not their roles.
    """
    config = folder / "config.json"
    if not config.is_file() or kinds_of_type(read_json(config).get("model_type", "")) != {"attention"}:
        return {}
    known = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    usual = AutoTokenizer.from_pretrained(folder).special_tokens_map
    return {role: token for role, token in usual.items() if isinstance(token, str) and token in known}


def _find_tokenizer(name: str | Path) -> Path:
    """Return the folder of a tokenizer, given a bundled model, a folder or a hub id."""
    own = bundled_folder(name) if isinstance(name, str) else None
    folder = own or Path(name).expanduser()
    if not folder.is_dir() and isinstance(name, str):
        folder = hub.fetch(name, hub.SETTINGS + hub.TOKENIZER)
    if not _has_tokenizer(folder):
        raise CheckpointError(f"{name} holds no tokenizer; looked for {', '.join(TOKENIZER_FILES)}")
    return folder


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Return the precision to load in; refuse one that cannot hold weights."""
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype must be a floating-point type such as torch.float32, found {dtype!r}")
    return dtype


def _checked_device(device: torch.device | str | None) -> torch.device:
    """Return the device to load onto; refuse one that this machine does not have before anything is read."""
    if device is None:
        return torch.device("cpu")
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {device} cannot be used here: {one_line(error)}") from error
    if found.type == "meta":
        raise InputError("device meta holds no weights, so nothing can be explained there; choose another")
    return found
