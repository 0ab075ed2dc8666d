"""One forward pass of a stock model, one record per selective-scan mixer, and the proof that the records are right."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn

from mambascope.errors import InputError, ReconstructionError
from mambascope.trace.families import Captured, Family, find_mixers
from mambascope.trace.seam import listener, listening, relative_error
from mambascope.trace.tokens import check_ids
from mambascope.trace.trace import LayerRecord, Trace, precision

#: Largest relative error of a rebuilt output. Half precision rounds each product to 8 or 11 bits and a mixer chains
#: several; float32 leaves 1e-7 to 1e-5 on stock models; float64 models still compute their norms in float32.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


def capture(
    model: nn.Module,
    *,
    check: bool = True,
    tolerance: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    **inputs: Any,
) -> Trace:
    """Run a model once and return a trace of everything that its selective-scan mixers consumed.

    The model may be any module that holds mixers of a supported class; it runs in evaluation mode, without gradients
    and without a cache, and is left as it was. Where it would fall back to a slow reference scan, ours runs instead
    and is held against the reference on the first tokens. Captures may be nested and may run in several threads; those
    of one model take turns.

    Args:
        model: A stock transformers model, or any module around its mixers.
        check: Rebuild every mixer's output from its operator and compare, layer by layer.
        tolerance: Largest relative error that passes; by default one that suits the model's precision (`TOLERANCE`).
        progress: Called with (mixers done, mixers of the model) after each one.
        inputs: Handed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E), `attention_mask` (b, L), …

    Raises:
        InputError: if the inputs are empty, hold a token id out of range, or ask for a cache.
        UnsupportedModelError: if the model has no mixer that mambascope can read.
        ReconstructionError: if a rebuilt output differs from the model's own, naming the layer and the error.
    """
    started = time.perf_counter()
    mixers = find_mixers(model)
    _check_inputs(model, inputs)
    if isinstance(model, transformers.PreTrainedModel):
        inputs.setdefault("use_cache", False)
    recorder = _Recorder(check, tolerance, len(mixers), progress)
    with ExitStack() as stack:
        stack.enter_context(_turn(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_evaluating(model))
        for name, mixer, family in mixers:
            stack.enter_context(recorder.watching(name, mixer, family))
        stack.enter_context(listening(recorder, {family.module: family for _, _, family in mixers}.values()))
        outputs = model(**inputs)
    if not recorder.records:
        raise InputError(f"{type(model).__name__} ran without calling any of its {len(mixers)} selective-scan mixers")
    return Trace(
        layers=tuple(recorder.records),
        outputs=outputs,
        input_ids=inputs.get("input_ids"),
        attention_mask=inputs.get("attention_mask"),
        seconds=time.perf_counter() - started,
    )


_turns: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_turns_lock = threading.Lock()


def _turn(model: nn.Module) -> threading.RLock:
    """Return the lock of a model's captures: hooks cannot come and go while another thread runs through them."""
    with _turns_lock:
        return _turns.setdefault(model, threading.RLock())


@dataclass
class _Recorder:
    """Collects what one capture sees; lives in the thread that captures."""

    check: bool
    tolerance: float | None
    mixers: int
    progress: Callable[[int, int], None] | None
    records: list[LayerRecord] = field(default_factory=list)
    _calls: list[tuple[dict[str, Tensor], float]] = field(default_factory=list)

    def record(self, family: Family, consumed: dict[str, Tensor], scan_error: float) -> None:
        """Take one scan call; it belongs to the mixer that is running."""
        self._calls.append((consumed, scan_error))

    @contextmanager
    def watching(self, name: str, mixer: nn.Module, family: Family) -> Iterator[None]:
        """Record this mixer's input and output when it runs in this capture's own pass."""

        def before(*_: Any) -> None:
            if listener() is self:
                self._calls.clear()

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if listener() is self:
                x = args[0] if args else kwargs["hidden_states"]
                self._finish(name, module, family, x, output, kwargs.get("attention_mask"))

        handles = [
            mixer.register_forward_pre_hook(before),
            mixer.register_forward_hook(after, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _finish(self, name: str, mixer: nn.Module, family: Family, x: Tensor, output: Any, mask: Tensor | None) -> None:
        """Make the mixer's record, rebuild its output and compare."""
        if len(self._calls) != 1:
            raise ReconstructionError(
                f"{name} ({type(mixer).__name__}) called its scan {len(self._calls)} times where mambascope expects "
                f"one call of {family.module}.{family.seam} ({_versions()})"
            )
        consumed, scan_error = self._calls.pop()
        y = output[0] if isinstance(output, tuple) else output
        kept = {key: value.detach() for key, value in consumed.items() if key != "s"}
        captured = Captured(x=x, y=y, scan=kept, mask=None if mask is None else mask.bool())
        record = LayerRecord(len(self.records), name, family, mixer, captured, scan_error)
        if self.check:
            operator = record.operator(precision(y.dtype))
            error = relative_error(operator.output(), y)
            allowed = TOLERANCE.get(y.dtype, TOLERANCE[torch.float32]) if self.tolerance is None else self.tolerance
            if not max(error, scan_error) <= allowed:
                raise ReconstructionError(
                    f"layer {record.index} ({name}, {type(mixer).__name__}) cannot be rebuilt from what was captured: "
                    f"relative error {error:.2e} of its output and {scan_error:.2e} of its scan, allowed {allowed:.0e} "
                    f"({_versions()})"
                )
            record = dataclasses.replace(record, reconstruction_error=error)
        self.records.append(record)
        if self.progress is not None:
            self.progress(len(self.records), self.mixers)


def _versions() -> str:
    return f"transformers {transformers.__version__}, torch {torch.__version__}"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every part of the model in evaluation mode and back again: in training a fused call bypasses the seam."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _check_inputs(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Refuse what the model would answer with a traceback or, worse, with nonsense."""
    if inputs.get("use_cache") or inputs.get("cache_params") is not None or inputs.get("past_key_values") is not None:
        raise InputError("a capture reads a whole text at once; pass no cache (use_cache=False, no cache_params)")
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if embeds is not None and (embeds.ndim != 3 or embeds.shape[1] == 0):
        raise InputError(f"inputs_embeds must have shape (batch, tokens > 0, width), found {tuple(embeds.shape)}")
    if ids is not None and (ids.ndim != 2 or ids.numel() == 0):
        raise InputError(f"input_ids must have shape (batch, tokens > 0), found {tuple(ids.shape)}")
    if ids is not None and isinstance(model, transformers.PreTrainedModel):
        check_ids(ids.flatten(), model.get_input_embeddings().num_embeddings)
    mask, text = inputs.get("attention_mask"), embeds if ids is None else ids
    if mask is not None and text is not None and mask.shape != text.shape[:2]:
        raise InputError(
            f"attention_mask of shape {tuple(mask.shape)} does not match the text's (batch, tokens) "
            f"{tuple(text.shape[:2])}"
        )
