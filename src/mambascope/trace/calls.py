"""What the modules around the mixers were called with in a run, so that one of them can run again by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.families import MixerFamily


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    __repr__ = brief

    def again(self, module: nn.Module, count: int) -> Tensor:
        """Return the module's output tokens (count, L, E) for copies of the one text that it was called with."""
        output = module(*_copies(self.args, count), **_copies(self.kwargs, count))
        tokens: Tensor = output[0] if isinstance(output, tuple) else output
        return tokens.flatten(1, 2) if tokens.ndim == 4 else tokens  # tokens may lie in a picture


@dataclass
class Calls:
    """Collects the calls of one pass, in order, by the name of the module."""

    made: dict[str, list[Call]] = field(default_factory=dict)

    @contextmanager
    def watching(self, model: nn.Module, mixers: Sequence[tuple[str, nn.Module, MixerFamily]]) -> Iterator[None]:
        """Record the calls of every mixer, and of every module that holds one, within the model."""
        names = {name for mixer, _, _ in mixers for name in (mixer, mixer.rpartition(".")[0])}
        with ExitStack() as stack:
            for name in names:
                handle = model.get_submodule(name).register_forward_pre_hook(self._noting(name), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _noting(self, name: str) -> Any:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.made.setdefault(name, []).append(Call(args, kwargs))

        return note


def _copies(value: Any, count: int) -> Any:
    """Return arguments for copies of one text: tensors with one text are repeated, also within tuples and mappings."""
    if isinstance(value, Tensor):
        return value.expand(count, *value.shape[1:]) if value.ndim > 1 and value.shape[0] == 1 else value
    if type(value) in (tuple, list):
        return type(value)(_copies(one, count) for one in value)
    if isinstance(value, Mapping):
        return {name: _copies(one, count) for name, one in value.items()}
    return value
