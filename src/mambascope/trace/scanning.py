"""One scan call of a model, run by our own scan, and compared with the model's on its first tokens."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.families import Family, MixerFamily, ScanCall, found_by
from mambascope.families.patch_points import PatchPoint
from mambascope.operators.layout import tokens_in_line
from mambascope.operators.token_mixer import TokenMixer

#: Number of tokens on which every captured scan is compared with the model's own reference.
PREFIX = 8


def scan_points(families: Iterable[MixerFamily]) -> dict[PatchPoint, Family]:
    """Return where scans are called, with the family that reads the calls: one that names its class, if any does."""
    scans = [family for family in families if isinstance(family, Family)]
    return {family.scan_point: family for family in sorted(scans, key=lambda one: not found_by(one))}


def convolution_points(scans: Mapping[PatchPoint, Family]) -> dict[PatchPoint, Family]:
    """Return where the convolutions before some scans are called, with the family, if it names the mixers' class."""
    known = {family.conv_point: family for family in scans.values() if not found_by(family)}
    return {point: family for point, family in known.items() if point not in scans and point.exists()}


def read_call(family: Family, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ScanCall:
    """Return one call of a family's scan as a `ScanCall`; raises InputError if the call uses a cache."""
    kept = any(kwargs.get(name) for name in ("return_last_state", "return_final_states", "output_final_state"))
    if kept or any(kwargs.get(name) is not None for name in ("initial_states", "initial_state")):
        raise InputError("a capture reads a whole text at once; pass no cache (use_cache=False)")
    return family.read(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class ScanRun:
    """A run of our own scan in place of a model's.

    Attributes:
        s: What the scan read, in its own precision.
        scan: The scan.
        o: alpha s + D s, without the call's bias and gate.
    """

    s: Float[Tensor, "b L D"]
    scan: TokenMixer
    o: Float[Tensor, "b L D"]

    __repr__ = brief


def run_scan(family: Family, call: ScanCall) -> ScanRun:
    """Return a run of our scan on a call of the model's."""
    working = torch.promote_types(call.s.dtype, torch.float32)
    scan, s = family.scan(call.coefficients, working), tokens_in_line(call.s.to(working))  # mixed layouts are slow
    o = scan.apply(s)
    return ScanRun(s, scan, torch.addcmul(o, scan.skip, s, out=None if o.requires_grad else o))


def finished(call: ScanCall, o: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
    """Return o of a call, with its bias, times SiLU(z) if the family's scan applies the gate."""
    o = o if call.bias is None else o + call.bias.to(o.dtype)
    z = call.coefficients.get("z")
    return o if z is None else F.silu(z.to(o.dtype)).mul_(o)


def scanned(family: Family, call: ScanCall) -> Float[Tensor, "b L D"]:
    """Return what our scan gives for a call: o with its bias, times SiLU(z) if the family's scan applies the gate."""
    return finished(call, run_scan(family, call).o)


@dataclass(frozen=True, eq=False)
class Answered:
    """A scan call of a model that has been answered.

    Attributes:
        coefficients: What the scan consumed, named as in the glossary.
        error: Relative error of our scan against the model's own on the first tokens; 0 if the model's own ran.
        run: The run of our own scan; None if the model's own ran.
    """

    coefficients: dict[str, Tensor]
    error: float
    run: ScanRun | None

    __repr__ = brief


def answer(
    family: Family,
    scan: ScanCall,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    allowed: float,
) -> tuple[Any, Answered]:
    """Return the result of a scan call, by our own scan unless the model has a kernel, and the record of it.

    Args:
        family: The family whose scan was called.
        scan: The call as it was read.
        original: The model's own function, and what it was called with.
        args, kwargs: The arguments of the call.
        allowed: Beyond which error the original's result is returned where no family names the mixer's class.
    """
    if has_kernel(scan.s):
        output = original(*args, **kwargs)
        run, error, o = None, 0.0, scan.take(output)
    else:
        run = run_scan(family, scan)
        o = finished(scan, run.o)
        output = scan.give(o)
        try:
            error = prefix_error(family, original, scan, o, args, kwargs)
        except Exception:  # a function that takes other arguments cannot be called on the first tokens alone
            if not found_by(family):
                raise
            error = relative_error(o, scan.take(original(*args, **kwargs)))
        if found_by(family) and not error <= allowed:
            output = original(*args, **kwargs)
    return output, Answered(scan.coefficients | ({"o": o} if family.norm_factor else {}), error, run)


def intact(
    families: Mapping[PatchPoint, Family],
    point: PatchPoint,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return the result of a call as it is: a scan by the model's compiled kernel if it has one, else by ours.

    Args:
        families: The families of the scans that the model calls.
        point: The function that is called.
        original: The function itself, and what it is called with.
        args, kwargs: The arguments of the call.
    """
    family = families.get(point)
    if family is None:
        return original(*args, **kwargs)
    call = read_call(family, args, kwargs)
    return original(*args, **kwargs) if has_kernel(call.s) else call.give(scanned(family, call))


def prefix_error(
    family: Family,
    original: Callable[..., Any],
    call: ScanCall,
    o: Float[Tensor, "b L D"],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> float:
    """Return the relative error of our scan against the model's own on the first tokens; on all it would be slow.

    Args:
        family: The family whose scan was called.
        original: The model's own function, and what it was called with.
        call: The same call as it was read.
        o: The result of our scan.
        args, kwargs: The arguments of the call.
    """

    def cut(value: Any) -> Any:
        """Return the first tokens of what has texts, tokens and channels; what has no tokens has fewer axes."""
        if not isinstance(value, Tensor) or value.ndim < 3:
            return value
        return value.narrow(family.token_axis, 0, min(PREFIX, value.shape[family.token_axis]))

    reference = inspect.unwrap(original)  # without the wrapper that looks for kernels and warns if there are none
    bound = inspect.signature(reference).bind(*args, **kwargs)
    bound.arguments.update({name: cut(value) for name, value in bound.arguments.items()})
    if "chunk_size" in inspect.signature(reference).parameters:  # to which the reference would fill up the text
        bound.arguments["chunk_size"] = PREFIX
    return relative_error(o[:, :PREFIX], call.take(reference(*bound.args, **bound.kwargs)))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return ‖ours - theirs‖ / ‖theirs‖ in float64; infinity in place of NaN."""
    difference, size = (torch.linalg.vector_norm(t, dtype=torch.float64) for t in (ours - theirs, theirs))
    error = float(difference / size.clamp_min(1e-300))
    return error if error == error else float("inf")


def has_kernel(tensor: Tensor) -> bool:
    """Return whether the model itself would run a compiled scan kernel on this tensor's device."""
    return tensor.is_cuda and importlib.util.find_spec("mamba_ssm") is not None
