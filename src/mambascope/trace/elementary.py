"""The functions of torch that a model's own code calls, answered one by one under propagation rules.

Which rule answers which function is in `mambascope.trace.function_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from mambascope.trace.biases import MADE_FROM, BiasLedger
from mambascope.trace.rules import PropagationRules

Function = Callable[..., Any]


class Elementary(TorchFunctionMode):
    """Answers functions of torch in this thread under propagation rules.

    Attributes:
        rules: The propagation rules.
        ledger: Where the relevance of biases is noted, or None.
        attending: How many softmax attention layers are running, one inside the other.
    """

    def __init__(
        self, rules: PropagationRules, ledger: BiasLedger | None, table: Mapping[str, Callable[..., Any]]
    ) -> None:
        """Make a mode that answers each function by the rule that the table has for its name."""
        super().__init__()
        self.rules, self.ledger, self.attending = rules, ledger, 0
        self._table = table
        self._outside = 0

    def __torch_function__(
        self, function: Function, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._outside:
            return function(*args, **kwargs)
        rule = self._table.get(getattr(function, "__name__", ""))
        output = function(*args, **kwargs) if rule is None else rule(self, function, args, kwargs)
        if self.ledger is not None and not any(map(live, tensors((output,), {}))):
            self._remember(self.ledger, tensors((output,), {}), args, kwargs)
        return output

    @property
    def answers(self) -> bool:
        """Whether calls are answered at present."""
        return not self._outside

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Leave this thread's calls as they are inside the block, which follows a rule of its own."""
        self.leave()
        try:
            yield
        finally:
            self.enter()

    def leave(self, *_: Any) -> None:
        """Leave calls as they are until `enter`."""
        self._outside += 1

    def enter(self, *_: Any) -> None:
        """Answer calls again."""
        self._outside -= 1

    def begin_attention(self, *_: Any) -> None:
        """Take the softmax of the calls that follow for attention's."""
        self.attending += 1

    def end_attention(self, *_: Any) -> None:
        """End `begin_attention`."""
        self.attending -= 1

    def note(self, constant: Any, output: Tensor, sign: float = 1.0, axis: int | None = None) -> None:
        """Note a bias that was added to an output, along one axis of it or spread over all."""
        if self.ledger is None or not isinstance(constant, Tensor):
            return
        name = self.ledger.name_of(constant)
        if name is not None:
            constant = constant if axis is None else constant.reshape(-1, *[1] * (output.ndim - 1 - axis))
            self.ledger.note_added(name, constant if sign == 1 else sign * constant, output)

    def _remember(
        self, ledger: BiasLedger, outputs: Sequence[Tensor], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        """Remember the name of what was computed from weights and whole numbers alone."""
        names = [ledger.name_of(value) for value in tensors(args, kwargs) if value.is_floating_point()]
        if names and None not in names:
            for output in outputs:
                if ledger.name_of(output) is None:
                    setattr(output, MADE_FROM, names[0])


def tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments of a call, those in sequences included."""
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(part for part in value if isinstance(part, Tensor))
    return found


def live(value: Any) -> bool:
    """Return whether relevance flows through a value."""
    return isinstance(value, Tensor) and value.requires_grad
