"""Propagation rules: parts of a stock model with an unchanged forward pass and a backward pass that is frozen."""

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
from mambascope.families import Family
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
from mambascope.trace.biases import BiasLedger, bias_hooks
from mambascope.trace.scanning import read_call, relative_error

#: Largest relative error of a frozen part against the model's own; 2e-2 in half precision, which rounds to 8 bits.
NORM_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}


@dataclass(frozen=True)
class PropagationRules:
    """Which parts of a model are frozen at their forward values; by default none, which gives the true gradient.

    Attributes:
        silu: Activations after the convolution and in the gate use their secant σ(a) instead of their derivative.
        scan: Δ, B and C are constants.
        gate: Each branch of the gate's product gets half of the gradient.
        norm: The statistics of the norms are constants.
        gamma: γ of the generalised LRP-γ rule in the linear and convolution layers of the mixers, and in the
            convolution that makes a picture's patches; 0 turns the rule off.
    """

    silu: bool = False
    scan: bool = False
    gate: bool = False
    norm: bool = False
    gamma: float = 0.0


#: Nothing frozen: the true gradient.
GRADIENT = PropagationRules()


@dataclass(frozen=True)
class RuleInterceptor:
    """Replaces scans, convolutions and gates by their differentiable forms under propagation rules.

    Attributes:
        rules: The propagation rules: what is frozen.
        families: The family that reads each patch point.
        ledger: Where the relevance of biases is noted, or None.
    """

    rules: PropagationRules
    families: dict[PatchPoint, Family]
    ledger: BiasLedger | None = None

    def called(
        self, point: PatchPoint, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of a call of a patch point."""
        family = self.families[point]
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
        if self.rules.scan:
            constants = {name: value.detach() for name, value in coefficients.items()}
            scan = family.scan(constants, working)
            o = frozen_scan(scan, s) + scan.skip * s
        else:
            scan = family.scan(coefficients, working)
            o = scan.apply(s) + scan.skip * s
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
        if activation not in (None, "silu", "swish"):
            return original(hidden_states, weight, bias, activation, **kwargs)
        a = _linear(family.convolve, hidden_states, weight, bias, 1, self.rules, self.ledger)
        if activation is None:
            return a
        return secant_silu(a) if self.rules.silu else F.silu(a)


def gated(o: Tensor, z: Tensor, rules: PropagationRules, activation: Callable[[Tensor], Tensor] = F.silu) -> Tensor:
    """Return o ⊙ activation(z) under propagation rules; only SiLU has a secant."""
    product = o * (secant_silu(z) if rules.silu and activation is F.silu else activation(z))
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
    mixers: list[tuple[str, nn.Module, Family]],
    rules: PropagationRules,
    ledger: BiasLedger | None = None,
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Yield the modules that propagation rules change, each with the hook that replaces its output.

    Modules whose bias is only noted in the ledger come last, so that their hooks see the replaced outputs.
    """
    for _, mixer, family in mixers:
        if family.stand_in is not None:
            yield mixer, partial(_stood_in, family.stand_in)
    gates: dict[nn.Module, Family] = {mixer.get_submodule(f.norm_name): f for _, mixer, f in mixers if f.norm_factor}
    for module, family in gates.items():
        yield module, partial(_gated_norm, family, rules)
    head = model.get_output_embeddings() if isinstance(model, transformers.PreTrainedModel) else None
    if isinstance(head, nn.Linear):
        yield head, _sparse_head
    if rules.norm:
        for module in model.modules():
            if module not in gates and is_norm(module):
                yield module, _frozen_layer_norm if isinstance(module, nn.LayerNorm) else _frozen_rms_norm
    answered: dict[nn.Module, Callable[..., Any]] = {}
    if rules.gamma:
        parts = [part for _, mixer, _ in mixers for part in mixer.modules()]
        answered = {part: partial(_gamma_linear, rules, ledger) for part in parts if isinstance(part, nn.Linear)}
        patches = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
        answered |= {part: partial(_gamma_convolution, rules, ledger) for part in patches}
    yield from answered.items()
    if ledger is not None:
        yield from bias_hooks(model, ledger, answered)


def _stood_in(stand_in: StandIn, mixer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Return the output of a mixer of a foreign class, whose convolution is not a patch point, from its stand-in."""
    return _checked(mixer, stand_in.mix(mixer, args[0]), output)


def _gated_norm(
    family: Family, rules: PropagationRules, norm: nn.Module, args: tuple[Any, ...], output: Tensor
) -> Tensor:
    """Return the output of a mixer's norm, whose inputs are the scan's output and z."""
    o, z = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in args)
    assert family.norm_factor is not None
    if family.norm_first(norm):
        factor = family.norm_factor(o, norm)
        normed = o * (factor.detach() if rules.norm else factor)
        return _checked(norm, gated(normed, z, rules, family.gate_activation), output)
    product = gated(o, z, rules, family.gate_activation)
    factor = family.norm_factor(product, norm)
    return _checked(norm, product * (factor.detach() if rules.norm else factor), output)


def _frozen_rms_norm(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Return an RMS norm's output with its statistic frozen.

    Classes store the weight in several ways, so it is read off from the norm of a vector of ones.
    """
    x = args[0].to(torch.promote_types(args[0].dtype, torch.float32))
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0
    bias = getattr(norm, "bias", None)
    bias = bias if isinstance(bias, Tensor) else x.new_zeros(())
    weight = (type(norm).forward(norm, torch.ones_like(x[:1, :1])) - bias) * (1 + epsilon) ** 0.5
    factor = torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + epsilon) * weight
    return _checked(norm, x * factor.detach() + bias, output)


def _frozen_layer_norm(norm: nn.LayerNorm, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Return a LayerNorm's output with its standard deviation frozen (Ali et al., arXiv 2202.07304).

    The mean that it subtracts is linear and is kept.
    """
    x = args[0]
    axes = tuple(range(-len(norm.normalized_shape), 0))
    centred = x - x.mean(dim=axes, keepdim=True)
    scale = torch.rsqrt(centred.pow(2).mean(dim=axes, keepdim=True) + norm.eps).detach()
    frozen = centred * scale
    frozen = frozen if norm.weight is None else frozen * norm.weight
    return _checked(norm, frozen if norm.bias is None else frozen + norm.bias, output)


def _sparse_head(head: nn.Linear, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return sparse_rows(args[0], head.weight, output)


def _gamma_linear(
    rules: PropagationRules, ledger: BiasLedger | None, layer: nn.Linear, args: tuple[Any, ...], output: Tensor
) -> Tensor:
    return _linear(F.linear, args[0], layer.weight, layer.bias, output.ndim - 1, rules, ledger)


def _gamma_convolution(
    rules: PropagationRules, ledger: BiasLedger | None, layer: nn.Conv2d, args: tuple[Any, ...], output: Tensor
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
    """Return whether a module is a norm that can be frozen."""
    return isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__
