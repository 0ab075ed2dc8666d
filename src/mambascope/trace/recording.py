"""The record of one mixer: what its functions were called with while it ran, read once it has run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError, ReconstructionError
from mambascope.families import AttentionFamily, Captured, Family, MixerFamily, found_by
from mambascope.families.patch_points import PatchPoint
from mambascope.trace.convolving import Convolved, answer_convolution
from mambascope.trace.mixer_calls import consumed, input_of, tensors_read, versions
from mambascope.trace.scanning import Answered, answer, read_call

#: Names that mixers give to the state that an earlier pass left.
STATES = ("state", "cache", "cache_params", "past_key_values")


@dataclass
class Recording:
    """An interceptor that runs our scans in place of the model's, and notes the calls of the mixer that is running.

    Attributes:
        families: The family that reads each scan.
        convolutions: The family of each convolution whose calls are intercepted.
        allowed: Given a precision, returns the largest error of our scan where no family names the mixer's class.
        calls: The scan calls of the mixer that is running.
        convolved: The calls of its convolutions, if they are intercepted.
        unread: Why a call could not be read.
    """

    families: Mapping[PatchPoint, Family]
    allowed: Callable[[torch.dtype], float]
    convolutions: Mapping[PatchPoint, Family] = field(default_factory=dict)
    calls: list[Answered] = field(default_factory=list)
    convolved: list[Convolved] = field(default_factory=list)
    unread: Exception | None = None
    _written: Tensor | None = None
    _gate: Tensor | None = None

    __repr__ = brief

    def begin(self, *_: Any) -> None:
        """Forget the mixer that ran before."""
        self.calls.clear()
        self.convolved.clear()
        self.unread = self._gate = None

    @contextmanager
    def noting(self, mixer: nn.Module, family: MixerFamily) -> Iterator[None]:
        """Note what parts of a mixer read and return as it runs, where its record holds that.

        That is what an attention layer's writer returns, where the layer returns something else, and the gate that the
        norm after a scan reads.
        """
        with ExitStack() as stack:
            if isinstance(family, AttentionFamily) and family.writer is not None:
                stack.callback(family.writer(mixer).register_forward_hook(self._wrote).remove)
            norm = getattr(mixer, family.norm_name, None) if isinstance(family, Family) and family.norm_factor else None
            if isinstance(norm, nn.Module):
                stack.callback(norm.register_forward_pre_hook(self._gated, with_kwargs=True).remove)
            yield

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one scan call and keep its coefficients, or one of a convolution, for the mixer that runs."""
        if point not in self.families:
            allowed = self.allowed(input_of(args, kwargs).dtype)
            output, convolved = answer_convolution(self.convolutions[point], original, args, kwargs, allowed)
            self.convolved.append(convolved)
            return output
        family = self.families[point]
        try:
            scan = read_call(family, args, kwargs)
        except (TypeError, ValueError, RuntimeError, IndexError) as unread:  # another function of the same name
            if not found_by(family):
                raise
            self.unread = unread
            return original(*args, **kwargs)
        output, answered = answer(family, scan, original, args, kwargs, self.allowed(scan.s.dtype))
        self.calls.append(answered)
        return output

    def _wrote(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self._written = output

    def _gated(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        gate = args[1] if len(args) > 1 else kwargs.get("gate")
        if isinstance(gate, Tensor):
            self._gate = _own(gate.detach())

    def read(
        self,
        name: str,
        mixer: nn.Module,
        family: MixerFamily,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> tuple[Captured, float]:
        """Return the record of a mixer that has run, and the error of its scan."""
        x = input_of(args, kwargs)
        if isinstance(family, AttentionFamily):
            return self._attended(name, mixer, x, output, kwargs)
        if isinstance(family, Family):
            return self._scanned(name, mixer, family, x, output, kwargs)
        _refuse_state(name, mixer, args, kwargs)
        return consumed(x, output, kwargs, tensors_read(name, mixer, family, kwargs)), 0.0

    def _scanned(
        self, name: str, mixer: nn.Module, family: Family, x: Tensor, output: Any, kwargs: dict[str, Any]
    ) -> tuple[Captured, float]:
        """Return the record of a scan mixer, and the error of its scan."""
        count = len(family.readings) * family.heads(mixer)
        if len(self.calls) != count:
            expected = ", ".join(reading.name for reading in family.readings)
            calls = "one call" if count == 1 else f"{count} calls ({expected})"
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) called its scan {len(self.calls)} times where mambascope expects "
                f"{calls} ({versions()})"
            )
        scans = tuple({key: _own(value.detach()) for key, value in call.coefficients.items()} for call in self.calls)
        scan_error = max(call.error for call in self.calls)
        captured = consumed(x, output, kwargs, scans)
        if self._gate is not None and count == 1:
            captured.scan["gate"] = self._gate.reshape(*captured.x.shape[:2], -1)
            self._gate = None
        return captured, scan_error

    def _attended(
        self, name: str, mixer: nn.Module, x: Tensor, output: Any, kwargs: dict[str, Any]
    ) -> tuple[Captured, float]:
        """Return the record of an attention layer, and 0: p leaves out padding, and the model's own code ran."""
        p = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(p, Tensor):
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) returned no attention probabilities with its output ({versions()})"
            )
        if p.isnan().any():
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) returned attention probabilities that are NaN; in float64 the eager "
                f"attention of transformers does so where padding masks a whole row: use float32, or texts of one "
                f"length ({versions()})"
            )
        y = output[0] if self._written is None else self._written
        self._written = None
        return Captured(x, y, ({"p": p.detach()},), None, layer=kwargs.get("layer_idx")), 0.0


def _own(kept: Tensor) -> Tensor:
    """Return a tensor that is kept: a copy where it is a view of something larger, such as all projections."""
    return kept.clone(memory_format=torch.contiguous_format) if kept.nbytes < kept.untyped_storage().nbytes() else kept


def _refuse_state(name: str, mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise InputError if a mixer that keeps a state was called with one from before the text."""
    passed = inspect.signature(mixer.forward).bind(*args, **kwargs).arguments
    if any(passed.get(one) is not None for one in STATES):
        raise InputError(
            f"{name} ({type(mixer).__name__}) continues from a state, but a capture reads a whole text at once: pass "
            "no state or cache, and a text that the model reads in one piece"
        )
