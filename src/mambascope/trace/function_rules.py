"""Propagation rules for the functions that a model's own code calls, whatever module it calls them in.

Relevance is gradient times input, so it is conserved where every function is linear in what it reads. The model's own
code runs; each call of a function of torch that is not linear is answered in its forward value, with a backward pass
that holds part of it constant:

* **Activations** with f(0) = 0 (SiLU, GELU, ReLU, ReLU², tanh) keep their secant f(a)/a (MambaLRP; Achtibat et al.,
  arXiv 2402.05602: the identity rule).
* **Weights** with f(0) ≠ 0 (σ, softplus, exp) are constants: they have no root, so the secant has a pole at 0 and would
  hand on any amount; they say how much of a message passes and are none themselves. So are the softmax over a router's
  scores and all that follows from it.
* **Products** of branches that all carry relevance give each an equal share (the uniform rule).
* **Statistics** of norms (square roots, deviations, denominators) are constants (Ali et al., arXiv 2202.07304); the
  mean that a LayerNorm subtracts is linear and is kept.
* **Attention's softmax** is constant, so that only values carry tokens (Ali et al.); or it is differentiated, as
  AttnLRP does: its shares then add up to less or more than what reaches it, and the rest is noted (`BiasLedger`).

What is added to a live tensor and comes from weights alone is noted as a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mambascope.operators.frozen import half, secant
from mambascope.trace import statistic_rules
from mambascope.trace.elementary import Elementary, Function, live, tensors
from mambascope.trace.rules import PropagationRules

#: A small argument, at which the secant is close to its limit at 0: central differences leave its square.
SMALL = 1e-3


def _in_place(function: Function, changed: Tensor, value: Tensor) -> Tensor:
    """Return the value, written into the tensor that the function was to change if it works in place."""
    name = function.__name__
    return changed.copy_(value) if name.endswith("_") and not name.endswith("__") else value


def _out_of_place(function: Function) -> Function:
    """Return the form of a function that leaves its arguments as they are."""
    name = function.__name__
    return getattr(torch.Tensor, name[:-1]) if name.endswith("_") and not name.endswith("__") else function


def _product(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a product; each branch that carries relevance gets an equal share."""
    branches = sum(live(value) for value in tensors(args, kwargs))
    if branches < 2 or not mode.rules.gate:
        return function(*args, **kwargs)
    return _in_place(function, args[0], half(_out_of_place(function)(*args, **kwargs), branches))


def _quotient(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a quotient whose denominator is constant."""
    below = 0 if function.__name__ in ("__rdiv__", "__rtruediv__", "reciprocal") else 1
    if mode.rules.norm and len(args) > below and live(args[below]):
        args = (*args[:below], args[below].detach(), *args[below + 1 :])
    return function(*args, **kwargs)


def _sum(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a sum or a difference; note what was added to a live tensor."""
    first, second = (*args, kwargs.get("other"))[:2]
    one_is_constant = live(first) != live(second)  # before the call, which may change the first
    output = function(*args, **kwargs)
    if one_is_constant:
        name, factor = function.__name__.strip("_"), float(kwargs.get("alpha", 1))
        first_sign = -1.0 if name == "rsub" else 1.0
        second_sign = factor * (-1 if name in ("sub", "subtract", "isub") else 1)
        mode.note(*((first, output, first_sign) if live(second) else (second, output, second_sign)))
    return output


def _sum_and_product(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return β c + α a b of torch.addmm and the like."""
    added, *factors = args
    if not (live(factors[0]) and live(factors[1]) and mode.rules.gate):
        output = function(*args, **kwargs)
    else:
        zero = torch.zeros_like(added)
        product = half(function(zero, *factors, **kwargs))
        output = product + added * (kwargs.get("beta", 1))
    if output.requires_grad and not live(added):
        mode.note(added, output, float(kwargs.get("beta", 1)))
    return output


def _linear(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the output of a linear layer or a convolution; note its bias."""
    output = _product(mode, function, args, kwargs)
    bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
    if output.requires_grad and bias is not None:
        mode.note(bias, output, axis=output.ndim - 1 if function.__name__ == "linear" else 1)
    return output


def _activation(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return an activation: its secant if it has its root at 0, else constant."""
    x, others = (args[0], args[1:]) if args else (kwargs["input"], ())
    settings = {name: value for name, value in kwargs.items() if name not in ("input", "inplace")}
    if not live(x):  # a power whose exponent is live
        output = function(*args, **kwargs)
        return output.detach() if mode.rules.scan else output
    if any(value.numel() > 1 for value in tensors(others, settings)):
        return function(*args, **kwargs)
    out_of_place = _out_of_place(function)
    inplace = kwargs.get("inplace") is True
    output = activated(mode.rules, lambda value: out_of_place(value, *others, **settings), x)
    if output is None:
        return function(*args, **kwargs)
    return x.copy_(output) if inplace else _in_place(function, x, output)


def activated(rules: PropagationRules, function: Function, x: Tensor) -> Tensor | None:
    """Return an elementwise function of a live tensor under propagation rules; None if no rule changes it."""
    probe = x.new_tensor([0.0, SMALL, -SMALL], dtype=torch.promote_types(x.dtype, torch.float32))
    with torch.no_grad():
        at_zero, above, below = function(probe).tolist()
    if at_zero == 0:
        if not rules.silu:
            return None
        return secant(x, function(x.detach()), (above - below) / (2 * SMALL))
    return function(x.detach()) if rules.scan else None


def _power(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a power: whole ones are activations, all others statistics."""
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    whole = isinstance(exponent, (int, float)) and exponent >= 1 and function.__name__ != "__rpow__"
    return (_activation if whole or live(exponent) else statistic_rules.statistic)(mode, function, args, kwargs)


def _concatenation(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return parts side by side; note those that come from weights alone."""
    output = function(*args, **kwargs)
    parts = args[0] if args else kwargs["tensors"]
    if output.requires_grad and mode.ledger is not None:
        axis, start = kwargs.get("dim", args[1] if len(args) > 1 else 0), 0
        for part in parts:
            size, name = part.shape[axis], mode.ledger.name_of(part)
            if not live(part) and name is not None:
                mode.ledger.note_added(name, part, output, _Narrow(axis, start, size))
            start += size
    return output


@dataclass(frozen=True)
class _Narrow:
    """A part of a tensor along an axis."""

    axis: int
    start: int
    size: int

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient.narrow(self.axis, self.start, self.size)


def _gated_linear_unit(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a ⊙ σ(b), with σ(b) constant."""
    if not mode.rules.scan:
        return function(*args, **kwargs)
    a, b = args[0].chunk(2, dim=kwargs.get("dim", args[1] if len(args) > 1 else -1))
    return a * torch.sigmoid(b.detach())


def _interpolation(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a + w (b - a), with w constant."""
    if mode.rules.scan and len(args) > 2 and live(args[2]):
        args = (*args[:2], args[2].detach())
    return function(*args, **kwargs)


def _named(rule: Callable[..., Any], names: str) -> dict[str, Callable[..., Any]]:
    return dict.fromkeys(names.split(), rule)


#: What answers each function of torch that is not linear, or that adds a constant, by the function's name.
RULES: dict[str, Callable[..., Any]] = {
    **_named(_product, "mul multiply __mul__ __rmul__ mul_ matmul __matmul__ __rmatmul__ mm bmm mv dot einsum outer"),
    **_named(_product, "inner tensordot"),
    **_named(_quotient, "div true_divide divide __truediv__ __rtruediv__ __rdiv__ div_ reciprocal"),
    **_named(_sum, "add add_ __add__ __radd__ sub subtract sub_ __sub__ __rsub__ rsub"),
    **_named(_sum_and_product, "addmm baddbmm addbmm addcmul"),
    **_named(_linear, "linear conv1d conv2d conv3d"),
    **_named(_activation, "silu gelu relu relu_ relu6 elu selu celu mish hardswish hardtanh softsign tanh"),
    **_named(_activation, "tanh_ tanhshrink softshrink hardshrink sigmoid sigmoid_ logsigmoid hardsigmoid softplus"),
    **_named(
        _activation, "square clamp clamp_ clip clamp_min clamp_max sin cos erf atan exp exp_ exp2 expm1 log log1p"
    ),
    **_named(_power, "pow pow_ __pow__ __rpow__ float_power"),
    **_named(statistic_rules.statistic, "rsqrt sqrt norm vector_norm linalg_norm linalg_vector_norm var std"),
    **_named(statistic_rules.weight, "logsumexp logaddexp cumprod prod log_softmax logcumsumexp"),
    **_named(statistic_rules.softmax, "softmax"),
    **_named(statistic_rules.attention, "scaled_dot_product_attention"),
    **_named(statistic_rules.layer_norm, "layer_norm"),
    **_named(statistic_rules.group_norm, "group_norm"),
    **_named(statistic_rules.rms_norm, "rms_norm"),
    **_named(statistic_rules.unit, "normalize"),
    **_named(statistic_rules.batch_norm, "batch_norm"),
    **_named(_concatenation, "cat concat concatenate"),
    **_named(_gated_linear_unit, "glu"),
    **_named(_interpolation, "lerp"),
}
