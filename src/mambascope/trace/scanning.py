"""One scan call of a model, run by our own scan, and compared with the model's on its first tokens."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.families import Family, ScanCall

#: Number of tokens on which every captured scan is compared with the model's own reference.
PREFIX = 8


def read_call(family: Family, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ScanCall:
    """Return one call of a family's scan as a `ScanCall`; raises InputError if the call uses a cache."""
    if kwargs.get("return_last_state") or kwargs.get("return_final_states") or kwargs.get("initial_states") is not None:
        raise InputError("a capture reads a whole text at once; pass no cache (use_cache=False)")
    return family.read(*args, **kwargs)


def scanned(family: Family, call: ScanCall) -> Float[Tensor, "b L D"]:
    """Return o = alpha s + D s of a call, times SiLU(z) if the family's scan applies the gate."""
    working = torch.promote_types(call.s.dtype, torch.float32)
    scan, s = family.scan(call.coefficients, working), call.s.to(working)
    o = torch.addcmul(scan.apply(s), scan.skip, s)
    z = call.coefficients.get("z")
    return o if z is None else o.mul_(F.silu(z.to(working)))


def prefix_error(
    family: Family, original: Callable[..., Any], output: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """Return the relative error of our scan against the model's own on the first tokens; on all it would be slow."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor.narrow(family.token_axis, 0, min(PREFIX, tensor.shape[family.token_axis]))

    s, dt, A, B, C, *rest = args
    rest = [PREFIX if isinstance(value, int) else value for value in rest]  # Mamba-2's chunk size
    if kwargs.get("z") is not None:
        kwargs = kwargs | {"z": cut(kwargs["z"])}
    if "chunk_size" in kwargs:
        kwargs = kwargs | {"chunk_size": PREFIX}
    reference = inspect.unwrap(original)  # without the wrapper that looks for kernels and warns if there are none
    return relative_error(cut(output), reference(cut(s), cut(dt), A, cut(B), cut(C), *rest, **kwargs))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return ‖ours - theirs‖ / ‖theirs‖ in float64; infinity in place of NaN."""
    difference, size = (torch.linalg.vector_norm(t, dtype=torch.float64) for t in (ours - theirs, theirs))
    error = float(difference / size.clamp_min(1e-300))
    return error if error == error else float("inf")


def has_kernel(tensor: Tensor) -> bool:
    """Return whether the model itself would run a compiled scan kernel on this tensor's device."""
    return tensor.is_cuda and importlib.util.find_spec("mamba_ssm") is not None
