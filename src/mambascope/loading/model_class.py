"""Which class of transformers a config.json means, among the few that there are for models of its type.

Many models were published with their authors' Python code, and transformers took them over later under the same names.
Their files still point to that code, which needs kernels of other libraries, and which mambascope could not read.
"""

from __future__ import annotations

import importlib
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from mambascope.errors import UnsupportedModelError
from mambascope.families import kinds_of_type
from mambascope.loading import pretrained
from mambascope.numbering import shown


def stock_class(settings: dict[str, Any]) -> str | None:
    """Return the name of the class that takes the place of the code in a checkpoint; None if the model needs that code.

    The model must be of a type that mambascope reads, and the code must define a configuration and a model of the names
    that transformers' own have.

    Args:
        settings: What its config.json holds.
    """
    model_type, code = settings.get("model_type") or "", settings.get("auto_map") or {}
    if not code or model_type not in CONFIG_MAPPING or not kinds_of_type(model_type):
        return None
    config = CONFIG_MAPPING[model_type]
    theirs = {reference.rpartition(".")[2] for reference in code.values() if isinstance(reference, str)}
    if config.__name__ not in theirs:
        return None
    named = (name for name in settings.get("architectures") or () if name in theirs)
    return next((name for name in named if isinstance(_module(config).get(name), type)), None)


def named_class(settings: dict[str, Any], config: PreTrainedConfig, *, name: str) -> type[PreTrainedModel]:
    """Return the class that config.json names, if transformers has it for this configuration; else the usual one.

    The name comes from a file, so it is looked up only among the classes in the module of the configuration's family. A
    Transformer that names only unknown classes is refused: its head would be left out unnoticed.
    """
    asked = settings.get("architectures") or ()
    for class_name in asked:
        named: Any = _module(type(config)).get(class_name)
        is_model = isinstance(named, type) and issubclass(named, PreTrainedModel)
        is_model = is_model and named.forward is not PreTrainedModel.forward  # as in abstract classes
        if is_model and getattr(named, "config_class", None) is type(config):
            return named
    usual = pretrained.usual_class(config)
    if asked and pretrained.is_transformer(config):
        raise UnsupportedModelError(
            f"{name} is a {shown(', '.join(asked), 200)[1:-1]}, which transformers does not have for models of "
            f"type {config.model_type}"
        )
    if usual is None:
        raise UnsupportedModelError(f"there is no model in transformers for a {type(config).__name__}")
    return usual


def _module(config: type[PreTrainedConfig]) -> dict[str, Any]:
    """Return what the module with the models of a configuration holds, by name."""
    return vars(importlib.import_module(config.__module__.replace(".configuration_", ".modeling_")))
