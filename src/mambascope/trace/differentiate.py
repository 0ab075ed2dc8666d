"""Passes through a stock model that gradients can flow back through, at the cost of a few forward passes.

The model's own code runs; its scans are answered by ours, which have a backward pass, and on request parts of it are
frozen at their forward values: the forward pass stays the same, the backward pass becomes a propagation rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import InputError, ReconstructionError
from mambascope.operators.frozen import (
    frozen_ratio,
    frozen_scan,
    gamma_stand_in,
    half,
    secant_silu,
    sparse_rows,
)
from mambascope.trace.families import Family, find_mixers
from mambascope.trace.running import call, check_inputs, running
from mambascope.trace.scanning import read_call, relative_error
from mambascope.trace.seam import Seam, listening

#: How far a frozen norm may be from the model's own, relative; half precision, 2e-2, rounds its factor to 8 bits.
NORM_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}


@dataclass(frozen=True)
class Rules:
    """Which parts of a model are frozen at their forward values; none of them for the true gradient.

    Attributes:
        silu: The activations after the convolution and in the gate pass their secant σ(a), not their derivative.
        scan: Δ, B and C are constants.
        gate: Each branch of the gate's product takes half of the gradient.
        norm: The statistics of the norms are constants.
        gamma: γ of the generalised LRP-γ rule in the linear and convolution layers of the mixers; 0 leaves them plain.
    """

    silu: bool = False
    scan: bool = False
    gate: bool = False
    norm: bool = False
    gamma: float = 0.0


#: Nothing frozen: the true gradient.
GRADIENT = Rules()


@dataclass(frozen=True, eq=False)
class Gradients:
    """What one forward and one backward pass leave.

    Attributes:
        outputs: What the model returned, cut from the graph.
        value: The scalar that was differentiated, per text.
        embeddings: The embedded tokens.
        at_embeddings: Gradient of `value` there.
        mixers: Name of every mixer, in the order in which they ran, with its output and the gradient there; empty
            unless asked for.
    """

    outputs: Any
    value: Float[Tensor, " b"]
    embeddings: Float[Tensor, "b L E"]
    at_embeddings: Float[Tensor, "b L E"]
    mixers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def differentiate(
    model: nn.Module,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rules: Rules = GRADIENT,
    mixers: bool = False,
    **inputs: Any,
) -> Gradients:
    """Return the gradient of a readout at the embedded tokens, and on request at every mixer's output.

    Args:
        model: A stock model.
        readout: Given the model's outputs, returns one number per text.
        rules: What is frozen.
        mixers: Also keep every mixer's output and the gradient there.
        inputs: Handed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E), `attention_mask` (b, L), …

    Raises:
        InputError: if the inputs cannot be used, or the model's weights are quantised.
        ReconstructionError: if a norm is not what it seems and cannot be frozen.
    """
    check_inputs(model, inputs)
    kept: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(differentiable(model, rules))
        leaves: list[Tensor] = []
        inputs = stack.enter_context(_leaf(model, inputs, leaves))
        if mixers:
            for name, mixer, _ in find_mixers(model):
                handle = mixer.register_forward_hook(partial(_keep, kept, name))
                stack.callback(handle.remove)
        outputs = call(model, inputs)
        value = readout(outputs)
        wanted = [leaves[0], *kept.values()]
        gradients = torch.autograd.grad(value.sum(), wanted, allow_unused=True)
    flows = [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, gradients, strict=True)]
    return Gradients(
        outputs=_detached(outputs),
        value=value.detach(),
        embeddings=leaves[0].detach(),
        at_embeddings=flows[0],
        mixers={name: (kept[name].detach(), flow) for name, flow in zip(kept, flows[1:], strict=True)},
    )


@contextmanager
def differentiable(model: nn.Module, rules: Rules = GRADIENT) -> Iterator[None]:
    """Inside the block this thread's calls of the model can be differentiated with respect to its inputs.

    Raises:
        InputError: if the model's weights are quantised, so that no gradient flows through them.
    """
    refuse_quantised(model)
    mixers = [found for found in find_mixers(model) if isinstance(found[2], Family)]
    families = [family for _, _, family in mixers]
    seams = [family.scan_seam for family in families]
    seams += [family.conv_seam for family in families if family.conv_seam.exists()]
    with ExitStack() as stack:
        stack.enter_context(running(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_constant_weights(model))
        stack.enter_context(listening(_Ruler(rules, {family.scan_seam: family for family in families}), seams))
        for module, hook in _hooks(model, mixers, rules):
            handle = module.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


def refuse_quantised(model: nn.Module) -> None:
    """Raise InputError if the model's weights are stored as integers: gradients cannot flow through them."""
    quantised = getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False)
    if quantised or any(not p.is_floating_point() for p in model.parameters()):
        raise InputError(
            f"this {type(model).__name__} is quantised and gradients do not flow through quantised weights; load it in "
            "float32 or bfloat16, or choose a method that needs the forward pass only"
        )


@dataclass(frozen=True)
class _Ruler:
    """Answers scans and convolutions by their differentiable forms under the rules."""

    rules: Rules
    families: dict[Seam, Family]

    def called(self, seam: Seam, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the answer of a seam."""
        if seam in self.families:
            return self._scan(self.families[seam], args, kwargs)
        return self._convolve(original, *args, **kwargs)

    def _scan(self, family: Family, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
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
        if coefficients.get("z") is not None:
            o = gated(o, coefficients["z"].to(working), self.rules)
        return call.give(o.to(call.s.dtype))

    def _convolve(
        self,
        original: Callable[..., Any],
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the causal convolution of (b, channels, L) with its activation."""
        if activation not in (None, "silu", "swish"):
            return original(hidden_states, weight, bias, activation, **kwargs)
        a = _linear(partial(_causal_conv, length=hidden_states.shape[-1]), hidden_states, weight, bias, self.rules)
        if activation is None:
            return a
        return secant_silu(a) if self.rules.silu else F.silu(a)


def gated(o: Tensor, z: Tensor, rules: Rules) -> Tensor:
    """Return o ⊙ SiLU(z) under the rules."""
    product = o * (secant_silu(z) if rules.silu else F.silu(z))
    return half(product) if rules.gate else product


def _causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, length: int) -> Tensor:
    padded = F.pad(x.to(weight.dtype), (weight.shape[-1] - 1, 0))
    return F.conv1d(padded, weight[:, None], bias, groups=weight.shape[0])[..., :length].to(x.dtype)


def _linear(
    layer: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rules: Rules,
) -> Tensor:
    value = layer(x, weight, bias)
    return frozen_ratio(value, gamma_stand_in(layer, x, weight, bias, rules.gamma)) if rules.gamma else value


def _hooks(
    model: nn.Module, mixers: list[tuple[str, nn.Module, Family]], rules: Rules
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Yield the modules that answer differently under the rules, with the hook that gives their answer."""
    gates = {mixer.norm: family for _, mixer, family in mixers if family.norm_factor}
    for module, family in gates.items():
        yield module, partial(_gated_norm, family, rules)
    head = model.get_output_embeddings() if isinstance(model, transformers.PreTrainedModel) else None
    if isinstance(head, nn.Linear):
        yield head, _sparse_head
    if rules.norm:
        for module in model.modules():
            if module not in gates and isinstance(module, nn.LayerNorm):
                yield module, _frozen_layer_norm
            elif module not in gates and "RMSNorm" in type(module).__name__:
                yield module, _frozen_rms_norm
    if rules.gamma:
        for _, mixer, _ in mixers:
            for part in mixer.modules():
                if isinstance(part, nn.Linear):
                    yield part, partial(_gamma_linear, rules)


def _gated_norm(family: Family, rules: Rules, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Answer for Mamba-2's norm, which is handed the scan's output and z."""
    o, z = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in args)
    product = gated(o, z, rules)
    assert family.norm_factor is not None
    factor = family.norm_factor(product, norm)
    return _checked(norm, product * (factor.detach() if rules.norm else factor), output)


def _frozen_rms_norm(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The classes keep their weight in several ways; what a norm makes of ones tells it."""
    x = args[0].to(torch.promote_types(args[0].dtype, torch.float32))
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0
    weight = type(norm).forward(norm, torch.ones_like(x[:1, :1])) * (1 + epsilon) ** 0.5
    factor = torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + epsilon) * weight
    return _checked(norm, x * factor.detach(), output)


def _frozen_layer_norm(norm: nn.LayerNorm, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The mean is a linear map and stays one; the standard deviation is a constant (Ali et al., arXiv 2202.07304)."""
    x = args[0]
    axes = tuple(range(-len(norm.normalized_shape), 0))
    centred = x - x.mean(dim=axes, keepdim=True)
    scale = torch.rsqrt(centred.pow(2).mean(dim=axes, keepdim=True) + norm.eps).detach()
    frozen = centred * scale
    frozen = frozen if norm.weight is None else frozen * norm.weight
    return _checked(norm, frozen if norm.bias is None else frozen + norm.bias, output)


def _sparse_head(head: nn.Linear, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return sparse_rows(args[0], head.weight, output)


def _gamma_linear(rules: Rules, layer: nn.Linear, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return _linear(F.linear, args[0], layer.weight, layer.bias, rules)


def _checked(norm: nn.Module, ours: Tensor, theirs: Tensor) -> Tensor:
    """Return our answer for a norm if it is the model's own, up to rounding."""
    error = relative_error(ours.detach(), theirs.detach())
    if not error <= NORM_TOLERANCE.get(theirs.dtype, 2e-2):
        raise ReconstructionError(
            f"{type(norm).__name__} is not the norm that its name says: frozen, it differs from itself by {error:.1e} "
            f"(transformers {transformers.__version__}, torch {torch.__version__})"
        )
    return ours.to(theirs.dtype)


@contextmanager
def _leaf(model: nn.Module, inputs: dict[str, Any], leaves: list[Tensor]) -> Iterator[dict[str, Any]]:
    """Make the embedded tokens the leaf of the graph: those given, those of the embedding layer, or a float input."""
    given = [name for name in ("inputs_embeds",) if inputs.get(name) is not None]
    if not given and not isinstance(model, transformers.PreTrainedModel):
        given = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    if given:
        leaf = inputs[given[0]].detach().requires_grad_()
        leaves.append(leaf)
        yield inputs | {given[0]: leaf}
        return

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    handle = model.get_input_embeddings().register_forward_hook(cut)
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def _constant_weights(model: nn.Module) -> Iterator[None]:
    """Let no weight ask for a gradient inside the block: it would cost memory and time."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _keep(kept: dict[str, Tensor], name: str, _: nn.Module, __: Any, output: Any) -> None:
    kept[name] = output[0] if isinstance(output, tuple) else output


def _detached(outputs: Any) -> Any:
    """Return the model's outputs without the graph behind them."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, transformers.utils.ModelOutput):
        return type(outputs)(**{k: v.detach() if isinstance(v, Tensor) else v for k, v in outputs.items()})
    return outputs
