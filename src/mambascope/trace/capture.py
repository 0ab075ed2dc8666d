"""One forward pass of a stock model, one record per token mixer, and a check that each record is right."""

from __future__ import annotations

import dataclasses
import functools
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import nn

from mambascope.arguments import callback, choice, flag, real_number
from mambascope.brief import brief
from mambascope.errors import InputError, MapTooLargeError, ReconstructionError
from mambascope.families import AttentionFamily, Captured, Family, MixerFamily, find_mixers, found_by
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.inputs.checks import check_inputs
from mambascope.trace.block import Block, Branch
from mambascope.trace.calls import Call, Calls
from mambascope.trace.detours import refuse_detours
from mambascope.trace.footprint import Keep, require_pass
from mambascope.trace.later_logits import LaterLogits, head_apart, hidden_states
from mambascope.trace.missing import Missing, in_order, misread, refuse_missing
from mambascope.trace.mixer_calls import versions
from mambascope.trace.packed import check_apart
from mambascope.trace.padded import check_padding, moved_by_padding
from mambascope.trace.private_copy import plain_model
from mambascope.trace.recaptured import with_inputs_alone
from mambascope.trace.recording import Recording
from mambascope.trace.running import call, check_returned, running, usable
from mambascope.trace.scanning import convolution_points, scan_points
from mambascope.trace.self_check import Check, reconstruction_error
from mambascope.trace.single_position import hooked
from mambascope.trace.streams import Streams
from mambascope.trace.token_wise import unknown_mixers
from mambascope.trace.trace import Trace
from mambascope.trust import TOLERANCE


def capture(
    model: nn.Module,
    *,
    check: Check = "projected",
    tolerance: float | None = None,
    partial: bool = False,
    keep: Keep = "all",
    progress: Callable[[int, int], None] | None = None,
    **inputs: Any,
) -> Trace:
    """Run a model once and return a trace of it, with the inputs and coefficients of every token mixer.

    The model may be any module that contains mixers of a supported class. A private copy of it runs, which shares its
    weights, in evaluation mode, without gradients, without a cache and without autocast. So the model itself is never
    changed, captures may be nested, and several threads may run one model at once. Where it would fall back to a slow
    reference scan, ours runs instead and is compared with the reference on the first tokens; so does, on a processor,
    our causal convolution, compared on the first tokens and the last. Attention runs in its eager form, which returns
    its probabilities.

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
        keep: What the trace keeps of every layer: "all"; or "inputs", what each of its mixers read, in a seventh of the
            memory or less. The mixer then runs again whenever the layer's operator is asked for, logits are computed
            where they are read, and methods that follow the residual stream, or run a layer again on other texts,
            refuse the trace.
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
    choice(keep, get_args(Keep), "keep")
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
        if keep == "inputs" and hooked(own):
            raise InputError(
                f'this {type(model).__name__} has hooks, so its layers cannot run again by themselves; pass keep="all"'
            )
        require_pass(own, mixers, inputs, keep=keep)
        head = head_apart(own, inputs) if keep == "inputs" else None
        scans = scan_points(family for _, _, family in mixers)
        convolutions = {} if check == "full" else convolution_points(scans)  # a rebuilt output knows ours alone
        recorder = _Recorder(scans, convolutions, check, tolerance, partial, keep, len(mixers), progress)
        stack.enter_context(torch.no_grad())
        for name, mixer, family in mixers:
            stack.enter_context(recorder.watching(own, name, mixer, family))
        stack.enter_context(recorder.streams.watching(own, mixers))
        calls = Calls()
        stack.enter_context(calls.watching(own, mixers if keep == "all" else ()))
        hidden = stack.enter_context(hidden_states(own)) if head is not None else []
        stack.enter_context(intercepting(recorder.recording, {*scans, *convolutions}))
        outputs = call(own, inputs if head is None else {**inputs, "logits_to_keep": 1})
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
    if head is not None:
        check_returned(model, types.SimpleNamespace(last_hidden_state=hidden[0]))
        outputs.logits = LaterLogits(head, hidden[0], outputs.logits)
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
    convolutions: dict[PatchPoint, Family]
    check: Check
    tolerance: float | None
    partial: bool
    keep: Keep
    mixers: int
    progress: Callable[[int, int], None] | None
    streams: Streams = field(init=False)
    recording: Recording = field(init=False)
    lost: dict[str, Missing] = field(default_factory=dict)
    _asked: dict[int, Call] = field(default_factory=dict)

    __repr__ = brief

    def __post_init__(self) -> None:
        self.streams = Streams(self.allowed, self._kept)
        self.recording = Recording(self.families, self.allowed, self.convolutions)

    @contextmanager
    def watching(self, model: nn.Module, name: str, mixer: nn.Module, family: MixerFamily) -> Iterator[None]:
        """Record this mixer's inputs and outputs when it runs."""

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            try:
                captured, scan_error = self.recording.read(name, module, family, args, kwargs, output)
                branch = self._checked(model, name, module, family, captured, scan_error)
                self.recording.begin()
                self._asked[id(captured)] = Call(args, kwargs)
            except (InputError, MapTooLargeError):
                raise
            except Exception as error:
                if not found_by(family):
                    raise
                self.lost[name] = misread(name, module, family, self.recording.unread or error)
                if not self.partial:
                    refuse_missing(model, (self.lost[name],))
            else:
                self.streams.add(branch)
                if self.progress is not None:
                    self.progress(self.streams.branches, self.mixers)

        with ExitStack() as stack:
            stack.callback(mixer.register_forward_pre_hook(self.recording.begin).remove)
            stack.callback(mixer.register_forward_hook(after, with_kwargs=True).remove)
            stack.enter_context(self.recording.noting(mixer, family))
            yield

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
        if not torch.stack(torch.aminmax(captured.y)).isfinite().all():
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
        full, calls = bool(found) or self.check == "full", self.recording.calls
        run = calls[0].run if len(calls) == 1 else None
        error = reconstruction_error(branch, allowed, full=full, run=run, convolved=self.recording.convolved)
        if not max(error, scan_error) <= allowed:
            raise ReconstructionError(
                f"layer {len(self.streams.blocks)} ({name}, {type(mixer).__name__}) cannot be rebuilt from what "
                f"was captured: relative error {error:.2e} of its output and {scan_error:.2e} of its scan, allowed "
                f"{allowed:.0e} ({versions()})"
            )
        return dataclasses.replace(branch, reconstruction_error=error)

    def _kept(self, block: Block) -> Block:
        """Return what is kept of a block that is complete."""
        calls = dict(self._asked)
        self._asked.clear()
        return block if self.keep == "all" else with_inputs_alone(block, self.families, calls)

    def allowed(self, dtype: torch.dtype) -> float:
        """Return the largest relative error that passes in a model of this precision."""
        return TOLERANCE.get(dtype, TOLERANCE[torch.float32]) if self.tolerance is None else self.tolerance
