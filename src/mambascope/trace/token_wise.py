"""Whether a model mixes tokens only in the mixers that are known: tested, because no list of classes could say it.

The model reads a few tokens twice. The second time one token is another one, at the embedding and in what every known
mixer returns, and apart from that each mixer returns what it returned the first time. So nothing may move at the other
positions. Where something does, the first module to return it mixes tokens, or the code of the module around it does.

This finds what passes from any token to any other of a text of `LENGTH` tokens, in any module and between modules. It
cannot find a part that mixes only tokens further apart, or one whose weights are zero. Hooks that the model's user set
do not act in the test.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.families import FAMILIES, AttentionFamily, MixerFamily, find_mixers, shortfall
from mambascope.models.picture_models import StagedModel
from mambascope.trace.embedding import embedding_layer
from mambascope.trace.missing import Missing
from mambascope.trace.running import call, running

#: Tokens that are read: a prime, so that an axis of this length is the tokens' and not that of heads or channels.
LENGTH = 13

#: Largest relative change at other positions that is rounding: experts that get one token more or fewer compute the
#: others' products in another order. Float64 models cast to float32 in places.
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

#: What was found for a model, and what the model was made of then.
_known: weakref.WeakKeyDictionary[nn.Module, tuple[Hashable, tuple[Missing, ...]]] = weakref.WeakKeyDictionary()


def unknown_mixers(model: nn.Module, inputs: Mapping[str, Any], read: Sequence[str]) -> tuple[Missing, ...]:
    """Return the parts of a model that mix tokens and are none of its known mixers.

    They are looked for once for each model, and again when its modules or weights have changed; it takes two passes
    over `LENGTH` tokens. Models are not tested whose layers do not all read the tokens that are embedded, such
    as those that join patches to larger ones; nor are models of our own code with stages, which cut pictures into
    windows between their mixers.

    Args:
        model: The model.
        inputs: What it is called with.
        read: The names of its known mixers that ran.
    """
    if isinstance(model, StagedModel):
        return ()
    made_of = _signature(model, read)
    held = _known.get(model)
    if held is None or held[0] != made_of:
        held = _known[model] = (made_of, tuple(_found(model, inputs, read)))
    return held[1]


def _found(model: nn.Module, inputs: Mapping[str, Any], read: Sequence[str]) -> list[Missing]:
    with suppress(Exception):  # a model that has no place for so many tokens, or that needs its other inputs
        return _tried(model, _probe(inputs), read)
    with suppress(Exception):  # a model that cannot run without its hooks
        return _tried(model, dict(inputs), read)
    return _tried(model, dict(inputs), read, hooks=True)


def _tried(model: nn.Module, probe: dict[str, Any], read: Sequence[str], *, hooks: bool = False) -> list[Missing]:
    """Return what two passes over a probe find, without the user's hooks, which are to act once, unless asked."""
    with running(model, eager=True) as own, torch.no_grad():
        for part in (part for part in own.modules() if not hooks and not isinstance(part, torch.jit.ScriptModule)):
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        families = {name: family for name, _, family in find_mixers(own, partial=True)}
        frozen = {name: _writer(own.get_submodule(name), families.get(name)) for name in read}
        inside = {part for name in read for part in own.get_submodule(name).modules()}
        passes = _Passes(own, frozen, inside)
        passes.run(probe)
        return list(passes.found.values())


def _probe(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model reads in the test: the first of the texts, repeated or cut to `LENGTH` tokens.

    Pixels, and the inputs of models that read several things, are taken as they are.
    """
    mask, only = inputs.get("attention_mask"), next(iter(inputs)) if len(inputs) == 1 else ""
    for name in ("input_ids", "inputs_embeds", only):
        value = inputs.get(name)
        if isinstance(value, Tensor) and value.ndim == (2 if name == "input_ids" else 3):
            real = torch.arange(value.shape[1]) if mask is None else mask[0].nonzero()[:, 0].cpu()
            return {name: value[:1, real[torch.arange(LENGTH) % len(real)]]}
    return dict(inputs)


def _writer(mixer: nn.Module, family: MixerFamily | None) -> nn.Module:
    """Return the part of a mixer whose output is what it mixes."""
    return family.writer(mixer) if isinstance(family, AttentionFamily) and family.writer is not None else mixer


@dataclass
class _Passes:
    """Two passes over the probe, and what in the second moves positions that were left alone.

    Attributes:
        own: A private copy of the model.
        frozen: The modules that return in the second pass what they returned in the first, by name.
        inside: The modules in known mixers, which may do as they like.
        found: The modules that mix tokens besides, by name.
    """

    own: nn.Module
    frozen: Mapping[str, nn.Module]
    inside: Collection[nn.Module]
    found: dict[str, Missing] = field(default_factory=dict)
    _first: dict[tuple[str, int], Any] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)
    _second: bool = False
    _generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    _lengths: set[int] = field(default_factory=set)
    _running: list[tuple[str, nn.Module]] = field(default_factory=list)

    __repr__ = brief

    def run(self, probe: dict[str, Any]) -> None:
        """Run both passes."""
        with ExitStack() as stack:
            for name, module in self.frozen.items():
                stack.callback(module.register_forward_hook(self._mixer(name)).remove)
            for name, module in self.own.named_modules():
                if module not in self.inside and not isinstance(module, torch.jit.ScriptModule):  # which is shared
                    for handle in self._watch(name, module):
                        stack.callback(handle.remove)
            for second in (False, True):
                self._second = second
                self._calls.clear()
                self._running.clear()
                with self._embedded(probe) as read:
                    call(self.own, read)
                if self._length < 2 or len(self._lengths) > 1:
                    return

    @contextmanager
    def _embedded(self, probe: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Change one token where tokens are embedded, in the second pass."""
        vectors = [name for name, value in probe.items() if isinstance(value, Tensor) and value.is_floating_point()]
        if vectors and vectors[0] != "pixel_values":
            yield probe | {vectors[0]: self._moved(probe[vectors[0]])}
            return

        def answer(_: nn.Module, __: Any, output: Any) -> Any:
            return self._moved(output) if isinstance(output, Tensor) else output

        with ExitStack() as stack:
            with suppress(InputError):  # a model that does not say where: what its mixers return is moved all the same
                stack.callback(embedding_layer(self.own).register_forward_hook(answer).remove)
            yield probe

    @property
    def _length(self) -> int:
        """The number of tokens that the mixers read."""
        return max(self._lengths, default=0)

    def _mixer(self, name: str) -> Callable[..., Any]:
        def answer(_: nn.Module, __: Any, output: Any) -> Any:
            place = self._place(name)
            if self._second:
                return self._again(self._first.get(place, output))
            self._first[place] = _kept(output)
            self._lengths.add(_tokens(output))
            return None

        return answer

    def _watch(self, name: str, module: nn.Module) -> Iterator[RemovableHandle]:
        def entered(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            moved = self._moved_by(f"{name}<", (args, kwargs))
            outside, part = self._running[-1] if self._running else ("", self.own)
            if moved and not self._blamed():
                self._blame(outside, part, f"its own code, before it calls {name}, moves", moved)
            self._running.append((name, module))

        def left(_: nn.Module, __: Any, output: Any) -> Any:
            moved = self._moved_by(f"{name}>", output)
            if moved and not self._blamed():
                self._blame(name, module, "it moves", moved)
            self._running.pop()
            place = f"{name}>", self._calls[f"{name}>"]
            return self._restored(self._first.get(place), output) if self._second else None

        yield module.register_forward_pre_hook(entered, with_kwargs=True)
        yield module.register_forward_hook(left)

    def _blamed(self) -> bool:
        """Return whether a module that is running is known to mix tokens already."""
        return any(name in self.found for name, _ in self._running)

    def _blame(self, name: str, module: nn.Module, how: str, moved: float) -> None:
        lacking = shortfall(module, FAMILIES.values())
        why = f"{how} other tokens when one token changes, by {moved:.0e}" + (f"; {lacking}" if lacking else "")
        self.found[name] = Missing(name, type(module).__name__, why)

    def _moved_by(self, name: str, value: Any) -> float:
        """Keep what passes in the first pass; return by how much it moved at other positions in the second, or 0."""
        place = self._place(name)
        if not self._second:
            self._first[place] = _kept(value)
            return 0.0
        pairs = zip(_token_tensors(self._first.get(place)), _token_tensors(value), strict=False)
        moves = ((self._elsewhere(before, now), ROUNDING.get(now.dtype, 1e-5)) for before, now in pairs)
        return max((moved for moved, rounding in moves if moved > rounding), default=0.0)

    def _again(self, kept: Any) -> Any:
        """Return what a module returned in the first pass, with one token moved."""
        if isinstance(kept, Tensor):
            return self._moved(kept)
        return tuple(self._again(part) for part in kept) if type(kept) is tuple else kept

    def _restored(self, kept: Any, now: Any) -> Any:
        """Return what a module returned in the second pass, its other positions as in the first.

        So what comes after a module that mixes tokens can be tested too, and rounding does not add up.
        """
        if type(now) is tuple and type(kept) is tuple and len(now) == len(kept):
            return tuple(self._restored(*pair) for pair in zip(kept, now, strict=True))
        if not (isinstance(now, Tensor) and isinstance(kept, Tensor) and self._elsewhere(kept, now)):
            return now
        restored, middle = kept.clone(), self._length // 2
        restored[:, middle] = now[:, middle]
        return restored

    def _place(self, name: str) -> tuple[str, int]:
        self._calls[name] = self._calls.get(name, -1) + 1
        return name, self._calls[name]

    def _elsewhere(self, before: Tensor, now: Tensor) -> float:
        """Return by how much other positions differ, relative to their size; 0 for what has no axis of tokens."""
        length = self._length
        if before.shape != now.shape or before.ndim < 3 or before.shape[1] != length:
            return 0.0
        others = [place for place in range(length) if place != length // 2]
        was, difference = before[:, others].double(), (now - before)[:, others].double()
        return float(difference.norm() / was.norm().clamp_min(1e-300))

    def _moved(self, tokens: Tensor) -> Tensor:
        """Return tokens of which, in the second pass, the middle one is another of about the same size.

        Patches that a model embeds are left alone if it puts a class token among them: there the mixers are enough.
        """
        if not self._second or tokens.ndim != 3 or tokens.shape[1] != self._length:
            return tokens
        moved, size = tokens.clone(), tokens.float().std().to(tokens.dtype)
        noise = torch.randn(tokens.shape[2], generator=self._generator, dtype=torch.float32)
        moved[:, self._length // 2] += size * noise.to(tokens.device, tokens.dtype)
        return moved


def _tokens(output: Any) -> int:
    """Return the number of tokens that a mixer returned; 0 if they do not lie in line."""
    output = output[0] if isinstance(output, tuple) else output
    return output.shape[1] if isinstance(output, Tensor) and output.ndim == 3 else 0


def _kept(value: Any) -> Any:
    """Return a value with copies of its tensors, which the model might change in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(_kept(part) for part in value)
    return {name: _kept(part) for name, part in value.items()} if isinstance(value, Mapping) else value


def _token_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of numbers with three or more axes, such as texts, tokens and channels, anywhere in a value."""
    if isinstance(value, Tensor):
        if value.ndim >= 3 and value.is_floating_point():
            yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _token_tensors(part)


def _signature(model: nn.Module, read: Sequence[str]) -> Hashable:
    """Return what a model is made of: its modules' classes, the versions of its weights, and the mixers that ran."""
    parts = tuple((name, id(type(part))) for name, part in model.named_modules())
    versions = sum(0 if weight.is_inference() else weight._version for weight in model.parameters())
    return hash(parts), versions, tuple(read)
