"""Propagation rules for parts of a model that follow one as a whole: scans, mixers known by their map, γ in layers.

What else a model computes is answered function by function (`mambascope.trace.elementary`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from mambascope.errors import ReconstructionError
from mambascope.families import AttentionFamily, Family, MixerFamily, PlainFamily
from mambascope.families.family import StandIn
from mambascope.families.patch_points import PatchPoint
from mambascope.operators.frozen import (
    frozen_ratio,
    frozen_scan,
    gamma_stand_in,
    half,
    secant_silu,
    sparse_rows,
)
from mambascope.trace.biases import BiasLedger
from mambascope.trace.continued import Continued
from mambascope.trace.elementary import Elementary, live
from mambascope.trace.function_rules import activated
from mambascope.trace.mixer_calls import consumed, input_of, tensors_read
from mambascope.trace.rules import GRADIENT, PropagationRules
from mambascope.trace.scanning import read_call, relative_error

#: Largest relative error of a frozen part against the model's own; 2e-2 in half precision, which rounds to 8 bits.
NORM_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}


#: Classes of activations whose outputs depend on more than one number each.
NOT_ELEMENTWISE = ("Softmax", "Softmin", "Softmax2d", "LogSoftmax", "GLU", "MultiheadAttention")

#: (module, args, kwargs, output) → what takes the place of the output, or None to leave it.
Answer = Callable[..., Any]


@dataclass(frozen=True)
class RuleInterceptor:
    """Replaces scans, convolutions and gates by their differentiable forms under propagation rules.

    Attributes:
        mode: What answers elementary functions, with the propagation rules and the ledger; not those called here.
        families: The family that reads each patch point.
        states: What a piece of a text takes over from earlier ones, and leaves; None where a whole text runs.
    """

    mode: Elementary
    families: dict[PatchPoint, Family]
    states: Continued | None = None

    @property
    def rules(self) -> PropagationRules:
        """The propagation rules: what is frozen."""
        return self.mode.rules

    @property
    def ledger(self) -> BiasLedger | None:
        """Where the relevance of biases is noted, or None."""
        return self.mode.ledger

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of a call of a patch point."""
        if point not in self.families:
            assert self.states is not None
            return self.states.attended(original, args, kwargs)
        family = self.families[point]
        with self.mode.outside():
            if point == family.scan_point:
                return self._scan(family, args, kwargs)
            if point == family.gate_point:
                o, z = args
                return gated(o, z, self.rules)
            return self._convolve(family, original, *args, **kwargs)

    def _scan(self, family: Family, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = read_call(family, args, kwargs)
        working = torch.promote_types(call.s.dtype, torch.float32)
        s, coefficients = call.s.to(working), call.coefficients
        frozen = self.rules.scan
        constants = {name: value.detach() for name, value in coefficients.items()} if frozen else coefficients
        scan = family.scan(constants, working)
        if self.states is not None:
            mixed = self.states.scanned(scan, s, frozen)
        else:
            mixed = frozen_scan(scan, s) if frozen else scan.apply(s)
        o = mixed + scan.skip * s
        if call.bias is not None:
            o = o + call.bias.to(working)
            if self.ledger is not None:
                self.ledger.note(call.bias, o, 2)
        if coefficients.get("z") is not None:
            o = gated(o, coefficients["z"].to(working), self.rules)
        return call.give(o.to(call.s.dtype))

    def _convolve(
        self,
        family: Family,
        original: Callable[..., Any],
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the convolution of (b, channels, tokens), with its activation."""
        known = activation in (None, "silu", "swish")

        def convolve(values: Tensor) -> Tensor:
            if not known:
                return original(values, weight, bias, activation, **kwargs)
            return _linear(family.convolve, values, weight, bias, 1, self.rules, self.ledger)

        states = self.states
        a = convolve(hidden_states) if states is None else states.convolved(convolve, hidden_states, weight.shape[-1])
        if activation is None or not known:
            return a
        return secant_silu(a) if self.rules.silu else F.silu(a)


def gated(o: Tensor, z: Tensor, rules: PropagationRules, activation: Callable[[Tensor], Tensor] = F.silu) -> Tensor:
    """Return o ⊙ activation(z) under propagation rules; a gate other than SiLU's has no secant, and is frozen."""
    if activation is not F.silu:
        gate = activation(z)
        return o * (gate.detach() if rules.gate else gate)
    product = o * (secant_silu(z) if rules.silu else F.silu(z))
    return half(product) if rules.gate else product


def _linear(
    layer: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    axis: int,
    rules: PropagationRules,
    ledger: BiasLedger | None,
) -> Tensor:
    """Return a linear layer's output under propagation rules; note its bias, which runs along `axis` of the output."""
    value = layer(x, weight, bias)
    if not rules.gamma:
        if bias is not None and ledger is not None:
            ledger.note(bias, value, axis)
        return value
    stand_in, forms = gamma_stand_in(layer, x, weight, bias, rules.gamma)
    if bias is not None and forms is not None and ledger is not None:
        ledger.note_signed(bias, forms, value.detach(), stand_in, axis)
    return frozen_ratio(value, stand_in)


def hooks(
    model: nn.Module,
    mixers: list[tuple[str, nn.Module, MixerFamily]],
    mode: Elementary,
) -> Iterator[tuple[nn.Module, Callable[..., Any], Callable[..., Any]]]:
    """Yield the modules that follow a rule as a whole, and softmax attention layers, each with two hooks.

    One is for before its forward, one for after it. Inside the modules that follow a rule as a whole no call is
    answered; what the second hook returns takes the place of their output.
    """
    rules, ledger = mode.rules, mode.ledger
    for _, mixer, family in mixers:
        if isinstance(family, AttentionFamily):
            yield mixer, mode.begin_attention, mode.end_attention
    for module, answer in _answers(model, mixers, rules, ledger).items():
        yield module, mode.leave, partial(_answered, mode, answer)


def _answered(
    mode: Elementary, answer: Answer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """Return what takes the place of a module's output.

    Where a model is on several devices, hooks see what a module was given where the one before it left it.
    """
    device = (output[0] if isinstance(output, tuple) else output).device
    try:
        here = (value.to(device) if isinstance(value, Tensor) else value for value in args)
        return answer(module, tuple(here), kwargs, output)
    finally:
        mode.enter()


def _answers(
    model: nn.Module,
    mixers: list[tuple[str, nn.Module, MixerFamily]],
    rules: PropagationRules,
    ledger: BiasLedger | None,
) -> dict[nn.Module, Answer]:
    """Return what answers each module that follows a rule as a whole: (module, args, kwargs, output) → output."""
    answers: dict[nn.Module, Answer] = {}
    for name, mixer, family in mixers:
        if isinstance(family, PlainFamily) and rules.scan:
            answers[mixer] = partial(_as_its_map, name, family, ledger)
        if not isinstance(family, Family):
            continue
        if family.stand_in is not None:
            answers[mixer] = partial(_stood_in, family.stand_in)
        norm = getattr(mixer, family.norm_name, None)
        if family.norm_factor is not None and norm is not None and not rules.norm and rules != GRADIENT:
            answers[norm] = partial(_gated_norm, family, rules)
    head = model.get_output_embeddings() if isinstance(model, transformers.PreTrainedModel) else None
    if isinstance(head, nn.Linear):
        answers[head] = partial(_sparse_head, ledger)
    for module in model.modules():
        if is_activation(module) and (rules.silu or rules.scan):
            answers[module] = partial(_activated, rules)
        elif is_norm(module) and not rules.norm and rules != GRADIENT and module not in answers:
            answers[module] = partial(_own, ledger)
    if rules.gamma:
        parts = [part for _, mixer, _ in mixers for part in mixer.modules() if isinstance(part, nn.Linear)]
        answers |= {part: partial(_gamma_linear, rules, ledger) for part in parts}
        patches = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
        answers |= {part: partial(_gamma_convolution, rules, ledger) for part in patches}
    return answers


def _stood_in(stand_in: StandIn, mixer: nn.Module, args: tuple[Any, ...], _: Any, output: Tensor) -> Tensor:
    """Return the output of a mixer of a foreign class, whose convolution is not a patch point, from its stand-in."""
    return _checked(mixer, stand_in.mix(mixer, args[0]), output)


def _as_its_map(
    name: str,
    family: PlainFamily,
    ledger: BiasLedger | None,
    mixer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> Any:
    """Return the output of a mixer without patch points from its exact affine map: all but its tokens is constant."""
    given = input_of(args, kwargs)
    tokens = given.view_as(given)  # a tensor that nothing else reads
    working = torch.promote_types(given.dtype, torch.float32)
    first = output[0] if isinstance(output, tuple) else output
    with torch.no_grad():
        captured = consumed(given.detach(), first.detach(), kwargs, tensors_read(name, mixer, family, kwargs))
        frozen = family.affine(mixer, captured, working)
    flat = tokens.flatten(1, 2) if tokens.ndim == 4 else tokens
    y = _checked(mixer, frozen.through(flat.to(working)).view_as(first), first)
    if ledger is not None:
        ledger.note_difference(f"{name}.bias", y, tokens, hands_on=True)
    return (y, *output[1:]) if isinstance(output, tuple) else y


def _gated_norm(
    family: Family, rules: PropagationRules, norm: nn.Module, args: tuple[Any, ...], _: Any, output: Tensor
) -> Tensor | None:
    """Return the output of a norm with a gate, such as Mamba-2's, differentiated where no rule says otherwise."""
    if len(args) < 2:
        return None
    o, z = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in args)
    assert family.norm_factor is not None
    if family.norm_first(norm):
        return _checked(norm, gated(o * family.norm_factor(o, norm), z, rules, family.gate_activation), output)
    product = gated(o, z, rules, family.gate_activation)
    return _checked(norm, product * family.norm_factor(product, norm), output)


def _own(ledger: BiasLedger | None, module: nn.Module, _: Any, __: Any, output: Tensor) -> None:
    """Leave a norm as it is, and note its bias."""
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor) and ledger is not None:
        ledger.note(bias, output, output.ndim - 1)


def _activated(rules: PropagationRules, module: nn.Module, args: tuple[Any, ...], _: Any, output: Tensor) -> Any:
    """Return an activation that its module computes from other functions."""
    forward = type(module).forward
    return activated(rules, lambda x: forward(module, x.clone()), args[0]) if live(args[0]) else None


def _sparse_head(ledger: BiasLedger | None, head: nn.Linear, args: tuple[Any, ...], _: Any, output: Tensor) -> Tensor:
    answer = sparse_rows(args[0], head.weight, output)
    if ledger is not None and head.bias is not None:
        ledger.note(head.bias, answer, answer.ndim - 1)
    return answer


def _gamma_linear(
    rules: PropagationRules, ledger: BiasLedger | None, layer: nn.Linear, args: tuple[Any, ...], _: Any, output: Tensor
) -> Tensor:
    return _linear(F.linear, args[0], layer.weight, layer.bias, output.ndim - 1, rules, ledger)


def _gamma_convolution(
    rules: PropagationRules, ledger: BiasLedger | None, layer: nn.Conv2d, args: tuple[Any, ...], _: Any, output: Tensor
) -> Tensor:
    return _linear(layer._conv_forward, args[0], layer.weight, layer.bias, 1, rules, ledger)


def _checked(part: nn.Module, ours: Tensor, theirs: Tensor) -> Tensor:
    """Return our output for a module if it equals the model's own, up to rounding."""
    error = relative_error(ours.detach(), theirs.detach())
    if not error <= NORM_TOLERANCE.get(theirs.dtype, 2e-2):
        raise ReconstructionError(
            f"{type(part).__name__} does not compute what its class suggests: frozen, its output is off by {error:.1e} "
            f"(transformers {transformers.__version__}, torch {torch.__version__})"
        )
    return ours.to(theirs.dtype)


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm of vectors, by its class."""
    return isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is an elementwise activation without weights of its own."""
    kind = type(module)
    known = kind.__module__ in ("transformers.activations", "torch.nn.modules.activation")
    return known and kind.__name__ not in NOT_ELEMENTWISE and not any(True for _ in module.parameters())
