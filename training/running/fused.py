"""The two recurrences compiled by the machine's C compiler, where there is one: several times the PyTorch forms' speed.

`fused_channel_recurrence` and `fused_head_recurrence` have the signatures and meanings of their namesakes in
`mambascope.operators.recurrence` (the second with one group and head sizes divisible by 16 only); they are None where
nothing could be compiled, and the caller then takes the namesakes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("fused.c")
FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-shared", "-fPIC"]

#: Tokens between the kept states, as in the C source.
SEGMENT = 8

Context = torch.autograd.function.FunctionCtx
Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _compiled() -> ctypes.CDLL | None:
    """Return the compiled library, kept in the user's cache folder; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or os.name != "posix":
        return None
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mambascope"
    library = folder / f"fused-{digest}.so"
    try:
        if not library.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as file:
                subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", file.name], check=True, capture_output=True)
            Path(file.name).replace(library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError):
        return None


def _channel_sizes(v: Tensor, A: Tensor, write: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the C function's sizes and the shape of the kept states."""
    (b, L, D), N = v.shape, A.shape[1]
    return (b, L, D, N), (b, -(-L // SEGMENT), N, D)


def _head_sizes(v: Tensor, A: Tensor, write: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the C function's sizes and the shape of the kept states."""
    (b, L, H, P), N = v.shape, write.shape[-1]
    return (b, L, H, P, N), (b, H, -(-L // SEGMENT), N, P)


def _compiled_recurrence(library: ctypes.CDLL, name: str, sizes: Callable[..., tuple]) -> Recurrence:
    """Return the C functions `<name>_forward` and `<name>_backward` as one differentiable operator of torch."""

    def call(function: str, counts: tuple[int, ...], *tensors: Tensor) -> None:
        assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in tensors)
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
        getattr(library, f"{name}_{function}")(*map(ctypes.c_int64, counts), *pointers)

    @torch.library.custom_op(f"mambascope_training::{name}_forward", mutates_args=())
    def forward(v: Tensor, step: Tensor, A: Tensor, write: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        v, step, write, read = (tensor.contiguous() for tensor in (v, step, write, read))
        counts, kept = sizes(v, A, write)
        out, states = torch.empty_like(v), v.new_empty(kept)
        call("forward", counts, v, step, A.t().contiguous(), write, read, out, states)
        return out, states

    @forward.register_fake
    def _(v: Tensor, step: Tensor, A: Tensor, write: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        return v.new_empty(v.shape), v.new_empty(sizes(v, A, write)[1])

    @torch.library.custom_op(f"mambascope_training::{name}_backward", mutates_args=())
    def backward(
        v: Tensor, step: Tensor, A: Tensor, write: Tensor, read: Tensor, states: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        v, step, write, read, dout = (tensor.contiguous() for tensor in (v, step, write, read, dout))
        At = A.t().contiguous()
        dv, dstep, dA, dwrite, dread = (torch.empty_like(tensor) for tensor in (v, step, At, write, read))
        counts, _ = sizes(v, A, write)
        call("backward", counts, v, step, At, write, read, states, dout, dv, dstep, dA, dwrite, dread)
        return dv, dstep, dA.t().contiguous(), dwrite, dread

    @backward.register_fake
    def _(
        v: Tensor, step: Tensor, A: Tensor, write: Tensor, read: Tensor, states: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        dv, dstep, dA, dwrite, dread = (tensor.new_empty(tensor.shape) for tensor in (v, step, A, write, read))
        return dv, dstep, dA, dwrite, dread

    def keep(ctx: Context, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])

    def differentiate(ctx: Context, dout: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return backward(*ctx.saved_tensors, dout)  # type: ignore[attr-defined]

    forward.register_autograd(differentiate, setup_context=keep)
    return lambda v, step, A, write, read: forward(v, step, A, write, read)[0]


_library = _compiled()
fused_channel_recurrence = _compiled_recurrence(_library, "channel", _channel_sizes) if _library else None
fused_head_recurrence = _compiled_recurrence(_library, "head", _head_sizes) if _library else None
