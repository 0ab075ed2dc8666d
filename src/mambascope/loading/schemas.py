"""What the settings files of a checkpoint may hold; whatever else they hold never reaches a library.

A config.json may have any settings, because each family has its own. They are checked by what their names say: counts
are not negative and not absurd, numbers are finite, activations exist. Settings that would make transformers fetch or
choose code, such as `_attn_implementation`, are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from mambascope.numbering import shown

#: Settings that are left out: they choose code or precision, which `load` does, or describe the file's own history.
LEFT_OUT = re.compile(
    r".*(attn|experts)_implementation.*|use_kernels|kernel_config|(chunkwise|sequence|step)_kernel"
    r"|(torch_)?dtype|_name_or_path|_commit_hash"
    r"|attribute_map|base_model_[a-z]+_plan|sub_configs|keys_to_ignore_at_inference|base_config_key"
)

#: Settings that count or measure, which cannot be negative.
COUNTS = re.compile(
    r"(n|num|d)_.*|.*(_size|_sizes|layers?|labels|heads|depths?|width|kernel|rank|expand|ratio|stride|groups|positions)"
)

#: Settings by which outputs are multiplied, which must be numbers.
FACTORS = re.compile(r"(ssm|attention|attn)_(in|out)_multiplier|residual_multiplier|.*_(alpha|beta)_factor")

#: Settings by which lists are made, one entry for each.
LISTED = re.compile(r".*(layer|label|depth|block|stage|expert).*|n_layer")

#: The largest number of layers or classes that a configuration may ask for, whatever its file holds.
MOST_LISTED = 100_000

#: The largest integer in a tensor's shape.
LARGEST = 2**63 - 1

#: Ranges of Δ, which may be open.
OPEN = ("time_step_limit", "dt_limit")


class Named(BaseModel):
    """Settings of which some are known; names that are not listed here keep their values."""

    model_config = ConfigDict(extra="allow", strict=True)


class ConfigFile(Named):
    """A `config.json`, in the layout of transformers or of `mamba_ssm`."""

    model_type: str | None = None
    architectures: list[str] | None = None
    auto_map: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    id2label: dict[str, Any] | None = None
    label2id: dict[str, Any] | None = None
    hidden_act: str | None = None
    activation_function: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_choices(cls, found: dict[str, Any]) -> dict[str, Any]:
        kept = _kept(found)
        for key in kept:
            if key.startswith("__") or callable(getattr(PreTrainedConfig, key, None)):
                raise ValueError(f"{shown(key)} is not the name of a setting")
        for key, value in _numbers(kept):
            _check_number(key, value)
        for settings in _dicts(kept):
            for key, value in settings.items():
                if FACTORS.fullmatch(key) and (isinstance(value, bool) or not isinstance(value, (int, float))):
                    raise ValueError(f"{key} must be a number, found {shown(value)}")
        return kept

    @field_validator("hidden_act", "activation_function")
    @classmethod
    def _known_activation(cls, name: str | None) -> str | None:
        if name is not None and name not in ACT2FN:
            raise ValueError(f"the activation {shown(name)} is not one that transformers has")
        return name


Count = Annotated[int, Field(ge=1, le=2**31)]
Epsilon = Annotated[float, Field(gt=0, lt=1)]


class VisionMambaSettings(ConfigFile):
    """The config.json of our Vision Mamba; see `VisionMambaConfig`."""

    image_size: Count | list[Count] | None = None
    patch_size: Count | None = None
    stride: Count | None = None
    num_channels: Count | None = None
    hidden_size: Count | None = None
    state_size: Count | None = None
    conv_kernel: Count | None = None
    expand: Count | None = None
    time_step_rank: Count | None = None
    class_token: str | None = None
    divide_output: bool | None = None
    norm_epsilon: Epsilon | None = None
    use_bias: bool | None = None


class StagedSettings(ConfigFile):
    """The config.json of our VMamba or MambaVision; see `VMambaConfig` and `MambaVisionConfig`."""

    image_size: Count | list[Count] | None = None
    num_channels: Count | None = None
    depths: Annotated[list[Count], Field(min_length=1, max_length=16)] | None = None
    hidden_sizes: list[Count] | None = None
    hidden_size: Count | None = None
    stem_size: Count | None = None
    num_heads: list[Count] | None = None
    windows: list[Count] | None = None
    expand: Annotated[float, Field(gt=0, le=1000)] | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=1000)] | None = None
    state_size: Count | None = None
    conv_kernel: Count | None = None
    gated: bool | None = None
    conv_bias: bool | None = None
    norm_epsilon: Epsilon | None = None


#: What the config.json of our own classes must be like, by model type.
OWN_SETTINGS: dict[str, type[ConfigFile]] = {
    "vision-mamba": VisionMambaSettings,
    "vmamba": StagedSettings,
    "mambavision": StagedSettings,
}


class WeightIndex(Named):
    """An index of shards: the file of each tensor."""

    weight_map: Annotated[dict[str, str], Field(min_length=1)]


class TokenizerSettings(Named):
    """A `tokenizer_config.json`."""

    tokenizer_class: str | None = None
    auto_map: dict[str, Any] | list[str | None] | None = None


class TokenizerFile(Named):
    """A `tokenizer.json`, as far as it is checked before a library reads it."""

    model: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


class PictureSettings(Named):
    """A `preprocessor_config.json`: how a picture becomes what a model reads."""

    do_resize: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    do_center_crop: bool | None = None
    size: dict[str, int | None] | int | list[int] | None = None
    crop_size: dict[str, int | None] | int | list[int] | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None  # the filters that Pillow numbers
    rescale_factor: Annotated[float, Field(allow_inf_nan=False)] | None = None
    image_mean: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None
    image_std: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None

    @model_validator(mode="after")
    def _sensible_sizes(self) -> PictureSettings:
        for name in ("size", "crop_size"):
            given = getattr(self, name)
            sides = given.values() if isinstance(given, dict) else given if isinstance(given, list) else [given]
            if any(side is not None and not 0 < side <= 100_000 for side in sides):
                raise ValueError(f"{name} must be a number of pixels, found {shown(given)}")
        return self


def _kept(value: Any) -> Any:
    """Return settings without those that are left out, also inside others, and with transformers' infinity as one."""
    if isinstance(value, list):
        return [_kept(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
        return float(value["__float__"])
    return {key: _kept(inner) for key, inner in value.items() if not LEFT_OUT.fullmatch(key)}


def _dicts(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield settings, and those inside others."""
    yield value
    for inner in value.values():
        if isinstance(inner, dict):
            yield from _dicts(inner)


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield every number with the name of the setting that it belongs to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("id2label", "label2id"):
                yield from _numbers(inner, name if name in OPEN else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, value


def _check_number(key: str, value: int | float) -> None:
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{shown(key)} has more digits than any size or id")
    if math.isnan(value) or (math.isinf(value) and key not in OPEN):
        raise ValueError(f"{shown(key)} must be a finite number, found {value}")
    if COUNTS.fullmatch(key) and not key.endswith("_id") and value < 0:
        raise ValueError(f"{shown(key)} must not be negative, found {value}")
    if LISTED.fullmatch(key) and value > MOST_LISTED:
        raise ValueError(f"{shown(key)} is {value}; no model has so many (more than {MOST_LISTED:,})")
