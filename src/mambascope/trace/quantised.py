"""Weights that are stored as anything but plain numbers: a model that has some is refused, since they cannot be read.

Operators read the weights of a layer. Of a quantised layer these are codes, without the scales that belong to them, so
that maps would be wrong. Classes are known by their full names, so that none of these libraries is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from mambascope.errors import UnsupportedModelError

#: Packages, and modules of larger ones, all of whose layers are quantised.
LIBRARIES = (
    *("bitsandbytes", "auto_gptq", "gptqmodel", "auto_round", "awq", "hqq", "aqlm", "eetq", "vptq", "spqr_quant"),
    *("optimum.quanto", "quanto", "compressed_tensors", "torchao", "quark", "torch.ao.nn.quantized"),
    *(
        f"transformers.integrations.{name}"
        for name in (
            *("aqlm", "awq", "bitnet", "eetq", "fbgemm_fp8", "finegrained_fp8", "fp_quant", "gemma_quant", "higgs"),
            *("hqq", "metal_quantization", "mxfp4", "nvfp4", "quanto", "spqr", "vptq"),
        )
    ),
)

#: Attributes that layers of these libraries have, whatever their class is.
SIGNS = ("qweight", "weight_packed", "quantization_scheme")


def refuse_quantised(model: nn.Module) -> None:
    """Raise UnsupportedModelError, with the layer and what is in it, if any weight of a model is quantised.

    One that has been dequantised has plain weights again and passes, whatever its configuration says.
    """
    for name, module in model.named_modules():
        reason = next(_reasons(module), None)
        if reason is not None:
            raise UnsupportedModelError(
                f"{name or 'the model'} ({type(module).__name__}) is quantised: {reason}, so its weights cannot be "
                "read; load the model without quantization_config, or load the checkpoint that it was made from"
            )


def _reasons(module: nn.Module) -> Iterator[str]:
    """Yield why a layer counts as quantised."""
    home = f"{type(module).__module__}."
    yield from (f"it is a layer of {one}" for one in LIBRARIES if home.startswith(f"{one}."))
    yield from (f"it has {sign}" for sign in SIGNS if getattr(module, sign, None) is not None)
    buffers = (pair for pair in module.named_buffers(recurse=False) if pair[0] == "weight")
    for name, tensor in (*module.named_parameters(recurse=False), *buffers):
        if nn.parameter.is_lazy(tensor) or _is_distributed(tensor):
            continue
        if is_traceable_wrapper_subclass(tensor):
            yield f"{name} is a {type(tensor).__module__.partition('.')[0]} {type(tensor).__name__}"
        plain = tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype.itemsize > 1)
        if not plain:
            yield f"{name} holds {str(tensor.dtype).removeprefix('torch.')} values"


def _is_distributed(tensor: Tensor) -> bool:
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)
