"""One forward pass of a stock model, one record per token mixer, and a check that each record is right."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from mambascope.arguments import callback, choice, flag, real_number
from mambascope.brief import brief
from mambascope.errors import InputError, MapTooLargeError, ReconstructionError
from mambascope.families import AttentionFamily, Captured, Family, MixerFamily, find_mixers, found_by
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.inputs.checks import check_inputs
from mambascope.trace.block import Branch
from mambascope.trace.calls import Calls
from mambascope.trace.detours import refuse_detours
from mambascope.trace.footprint import require_pass
from mambascope.trace.missing import Missing, in_order, misread, refuse_missing
from mambascope.trace.mixer_calls import consumed, input_of, tensors_read, versions
from mambascope.trace.packed import check_apart
from mambascope.trace.padded import check_padding, moved_by_padding
from mambascope.trace.private_copy import plain_model
from mambascope.trace.running import call, check_returned, running, usable
from mambascope.trace.scanning import Answered, answer, read_call, scan_points
from mambascope.trace.self_check import Check, reconstruction_error
from mambascope.trace.streams import Streams
from mambascope.trace.token_wise import unknown_mixers
from mambascope.trace.trace import Trace
from mambascope.trust import TOLERANCE

#: Names that mixers give to the state that an earlier pass left.
STATES = ("state", "cache", "cache_params", "past_key_values")


def capture(
    model: nn.Module,
    *,
    check: Check = "projected",
    tolerance: float | None = None,
    partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **inputs: Any,
) -> Trace:
    """Run a model once and return a trace of it, with the inputs and coefficients of every token mixer.

    The model may be any module that contains mixers of a supported class. A private copy of it runs, which shares its
    weights, in evaluation mode, without gradients, without a cache and without autocast. So the model itself is never
    changed, captures may be nested, and several threads may run one model at once. Where it would fall back to a slow
    reference scan, ours runs instead and is compared with the reference on the first tokens. Attention runs in its
    eager form, which returns its probabilities.

    Args:
        model: A stock transformers model, or any module that contains mixers; also compiled, in a wrapper of PyTorch
            such as DataParallel, or with adapters of PEFT, which are merged in the copy.
        check: How every mixer's operator is held to the mixer's own output: "projected", step by step with the products
            estimated through random directions, which misses an error beyond the tolerance with a probability below
            1e-12 a layer; "full", by rebuilding the whole output with another scan, which is also done where the
            estimate is near the tolerance; False, not at all. See `mambascope.trace.self_check`.
        tolerance: Largest relative error that passes; by default one that suits the model's precision (`TOLERANCE`).
        partial: Leave out mixers that cannot be read, instead of refusing the model for them. The trace names them
            (`trace.missing`); the maps of its layers are exact, but whole-model methods refuse it.
        progress: Called with (mixers done, mixers in the model) after each mixer.
        inputs: Passed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E), `attention_mask` (b, L),
            `pixel_values`, …

    Raises:
        InputError: if the inputs are empty, contain a token id out of range, or ask for a cache.
        UnsupportedModelError: if the model has no mixer that mambascope can read, mixes tokens in other parts too, its
            weights are not in memory as a whole, or an adapter cannot be merged.
        ReconstructionError: if a rebuilt output differs from the model's own, naming the layer and the error.
        MapTooLargeError: if what the pass keeps, such as attention's probabilities, would not fit in memory.
    """
    started = time.perf_counter()
    choice(check, get_args(Check), "check")
    flag(partial, "partial")
    if tolerance is not None and not real_number(tolerance, "tolerance") >= 0:
        raise InputError(f"tolerance {tolerance} is below 0; pass the largest relative error that may pass")
    callback(progress, "progress")
    model = plain_model(model)
    with ExitStack() as stack:
        own = stack.enter_context(running(model, eager=True))
        inputs = {name: usable(value) for name, value in inputs.items()}
        mixers = find_mixers(own, partial=partial)
        check_inputs(own, inputs)
        require_pass(own, mixers, inputs)
        scans = scan_points(family for _, _, family in mixers)
        recorder = _Recorder(scans, check, tolerance, partial, len(mixers), progress)
        stack.enter_context(torch.no_grad())
        for name, mixer, family in mixers:
            stack.enter_context(recorder.watching(own, name, mixer, family))
        stack.enter_context(recorder.streams.watching(own, mixers))
        calls = Calls()
        stack.enter_context(calls.watching(own, mixers))
        stack.enter_context(intercepting(recorder, {*scans, *recorder.convolutions}))
        outputs = call(own, inputs)
    ran = {branch.name: branch for block in recorder.streams.blocks for branch in block.branches}
    skipped = [name for name, _, _ in mixers if name not in ran and name not in recorder.lost]
    if skipped:
        refuse_detours(model, skipped, functools.partial(call, own, inputs))
    missing = in_order(model, (*recorder.lost.values(), *unknown_mixers(model, inputs, [*ran, *recorder.lost])))
    if not partial or not ran:
        refuse_missing(model, missing)
    if not ran:
        raise InputError(f"{type(model).__name__} ran without calling any of its {len(mixers)} token mixers")
    check_apart(inputs, ran.values())
    check_padding(inputs, ran.values())
    check_returned(model, outputs)
    return Trace(
        model=model,
        inputs=inputs,
        layers=tuple(recorder.streams.blocks),
        outputs=outputs,
        missing=missing,
        seconds=time.perf_counter() - started,
        calls=calls.made,
        caution=moved_by_padding(model, inputs, ran.values()),
    )


@dataclass
class _Recorder:
    """Collects the records of one capture."""

    families: dict[PatchPoint, Family]
    check: Check
    tolerance: float | None
    partial: bool
    mixers: int
    progress: Callable[[int, int], None] | None
    streams: Streams = field(init=False)
    lost: dict[str, Missing] = field(default_factory=dict)
    _calls: list[Answered] = field(default_factory=list)
    _convolved: list[Tensor] = field(default_factory=list)
    _written: Tensor | None = None
    _unread: Exception | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        self.streams = Streams(self.allowed)

    @property
    def convolutions(self) -> frozenset[PatchPoint]:
        """Where the convolutions are called whose inputs the projected check reads."""
        known = (family.conv_point for family in self.families.values() if not found_by(family))
        return frozenset(point for point in known if self.check == "projected" and point.exists())

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one scan call and keep its coefficients, or note what a convolution reads, for the mixer that runs."""
        if point not in self.families:
            self._convolved.append(input_of(args, kwargs))
            return original(*args, **kwargs)
        family = self.families[point]
        try:
            scan = read_call(family, args, kwargs)
        except (TypeError, ValueError, RuntimeError, IndexError) as unread:  # another function of the same name
            if not found_by(family):
                raise
            self._unread = unread
            return original(*args, **kwargs)
        output, answered = answer(family, scan, original, args, kwargs, self.allowed(scan.s.dtype))
        self._calls.append(answered)
        return output

    @contextmanager
    def watching(self, model: nn.Module, name: str, mixer: nn.Module, family: MixerFamily) -> Iterator[None]:
        """Record this mixer's inputs and outputs when it runs."""

        def before(*_: Any) -> None:
            self._calls.clear()
            self._convolved.clear()
            self._unread = None

        def wrote(_: nn.Module, __: Any, output: Tensor) -> None:
            self._written = output

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            try:
                captured, scan_error = self._read(name, module, family, args, kwargs, output)
                branch = self._checked(model, name, module, family, captured, scan_error)
                self._calls.clear()
                self._convolved.clear()
            except (InputError, MapTooLargeError):
                raise
            except Exception as error:
                if not found_by(family):
                    raise
                self.lost[name] = misread(name, module, family, self._unread or error)
                if not self.partial:
                    refuse_missing(model, (self.lost[name],))
            else:
                self.streams.add(branch)
                if self.progress is not None:
                    self.progress(self.streams.branches, self.mixers)

        handles = [
            mixer.register_forward_pre_hook(before),
            mixer.register_forward_hook(after, with_kwargs=True),
        ]
        if isinstance(family, AttentionFamily) and family.writer is not None:
            handles.append(family.writer(mixer).register_forward_hook(wrote))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _read(
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
        if len(self._calls) != count:
            expected = ", ".join(reading.name for reading in family.readings)
            calls = "one call" if count == 1 else f"{count} calls ({expected})"
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) called its scan {len(self._calls)} times where mambascope expects "
                f"{calls} ({versions()})"
            )
        scans = tuple({key: value.detach() for key, value in call.coefficients.items()} for call in self._calls)
        scan_error = max(call.error for call in self._calls)
        return consumed(x, output, kwargs, scans), scan_error

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

    def _checked(
        self,
        model: nn.Module,
        name: str,
        mixer: nn.Module,
        family: MixerFamily,
        captured: Captured,
        scan_error: float,
    ) -> Branch:
        """Return a mixer's record; rebuild its output from it and compare, if asked or if no family names its class."""
        if not captured.y.isfinite().all():
            raise InputError(
                f"layer {len(self.streams.blocks)} ({name}, {type(mixer).__name__}) returned NaN or infinite values: "
                "the model's weights are damaged, or its numbers overflow in this precision"
            )
        place = name.rpartition(".")[0]
        block = model.get_submodule(place)
        after = family.output_norm(block) if isinstance(family, AttentionFamily) and family.output_norm else None
        branch = Branch(name, family, mixer, captured, scan_error, family.scale(block))
        if after is not None:
            normed = type(after[0]).forward(after[0], captured.y)  # its hooks are to run once, when the block calls it
            branch = dataclasses.replace(branch, norm=after[0], normed=normed)
        found, allowed = found_by(family), self.allowed(branch.y.dtype)
        if not self.check and not found:
            return branch
        full, run = bool(found) or self.check == "full", self._calls[0].run if len(self._calls) == 1 else None
        error = reconstruction_error(branch, allowed, full=full, run=run, convolved=self._convolved)
        if not max(error, scan_error) <= allowed:
            raise ReconstructionError(
                f"layer {len(self.streams.blocks)} ({name}, {type(mixer).__name__}) cannot be rebuilt from what "
                f"was captured: relative error {error:.2e} of its output and {scan_error:.2e} of its scan, allowed "
                f"{allowed:.0e} ({versions()})"
            )
        return dataclasses.replace(branch, reconstruction_error=error)

    def allowed(self, dtype: torch.dtype) -> float:
        """Return the largest relative error that passes in a model of this precision."""
        return TOLERANCE.get(dtype, TOLERANCE[torch.float32]) if self.tolerance is None else self.tolerance


def _refuse_state(name: str, mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise InputError if a mixer that keeps a state was called with one from before the text."""
    passed = inspect.signature(mixer.forward).bind(*args, **kwargs).arguments
    if any(passed.get(one) is not None for one in STATES):
        raise InputError(
            f"{name} ({type(mixer).__name__}) continues from a state, but a capture reads a whole text at once: pass "
            "no state or cache, and a text that the model reads in one piece"
        )
