"""Which part of a model no propagation rule covers, where relevance does not add up.

Every function that the model calls is called once more on numbers of its own. Where relevance is conserved, a function
is homogeneous in what it reads: Euler's identity Σ x · ∂(r · f)/∂x = r · f(x) holds for any r, with the biases that it
adds (methods section 6). The first function for which it does not hold, and from which something reaches the model's
output, is the part that is missing a rule: what only makes a constant, such as a decay, hands nothing on and need not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from mambascope.inputs.checks import check_inputs
from mambascope.trace.biases import BiasLedger
from mambascope.trace.differentiate import differentiable, leaf_at_tokens, texts_in
from mambascope.trace.elementary import Elementary, live, tensors
from mambascope.trace.function_rules import RULES
from mambascope.trace.rules import PropagationRules
from mambascope.trace.running import call, running

#: Largest share of Σ |r · f| that rounding explains; what lacks a rule leaves tenths.
SHARE = 1e-2

#: Scores beyond this size are masked.
MASKED = 1e30


def uncovered(model: nn.Module, rules: PropagationRules, **inputs: Any) -> str:
    """Return the first function that loses or makes relevance, and the module that called it; empty if none is found.

    Args:
        model: A stock model.
        rules: The propagation rules.
        inputs: Passed to the model.
    """
    with running(model, eager=True) as own, ExitStack() as stack:
        check_inputs(own, inputs)
        examining = _Examining(rules, BiasLedger(own, texts_in(inputs)))
        for name, module in own.named_modules():
            stack.callback(module.register_forward_pre_hook(examining.entering(name)).remove)
            stack.callback(module.register_forward_hook(examining.left).remove)
        stack.enter_context(differentiable(own, mode=examining))
        outputs = call(own, stack.enter_context(leaf_at_tokens(own, inputs, [])))
        return _first_that_reaches(outputs, examining.found)


class _Examining(Elementary):
    """Answers functions as its base does, and examines each.

    Attributes:
        found: The functions that are not homogeneous, each with its module's name, and what they returned.
    """

    def __init__(self, rules: PropagationRules, ledger: BiasLedger) -> None:
        super().__init__(rules, ledger, RULES)
        self.found: list[tuple[str, Any]] = []
        self._names: list[str] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        examined = self.answers and not _skipped(name) and any(map(live, tensors(args, kwargs)))
        lacks = examined and not self._homogeneous(function, types, args, kwargs)
        output = super().__torch_function__(function, types, args, kwargs)
        if lacks:
            self.found.append((f"{name.strip('_')} in {self._names[-1] if self._names else 'the model'}", output))
        return output

    def entering(self, name: str) -> Callable[..., None]:
        """Return a hook that notes which module runs."""
        return lambda *_: self._names.append(name or "the model")

    def left(self, *_: Any) -> None:
        """Note that the module that ran has ended."""
        self._names.pop()

    def _homogeneous(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Return whether a function hands on what reaches it, called on copies of its live arguments."""
        leaves: list[Tensor] = []
        args = tuple(_with_leaves(value, leaves) for value in args)
        kwargs = {name: _with_leaves(value, leaves) for name, value in kwargs.items()}
        assert self.ledger is not None
        kept = self.ledger.held, self.ledger.undistributed
        self.ledger.held, self.ledger.undistributed = {}, {}
        try:
            output = super().__torch_function__(function, types, args, kwargs)
            if not live(output):
                return getattr(function, "__name__", "") != "detach"
            weight = _noise(output).masked_fill(output.detach().abs() > MASKED, 0.0)
            flows = torch.autograd.grad(output, leaves, weight, allow_unused=True)
            noted = (*self.ledger.held.values(), *self.ledger.undistributed.values())
            reached = output.detach().double() * weight.double()
            handed_on = sum(
                float((leaf.detach().double() * flow.double()).masked_fill(flow == 0, 0.0).sum())
                for leaf, flow in zip(leaves, flows, strict=True)
                if flow is not None
            )
            missing = float(reached.nansum()) - handed_on - sum(float(held.sum()) for held in noted)
            return not abs(missing) > SHARE * float(reached.abs().nansum())
        finally:
            self.ledger.held, self.ledger.undistributed = kept


def _first_that_reaches(outputs: Any, found: Sequence[tuple[str, Any]]) -> str:
    """Return the first name whose output reaches the model's; of one that cut the graph it is not known, and it counts.

    Args:
        outputs: What the model returned.
        found: Names, and what these functions returned.
    """
    parts = [outputs] if isinstance(outputs, Tensor) else list(outputs.values())
    ends = [part for part in tensors(parts, {}) if live(part)]
    starts = [output for _, output in found if live(output)]
    if not starts:
        return found[0][0] if found else ""
    flows = iter(torch.autograd.grad(ends, starts, [_noise(end) for end in ends], allow_unused=True))
    for name, output in found:
        if not live(output) or ((flow := next(flows)) is not None and flow.any()):
            return name
    return ""


def _noise(like: Tensor) -> Tensor:
    """Return numbers of their own from N(0, 1), the same at each call."""
    draw = torch.Generator(like.device).manual_seed(0)
    return torch.randn(like.shape, generator=draw, dtype=like.dtype, device=like.device)


def _skipped(name: str) -> bool:
    """Return whether a function is not examined: those in place, and softmax, whose rule notes what it loses."""
    return name in ("__setitem__", "softmax") or (name.endswith("_") and not name.endswith("__"))


def _with_leaves(value: Any, leaves: list[Tensor]) -> Any:
    """Return an argument with each live tensor replaced by a leaf of its own."""
    if live(value):
        leaves.append(value.detach().requires_grad_())
        return leaves[-1]
    if isinstance(value, (list, tuple)) and any(map(live, value)):
        return type(value)([_with_leaves(part, leaves) for part in value])
    return value
