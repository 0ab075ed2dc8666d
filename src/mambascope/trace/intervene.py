"""Passes through a stock model in which chosen sources give nothing to chosen targets: causal ground truth.

The model's own code runs, but mixers of any kind leave out the sources' share; `mambascope.trace.cutting` says what
that is. It is left out where a mixer calls a function with its values: its scan, its delta rule or its attention. From
the output of a mixer that calls none, it is subtracted. Nothing of size L x L is held but the probabilities of
attention.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import UnsupportedModelError
from mambascope.families import AttentionFamily, Family, MixerFamily, find_mixers
from mambascope.families.patch_points import PatchPoint, intercepting
from mambascope.trace import scanning
from mambascope.trace.cutting import Cut, cut_attention, cut_output, cut_scan
from mambascope.trace.mixer_calls import consumed, input_of, tensors_read


@dataclass(frozen=True, eq=False)
class Knockout:
    """Which sources give nothing to which targets.

    Attributes:
        mixers: Names of the mixers in which they are cut, as in `named_modules`.
        sources: True at the sources, for every text of the batch.
        targets: The positions that lose them; None for all, which is the same as setting the sources' values to zero.
    """

    mixers: Collection[str]
    sources: Bool[Tensor, "b L"]
    targets: tuple[int, ...] | None = None

    __repr__ = brief


@contextmanager
def intervening(own: nn.Module, edit: Knockout | None) -> Iterator[None]:
    """Run this thread's calls of a private copy, or of one of its modules, with an edit inside the block.

    No gradients are kept. With no edit the model runs unchanged, with our scans where its own would be slow; this works
    for any model.

    Args:
        own: A private copy of a model, with attention in its eager form if attention is cut.
        edit: What is left out.

    Raises:
        UnsupportedModelError: if there is an edit and no mixer to apply it to, or one in which nothing can be cut.
    """
    mixers = find_mixers(own) if edit is not None else _mixers_if_any(own)
    scans = {family.scan_point: family for _, _, family in mixers if isinstance(family, Family)}
    editor = _Editor(None if edit is None else Cut(edit.sources, edit.targets), scans)
    points = set(scans)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for name, mixer, family in mixers:
            if edit is not None and name in edit.mixers:
                point = _point(family)
                if point is not None:
                    points.add(point)
                stack.enter_context(editor.inside(name, mixer, family, point))
        stack.enter_context(intercepting(editor, points))
        yield


def _mixers_if_any(model: nn.Module) -> list[tuple[str, nn.Module, MixerFamily]]:
    try:
        return find_mixers(model)
    except UnsupportedModelError:
        return []


def _point(family: MixerFamily) -> PatchPoint | None:
    """Return the function that mixers of a family call with their values; None if there is none."""
    if isinstance(family, Family):
        return family.scan_point
    if isinstance(family, AttentionFamily) and family.attention_point.exists():
        return family.attention_point
    return None


@dataclass
class _Editor:
    """Runs scans and attention, leaving out the cut sources in the mixers that the edit names.

    Attributes:
        cut: What is left out.
        scans: The families of the scans that the model calls.
        running: The family of the mixer that is running and is cut.
        calls: How many calls it has made so far.
    """

    cut: Cut | None
    scans: dict[PatchPoint, Family]
    running: MixerFamily | None = None
    calls: list[PatchPoint] = field(default_factory=list)

    @contextmanager
    def inside(self, name: str, mixer: nn.Module, family: MixerFamily, point: PatchPoint | None) -> Iterator[None]:
        """Cut this mixer: in the calls of its function, or in its output if there is none."""

        def before(*_: Any) -> None:
            self.running = family
            self.calls.clear()

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            self.running = None
            if point is None:
                return self._subtracted(name, module, family, args, kwargs, output)
            expected = len(family.readings) * family.heads(module) if isinstance(family, Family) else 1
            if len(self.calls) != expected:
                raise UnsupportedModelError(
                    f"{name} ({type(module).__name__}) called {point.function} {len(self.calls)} times where "
                    f"mambascope expects {expected}, so its sources cannot be cut"
                )
            return None

        handles = [
            mixer.register_forward_pre_hook(before),
            mixer.register_forward_hook(after, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of a call of a scan or of attention."""
        family, cut = self.running, self.cut
        if cut is None or family is None or point != _point(family):
            return scanning.intact(self.scans, point, original, args, kwargs)
        self.calls.append(point)
        if not isinstance(family, Family):
            return cut_attention(cut, original, args, kwargs)
        reading = family.readings[(len(self.calls) - 1) % len(family.readings)]
        return cut_scan(family, reading, cut, original, args, kwargs)

    def _subtracted(
        self,
        name: str,
        mixer: nn.Module,
        family: MixerFamily,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        """Return the output of a mixer that calls no function of its own, less the sources' share."""
        assert self.cut is not None
        scans: tuple[dict[str, Tensor], ...] = ()
        if isinstance(family, AttentionFamily):
            if family.writer is not None:
                raise UnsupportedModelError(
                    f"{name} ({type(mixer).__name__}) has no {family.attention_function} in its file and adds more "
                    "to its output than mixed values, so its sources cannot be cut"
                )
            scans = ({"p": output[1]},)
        x = input_of(args, kwargs)
        scans = scans or tensors_read(name, mixer, family, kwargs)
        captured = consumed(x, output, {} if isinstance(family, AttentionFamily) else kwargs, scans)  # p leaves it out
        y = cut_output(mixer, family, captured, self.cut)
        return (y, *output[1:]) if isinstance(output, tuple) else y
