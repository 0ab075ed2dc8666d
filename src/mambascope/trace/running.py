"""What every pass through a model has in common: a private copy of the model, and no cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from traceback import walk_tb
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mambascope.errors import InputError, MambascopeError
from mambascope.loading.json_files import one_line
from mambascope.notices import KERNELS, kept_off
from mambascope.numbering import shown
from mambascope.trace.default_precision import SinglePrecision
from mambascope.trace.private_copy import private_copy

#: Packages of compiled kernels that the code of transformers calls.
KERNEL_PACKAGES = ("mamba_ssm", "causal_conv1d", "fla", "flash_attn", "mlstm_kernels", "kernels", "triton")
#: Functions of a caller's modes, through which operations go.
PASSED_ON = ("__torch_dispatch__", "__torch_function__")
#: Where autocast may be on.
DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def running(model: nn.Module, *, eager: bool = False) -> Iterator[Any]:
    """Yield a private copy of the model to run inside the block; see `private_copy`.

    What transformers logs about missing kernels is suppressed, since our scans run instead.
    """
    with kept_off(KERNELS), own_precision():
        yield private_copy(model, eager=eager)


@contextmanager
def own_precision() -> Iterator[None]:
    """Compute in the precision of the weights, and so that backward passes can begin, whatever mode the caller set.

    Autocast would round the operators too, inference mode knows no gradients, and on another default device, or in
    another default precision, small tensors would be made away from the model, or rounded.
    """
    with ExitStack() as stack:
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(SinglePrecision())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        yield


def call(model: nn.Module, inputs: dict[str, Any]) -> Any:
    """Return the model's outputs for these inputs, of which those that are None are left out, without a cache."""
    inputs = {name: value for name, value in inputs.items() if value is not None}
    if isinstance(model, transformers.PreTrainedModel):  # the language model inside a wrapper has a configuration too
        configurations = (model.config, model.config.get_text_config())
        if any(getattr(one, "use_cache", None) is not None for one in configurations):
            inputs = {"use_cache": False} | inputs
    with refusals_named(model):
        return model(**inputs)


@contextmanager
def refusals_named(model: nn.Module) -> Iterator[None]:
    """Raise InputError in place of what the model's own code raises inside the block.

    What hooks raise, the caller's or ours, passes as it is.
    """
    try:
        yield
    except MambascopeError:
        raise
    except Exception as error:
        if not _of_the_models_code(model, error):
            raise
        name, kind = type(model).__name__, type(error).__name__
        raise InputError(f"{name}'s own code cannot run on these inputs: {kind}: {one_line(error)}") from error


def _of_the_models_code(model: nn.Module, error: Exception) -> bool:
    """Return whether the function that raised, torch's own aside, is in a file of the model's classes or a kernel's."""
    files = {type(module).__module__ for module in model.modules()}
    *outer, inmost = [frame for frame, _ in walk_tb(error.__traceback__)]
    passing = [frame for frame in outer if frame.f_code.co_name not in PASSED_ON]  # a mode that hands an operation on
    names = [frame.f_globals.get("__name__", "") for frame in (*passing, inmost)]
    callers = [name for name in names if name.partition(".")[0] not in ("torch", "contextlib")]
    last = callers[-1] if callers else ""
    if last.partition(".")[0] in KERNEL_PACKAGES:
        return True
    return last.startswith("transformers.") or (last in files and not last.startswith("mambascope."))


def check_returned(model: nn.Module, outputs: Any) -> None:
    """Raise InputError if logits or features are NaN."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(outputs, name, None)
        if (
            isinstance(value, Tensor) and value.sum().isnan() and value.isnan().any()
        ):  # one pass, if the sum is a number
            raise InputError(f"the {name} of this {type(model).__name__} hold NaN: its weights are damaged")


def usable(value: Any) -> Any:
    """Return an input that a backward pass can use: a copy of one that was made in inference mode."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def in_texts(readout: Callable[[Any], Any], inputs: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return the readout, with its positions counted within each text if it has positions and the texts are padded."""
    if not callable(readout) or isinstance(readout, type):
        raise InputError(
            f"a readout must be a function of a model's outputs, such as readouts.token(…), found {shown(readout)}"
        )
    mask, bind = inputs.get("attention_mask"), getattr(readout, "in_texts", None)
    return readout if mask is None or bind is None else bind(mask)
