"""Checkpoints in the layout of the original `mamba_ssm` package, loaded into the equivalent transformers classes.

The tensors have the same names and layout in both, except that `backbone.embedding` is `backbone.embeddings` in
transformers; only the settings need translating. The defaults below are those of `mamba_ssm`'s MambaConfig, Mamba and
Mamba2, whose config.json often leaves them out. What these classes cannot compute is refused by name.
"""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from torch import Tensor
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.numbering import shown

#: Settings of the whole model: those that are read below, then those that do not change its output.
_MODEL_SETTINGS = {
    "d_model", "n_layer", "vocab_size", "ssm_cfg", "rms_norm", "residual_in_fp32", "pad_vocab_size_multiple",
    "tie_embeddings", "attn_layer_idx", "d_intermediate",
}  # fmt: skip
_MODEL_SETTINGS_WITHOUT_EFFECT = {
    "fused_add_norm", "attn_cfg", "initializer_cfg", "architectures", "model_type", "dtype", "torch_dtype",
    "transformers_version", "_name_or_path", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache",
}  # fmt: skip

#: Settings of a mixer (`ssm_cfg`), each with its name in transformers and its default in `mamba_ssm`.
_MAMBA1_SETTINGS = {
    "d_state": ("state_size", 16), "d_conv": ("conv_kernel", 4), "expand": ("expand", 2),
    "dt_rank": ("time_step_rank", "auto"), "bias": ("use_bias", False), "conv_bias": ("use_conv_bias", True),
}  # fmt: skip
_MAMBA2_SETTINGS = {
    "d_state": ("state_size", 128), "d_conv": ("conv_kernel", 4), "expand": ("expand", 2),
    "headdim": ("head_dim", 64), "ngroups": ("n_groups", 1), "bias": ("use_bias", False),
    "conv_bias": ("use_conv_bias", True), "chunk_size": ("chunk_size", 256),
    "dt_limit": ("time_step_limit", (0.0, float("inf"))),
}  # fmt: skip

#: Settings of a mixer that matter only for initialisation or for speed.
_MIXER_SETTINGS_WITHOUT_EFFECT = {
    "layer", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init",
    "use_fast_path", "use_mem_eff_path", "sequence_parallel", "layer_idx",
}  # fmt: skip

#: Settings of a Mamba-2 mixer for which transformers supports one value only.
_MAMBA2_FIXED = {"rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False}


def is_mamba_ssm(config: dict[str, Any]) -> bool:
    """Return whether the settings are those of a `mamba_ssm` model rather than of a transformers model."""
    original = "d_model" in config and "n_layer" in config and "hidden_size" not in config
    return original and config.get("model_type") in (None, "mamba", "mamba2", "mamba_ssm")


def to_transformers(config: dict[str, Any], *, name: str) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """Return the transformers class and configuration that are equivalent to a `mamba_ssm` model.

    Args:
        config: the settings in its config.json.
        name: what the user called the checkpoint, for messages.

    Raises:
        UnsupportedModelError: if the model has a part that the transformers classes lack, such as attention layers.
        CheckpointError: if a setting is missing or invalid.
    """
    _refuse_other_parts(config, name=name)
    mixer = config.get("ssm_cfg") or {}
    if not isinstance(mixer, dict):
        raise CheckpointError(f"{name}: ssm_cfg in its config.json must be an object of settings, found {shown(mixer)}")
    version = mixer.get("layer", "Mamba1")
    if version not in ("Mamba1", "Mamba2"):
        raise UnsupportedModelError(f"{name} has {version} layers; supported are Mamba1 and Mamba2")
    two = version == "Mamba2"
    shared = {
        "hidden_size": _count(config, "d_model", name=name),
        "num_hidden_layers": _count(config, "n_layer", name=name),
        "vocab_size": _padded_vocabulary(config, name=name),
        "residual_in_fp32": bool(config.get("residual_in_fp32", True)),
        "tie_word_embeddings": bool(config.get("tie_embeddings", True)),
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
    }
    settings = shared | _mixer_settings(mixer, _MAMBA2_SETTINGS if two else _MAMBA1_SETTINGS, name=name)
    if two:
        settings["num_heads"] = _heads(mixer, settings, name=name)
        if settings.get("n_groups", 1) > 1 and "group_size" not in inspect.signature(MambaRMSNormGated).parameters:
            raise UnsupportedModelError(
                f"{name} normalises its {settings['n_groups']} groups separately, which transformers "
                f"{transformers.__version__} does not; install transformers 5.23 or newer"
            )
    try:
        if two:
            return Mamba2ForCausalLM, Mamba2Config(**settings)
        return MambaForCausalLM, MambaConfig(**settings)
    except Exception as error:  # a strict dataclass raises classes of its own
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name}: its config.json does not describe a {version} model: {reason}") from error


def rename_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by their names in transformers."""
    return {key.replace("backbone.embedding.", "backbone.embeddings."): value for key, value in tensors.items()}


def _refuse_other_parts(config: dict[str, Any], *, name: str) -> None:
    """Refuse models with parts other than norm, mixer and residual, and unknown settings."""
    if config.get("attn_layer_idx"):
        raise UnsupportedModelError(
            f"{name} has attention layers (attn_layer_idx: {config['attn_layer_idx']}), which are not supported"
        )
    if config.get("d_intermediate"):
        raise UnsupportedModelError(
            f"{name} has an MLP in each layer (d_intermediate: {config['d_intermediate']}), which is not supported"
        )
    if not config.get("rms_norm", True):
        raise UnsupportedModelError(f"{name} uses LayerNorm (rms_norm: false), and only RMSNorm is supported")
    unknown = sorted(
        key for key, value in config.items() if value and key not in _MODEL_SETTINGS | _MODEL_SETTINGS_WITHOUT_EFFECT
    )
    if unknown:
        raise UnsupportedModelError(
            f"{name} has settings in its config.json that mamba_ssm does not know ({', '.join(unknown)}); if they do "
            f"not change what the model computes, remove them"
        )


def _mixer_settings(mixer: dict[str, Any], known: dict[str, tuple[str, Any]], *, name: str) -> dict[str, Any]:
    """Return the settings of a mixer by their names in transformers; refuse those that it cannot represent."""
    two = known is _MAMBA2_SETTINGS
    for key, value in mixer.items():
        if two and key in _MAMBA2_FIXED:
            if value != _MAMBA2_FIXED[key]:
                raise UnsupportedModelError(f"{name} has ssm_cfg.{key}: {value}, which is not supported")
        elif key not in known and key not in _MIXER_SETTINGS_WITHOUT_EFFECT and not (two and key == "d_ssm"):
            raise UnsupportedModelError(f"{name} has ssm_cfg.{key}, a setting that is not supported")
    settings = {theirs: mixer.get(ours, default) for ours, (theirs, default) in known.items()}
    if isinstance(settings["expand"], float) and settings["expand"].is_integer():
        settings["expand"] = int(settings["expand"])
    return settings


def _heads(mixer: dict[str, Any], settings: dict[str, Any], *, name: str) -> int:
    """Return the number of heads of a Mamba-2 mixer, whose inner width must be a whole number of heads."""
    try:
        width = settings["hidden_size"] * settings["expand"]
        heads, rest = divmod(width, settings["head_dim"])
        groups_fit = heads % settings["n_groups"] == 0
    except (TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{name}: expand, headdim and ngroups in ssm_cfg must be positive integers") from error
    if mixer.get("d_ssm") not in (None, width):
        raise UnsupportedModelError(
            f"{name} runs its scan on {mixer['d_ssm']} of {width} channels (ssm_cfg.d_ssm), which is not supported"
        )
    if rest or not groups_fit:
        raise CheckpointError(
            f"{name}: an inner width of {width} channels does not divide into heads of {settings['head_dim']} channels "
            f"in {settings['n_groups']} groups"
        )
    return int(heads)


def _padded_vocabulary(config: dict[str, Any], *, name: str) -> int:
    """Return the number of rows of the embedding: the vocabulary size, rounded up as in `mamba_ssm`."""
    size = _count(config, "vocab_size", name=name)
    multiple = _count({"pad_vocab_size_multiple": 8} | config, "pad_vocab_size_multiple", name=name)
    return -(-size // multiple) * multiple


def _count(config: dict[str, Any], key: str, *, name: str) -> int:
    """Return a setting that must be a positive integer."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{name}: {key} in its config.json must be a positive integer, found {shown(value)}")
    return value
