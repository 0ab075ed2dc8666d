"""One forward pass of a stock model, one record per token mixer, and a check that each record is right."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mambascope.arguments import callback, flag, real_number
from mambascope.brief import brief
from mambascope.errors import InputError, ReconstructionError
from mambascope.families import AttentionFamily, Captured, Family, MixerFamily, find_mixers
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.inputs.checks import check_inputs
from mambascope.trace import scanning
from mambascope.trace.block import Branch, precision
from mambascope.trace.detours import refuse_detours
from mambascope.trace.footprint import require_pass
from mambascope.trace.mixer_calls import consumed, input_of
from mambascope.trace.packed import check_apart
from mambascope.trace.private_copy import plain_model
from mambascope.trace.running import call, running, usable
from mambascope.trace.scanning import prefix_error, read_call, relative_error, scanned
from mambascope.trace.streams import Streams
from mambascope.trace.trace import Trace
from mambascope.trust import TOLERANCE


def capture(
    model: nn.Module,
    *,
    check: bool = True,
    tolerance: float | None = None,
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
        check: Rebuild every mixer's output from its operator and compare, layer by layer.
        tolerance: Largest relative error that passes; by default one that suits the model's precision (`TOLERANCE`).
        progress: Called with (mixers done, mixers in the model) after each mixer.
        inputs: Passed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E), `attention_mask` (b, L),
            `pixel_values`, …

    Raises:
        InputError: if the inputs are empty, contain a token id out of range, or ask for a cache.
        UnsupportedModelError: if the model has no mixer that mambascope can read, its weights are not in memory as a
            whole, or an adapter cannot be merged.
        ReconstructionError: if a rebuilt output differs from the model's own, naming the layer and the error.
        MapTooLargeError: if what the pass keeps, such as attention's probabilities, would not fit in memory.
    """
    started = time.perf_counter()
    flag(check, "check")
    if tolerance is not None and not real_number(tolerance, "tolerance") >= 0:
        raise InputError(f"tolerance {tolerance} is below 0; pass the largest relative error that may pass")
    callback(progress, "progress")
    model = plain_model(model)
    with ExitStack() as stack:
        own = stack.enter_context(running(model, eager=True))
        inputs = {name: usable(value) for name, value in inputs.items()}
        mixers = find_mixers(own)
        check_inputs(own, inputs)
        require_pass(own, mixers, inputs)
        scans = {family.scan_point: family for _, _, family in mixers if isinstance(family, Family)}
        recorder = _Recorder(scans, check, tolerance, len(mixers), progress)
        stack.enter_context(torch.no_grad())
        for name, mixer, family in mixers:
            stack.enter_context(recorder.watching(own, name, mixer, family))
        stack.enter_context(recorder.streams.watching(own, mixers))
        stack.enter_context(intercepting(recorder, recorder.families))
        outputs = call(own, inputs)
    ran = {branch.name for block in recorder.streams.blocks for branch in block.branches}
    missing = [name for name, _, _ in mixers if name not in ran]
    if missing:
        refuse_detours(model, missing, partial(call, own, inputs))
    if not recorder.streams.blocks:
        raise InputError(f"{type(model).__name__} ran without calling any of its {len(mixers)} token mixers")
    check_apart(inputs, (branch for block in recorder.streams.blocks for branch in block.branches))
    _check_returned(model, outputs)
    return Trace(
        model=model,
        inputs=inputs,
        layers=tuple(recorder.streams.blocks),
        outputs=outputs,
        seconds=time.perf_counter() - started,
    )


@dataclass
class _Recorder:
    """Collects the records of one capture."""

    families: dict[PatchPoint, Family]
    check: bool
    tolerance: float | None
    mixers: int
    progress: Callable[[int, int], None] | None
    streams: Streams = field(init=False)
    _calls: list[tuple[dict[str, Tensor], float]] = field(default_factory=list)
    _written: Tensor | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        self.streams = Streams(self.allowed)

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one scan call and keep its coefficients; it belongs to the mixer that is running."""
        family = self.families[point]
        scan = read_call(family, args, kwargs)
        if scanning.has_kernel(scan.s):
            output, error = original(*args, **kwargs), 0.0
            o = scan.take(output)
        else:
            o = scanned(family, scan)
            output = scan.give(o)
            error = prefix_error(family, original, scan, o, args, kwargs)
        self._calls.append((scan.coefficients | ({"o": o} if family.norm_factor else {}), error))
        return output

    @contextmanager
    def watching(self, model: nn.Module, name: str, mixer: nn.Module, family: MixerFamily) -> Iterator[None]:
        """Record this mixer's inputs and outputs when it runs."""

        def before(*_: Any) -> None:
            self._calls.clear()

        def wrote(_: nn.Module, __: Any, output: Tensor) -> None:
            self._written = output

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = input_of(args, kwargs)
            if isinstance(family, AttentionFamily):
                self._finish(model, name, module, family, *self._attended(name, module, x, output))
            elif isinstance(family, Family):
                self._finish(model, name, module, family, *self._scanned(name, module, family, x, output, kwargs))
            else:
                self._finish(model, name, module, family, consumed(x, output, kwargs), 0.0)

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

    def _scanned(
        self, name: str, mixer: nn.Module, family: Family, x: Tensor, output: Any, kwargs: dict[str, Any]
    ) -> tuple[Captured, float]:
        """Return the record of a scan mixer, and the error of its scan."""
        if len(self._calls) != len(family.readings):
            expected = ", ".join(reading.name for reading in family.readings)
            calls = "one call" if len(family.readings) == 1 else f"{len(family.readings)} calls ({expected})"
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) called its scan {len(self._calls)} times where mambascope expects "
                f"{calls} ({_versions()})"
            )
        scans = tuple({key: value.detach() for key, value in consumed.items()} for consumed, _ in self._calls)
        scan_error = max(error for _, error in self._calls)
        self._calls.clear()
        return consumed(x, output, kwargs, scans), scan_error

    def _attended(self, name: str, mixer: nn.Module, x: Tensor, output: Any) -> tuple[Captured, float]:
        """Return the record of an attention layer, and 0: p leaves out padding, and the model's own code ran."""
        p = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(p, Tensor):
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) returned no attention probabilities with its output ({_versions()})"
            )
        if p.isnan().any():
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) returned attention probabilities that are NaN; in float64 the eager "
                f"attention of transformers does so where padding masks a whole row: use float32, or texts of one "
                f"length ({_versions()})"
            )
        y = output[0] if self._written is None else self._written
        self._written = None
        return Captured(x, y, ({"p": p.detach()},), None), 0.0

    def _finish(
        self,
        model: nn.Module,
        name: str,
        mixer: nn.Module,
        family: MixerFamily,
        captured: Captured,
        scan_error: float,
    ) -> None:
        """Rebuild the mixer's output, compare, and add its record to the block that is running."""
        if not captured.y.isfinite().all():
            raise InputError(
                f"layer {len(self.streams.blocks)} ({name}, {type(mixer).__name__}) returned NaN or infinite values: "
                "the model's weights are damaged, or its numbers overflow in this precision"
            )
        y, place = captured.y, name.rpartition(".")[0]
        branch = Branch(name, family, mixer, captured, scan_error, family.scale(model.get_submodule(place)))
        if self.check:
            error, allowed = relative_error(branch.operator(precision(y.dtype)).output(), y), self.allowed(y.dtype)
            if not max(error, scan_error) <= allowed:
                raise ReconstructionError(
                    f"layer {len(self.streams.blocks)} ({name}, {type(mixer).__name__}) cannot be rebuilt from what "
                    f"was captured: relative error {error:.2e} of its output and {scan_error:.2e} of its scan, allowed "
                    f"{allowed:.0e} ({_versions()})"
                )
            branch = dataclasses.replace(branch, reconstruction_error=error)
        self.streams.add(branch)
        if self.progress is not None:
            self.progress(self.streams.branches, self.mixers)

    def allowed(self, dtype: torch.dtype) -> float:
        """Return the largest relative error that passes in a model of this precision."""
        return TOLERANCE.get(dtype, TOLERANCE[torch.float32]) if self.tolerance is None else self.tolerance


def _check_returned(model: nn.Module, outputs: Any) -> None:
    """Raise InputError if logits or features are NaN."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(outputs, name, None)
        if isinstance(value, Tensor) and value.isnan().any():
            raise InputError(f"the {name} of this {type(model).__name__} hold NaN: its weights are damaged")


def _versions() -> str:
    return f"transformers {transformers.__version__}, torch {torch.__version__}"
