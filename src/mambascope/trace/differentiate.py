"""Differentiable passes through a stock model, at the cost of a few forward passes.

The model's own code runs, but with our scans, which have a backward pass; on request, parts of it are frozen at their
forward values: the forward pass stays the same, and the backward pass follows a propagation rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.families import AttentionFamily, Family, MixerFamily, find_mixers
from mambascope.families.patch_points import intercepting
from mambascope.inputs.checks import check_inputs
from mambascope.readouts import first_order, read
from mambascope.trace.biases import BiasLedger
from mambascope.trace.continued import Continued
from mambascope.trace.elementary import Elementary
from mambascope.trace.embedding import reading
from mambascope.trace.footprint import require_pass
from mambascope.trace.function_rules import RULES
from mambascope.trace.mixing import attention_points
from mambascope.trace.propagation_rules import RuleInterceptor, hooks
from mambascope.trace.rules import GRADIENT, PropagationRules
from mambascope.trace.running import call, in_texts, running


@dataclass(frozen=True, eq=False)
class Gradients:
    """The results of one forward and one backward pass.

    Attributes:
        outputs: What the model returned, detached from the graph.
        value: The readout that was differentiated, per text.
        embeddings: The embedded tokens.
        at_embeddings: Gradient of `value` with respect to them.
        first_order: The number that an explanation adds up to: `value`, or a log-probability's linear part.
        mixers: Every mixer's output and the gradient with respect to it, by the mixer's name, in the order in which the
            mixers ran; empty unless asked for.
        attention: The same for the probabilities of softmax attention layers.
        pixels: The pixels of pictures and the gradient with respect to them; None unless asked for.
        biases: The product of every bias that took part with its gradient, by the bias's name in the model; empty
            unless asked for.
        at_streams: The readout's direction in the stream that leaves each block, the mixers' and other parts' outputs
            held constant; empty where it is the same everywhere.
        bent: What the readout owes to a function that is not linear between the head and the logits, such as a soft
            cap: to first order, the readout less this is a sum over what the head returned. None if there is none.
        undistributed: What reached a function and was not handed on by its rule, by the function's name.
    """

    outputs: Any
    value: Float[Tensor, " b"]
    embeddings: Float[Tensor, "b L E"]
    at_embeddings: Float[Tensor, "b L E"]
    first_order: Float[Tensor, " b"]
    mixers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    attention: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    pixels: tuple[Float[Tensor, "b c H W"], Float[Tensor, "b c H W"]] | None = None
    biases: dict[str, Float[Tensor, " b"]] = field(default_factory=dict)
    at_streams: tuple[Float[Tensor, "b L E"], ...] = ()
    bent: Float[Tensor, " b"] | None = None
    undistributed: dict[str, Float[Tensor, " b"]] = field(default_factory=dict)

    __repr__ = brief


def differentiate(
    model: nn.Module,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    rules: PropagationRules = GRADIENT,
    mixers: bool = False,
    pixels: bool = False,
    biases: bool = False,
    **inputs: Any,
) -> Gradients:
    """Return the gradient of a readout at the embedded tokens, and on request at every mixer's output.

    Args:
        model: A stock model.
        readout: Given the model's outputs, returns one number per text.
        rules: The propagation rules: what is frozen.
        mixers: Also keep every mixer's output and its gradient.
        pixels: Continue from the embedded tokens back to the pixels of a picture.
        biases: Also note the relevance of each bias.
        inputs: Passed to the model: `input_ids` (b, L) or `inputs_embeds` (b, L, E), `attention_mask` (b, L), …

    Raises:
        InputError: if the inputs cannot be used, or the model's weights are quantised.
        ReconstructionError: if a norm does not compute what its class suggests, and so cannot be frozen.
        MapTooLargeError: if what the backward pass needs would not fit in memory.
    """
    with running(model, eager=True) as own:
        check_inputs(own, inputs)
        found = find_mixers(own)
        require_pass(own, found, inputs, backward=True)
        watched = found if mixers else []
        ledger = BiasLedger(own, texts_in(inputs)) if biases else None
        leaf = partial(_pixels, own, ledger) if pixels else partial(leaf_at_tokens, own)
        return _differentiate(own, readout, rules, leaf, watched, ledger, inputs)


def _differentiate(
    own: nn.Module,
    readout: Callable[[Any], Tensor],
    rules: PropagationRules,
    leaf: Callable[[dict[str, Any], list[Tensor]], AbstractContextManager[dict[str, Any]]],
    watched: Sequence[tuple[str, nn.Module, MixerFamily]],
    ledger: BiasLedger | None,
    inputs: dict[str, Any],
) -> Gradients:
    kept: dict[str, Tensor] = {}
    probabilities: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(differentiable(own, rules, ledger))
        leaves: list[Tensor] = []
        inputs = stack.enter_context(leaf(inputs, leaves))
        for name, module, family in watched:
            of_attention = probabilities if isinstance(family, AttentionFamily) else None
            handle = module.register_forward_hook(partial(_keep, kept, of_attention, name))
            stack.callback(handle.remove)
        outputs = call(own, inputs)
    readout = in_texts(readout, inputs)
    with torch.enable_grad():  # no rule holds from here on: the readout is differentiated as it is
        value = depends(read(readout, outputs))
        wanted = [*leaves, *kept.values(), *probabilities.values()]
        gradients = torch.autograd.grad(value.sum(), wanted, allow_unused=True)
    flows = [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, gradients, strict=True)]
    pairs = [(tensor.detach(), flow) for tensor, flow in zip(wanted, flows, strict=True)]
    (tokens, at_tokens), *pixels = pairs[: len(leaves)]
    pairs = pairs[len(leaves) :]
    return Gradients(
        outputs=detached(outputs),
        value=value.detach(),
        embeddings=tokens,
        at_embeddings=at_tokens,
        first_order=first_order(readout, outputs, value),
        mixers=dict(zip(kept, map(_in_line, pairs), strict=False)),
        attention=dict(zip(probabilities, pairs[len(kept) :], strict=True)),
        pixels=pixels[0] if pixels else None,
        biases={} if ledger is None else ledger.held,
        undistributed={} if ledger is None else ledger.undistributed,
    )


def texts_in(inputs: dict[str, Any]) -> int:
    """Return the number of texts or pictures among a call's inputs."""
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim > 1)


def depends(value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the number that is differentiated; raises InputError if nothing connects it with the model's outputs."""
    if not value.requires_grad:
        raise InputError("the readout does not depend on what the model returned; read it from its outputs")
    return value


@contextmanager
def differentiable(
    own: nn.Module,
    rules: PropagationRules = GRADIENT,
    ledger: BiasLedger | None = None,
    mode: Elementary | None = None,
    states: Continued | None = None,
) -> Iterator[None]:
    """Make this thread's calls of a private copy differentiable with respect to its inputs inside the block.

    Args:
        own: A private copy of a model, with attention in its eager form.
        rules: The propagation rules.
        ledger: Where the relevance of biases is noted, or None.
        mode: What answers elementary functions, with rules and ledger of its own; by default one with those given.
        states: What enters a piece of a text and leaves it; None for a whole text.
    """
    mixers, mode = find_mixers(own), Elementary(rules, ledger, RULES) if mode is None else mode
    scans = [family for _, _, family in mixers if isinstance(family, Family)]
    points = {point: reader for family in scans for point, reader in family.patch_points.items()}
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        attention = attention_points(mixers) if states is not None else set()
        stack.enter_context(intercepting(RuleInterceptor(mode, points, states), {*points, *attention}))
        for module, before, after in hooks(own, mixers, mode):
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        if mode.rules != GRADIENT or mode.ledger is not None:
            stack.enter_context(mode)
        yield


@contextmanager
def leaf_at_tokens(model: nn.Module, inputs: dict[str, Any], leaves: list[Tensor]) -> Iterator[dict[str, Any]]:
    """Make the embedded tokens the leaf of the graph: those given, those of the embedding layer, or a float input."""
    floats = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    if not isinstance(model, transformers.PreTrainedModel) and floats:
        leaves.append(inputs[floats[0]].detach().requires_grad_())
        yield inputs | {floats[0]: leaves[0]}
        return

    def cut(output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    with reading(model, inputs, cut) as read:
        yield read


@contextmanager
def _pixels(
    model: nn.Module, ledger: BiasLedger | None, inputs: dict[str, Any], leaves: list[Tensor]
) -> Iterator[dict[str, Any]]:
    """Make the pixels the leaf of the graph, and also keep the embedded tokens; these come first."""
    if inputs.get("pixel_values") is None:
        raise InputError("there are no pixels to trace back to: pass pixel_values")
    leaf = inputs["pixel_values"].detach().requires_grad_()

    def note(output: Tensor) -> Tensor:
        leaves.extend((output, leaf))
        if ledger is not None:
            ledger.begin()
        return output

    with reading(model, inputs | {"pixel_values": leaf}, note) as read:
        yield read


def _keep(
    kept: dict[str, Tensor], attention: dict[str, Tensor] | None, name: str, _: nn.Module, __: Any, output: Any
) -> None:
    """Keep a mixer's output, and the probabilities that an attention layer returns with it in eager form.

    Other mixers may return something else there, as a state (MiniMax): for them `attention` is None.
    """
    kept[name] = output[0] if isinstance(output, tuple) else output
    if attention is None or not isinstance(output, tuple) or len(output) < 2:
        return
    if isinstance(output[1], Tensor) and output[1].ndim == 4:
        attention[name] = output[1]


def _in_line(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return an output and its gradient with a grid of tokens flattened to a sequence."""
    output, flow = pair
    return pair if output.ndim == 3 else (output.flatten(1, 2), flow.flatten(1, 2))


def detached(outputs: Any) -> Any:
    """Return the model's outputs, detached from the graph."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, transformers.utils.ModelOutput):
        return type(outputs)(**{k: v.detach() if isinstance(v, Tensor) else v for k, v in outputs.items()})
    return outputs
