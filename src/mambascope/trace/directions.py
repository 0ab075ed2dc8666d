"""A readout's direction in the residual stream: before the final norm and, where it differs, after every block.

The statistics of norms are frozen, so that a logit is linear in the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import UnsupportedModelError
from mambascope.families import find_mixers
from mambascope.inputs.checks import check_inputs
from mambascope.readouts import first_order, read
from mambascope.trace.biases import BiasLedger
from mambascope.trace.differentiate import Gradients, depends, detached, differentiable, leaf_at_tokens, texts_in
from mambascope.trace.following import following
from mambascope.trace.propagation_rules import is_norm
from mambascope.trace.rules import PropagationRules
from mambascope.trace.running import call, in_texts, running


def logit_direction(model: nn.Module, readout: Callable[[Any], Float[Tensor, " b"]], **inputs: Any) -> Gradients:
    """Return the residual stream before the final norm as `embeddings`, and the readout's direction in it.

    The norm's statistics are frozen, so that a logit is linear in the stream. Arguments and errors as in
    `differentiate`.

    Raises:
        UnsupportedModelError: if the model has no final norm that mambascope can find.
    """
    return next(directions(model, [readout], **inputs))


def directions(
    model: nn.Module, readouts: Sequence[Callable[[Any], Float[Tensor, " b"]]], **inputs: Any
) -> Iterator[Gradients]:
    """Yield `logit_direction` for several readouts of one forward pass."""
    leaves: list[Tensor] = []
    with running(model, eager=True) as own, ExitStack() as stack:
        check_inputs(own, inputs)
        ledger = BiasLedger(own, texts_in(inputs))
        with ExitStack() as passing:
            passing.enter_context(differentiable(own, PropagationRules(norm=True), ledger))
            mixers = find_mixers(own)
            if any(family.renews for _, _, family in mixers):
                streams = passing.enter_context(following(own, mixers))
                inputs = passing.enter_context(leaf_at_tokens(own, inputs, []))
                passing.enter_context(_noted_before(final_norm(own), leaves, ledger))
            else:
                streams = []
                passing.enter_context(_leaf_before(final_norm(own), leaves))
            scored = passing.enter_context(_head_output(own))
            outputs = call(own, inputs)
        stack.enter_context(torch.enable_grad())
        logits = getattr(outputs, "logits", None)
        capped: list[Tensor] = []
        if scored and isinstance(logits, Tensor) and scored[-1] is not logits:
            capped = [scored[-1], logits]
        found = []
        for number, readout in enumerate(readouts, start=1):
            bound = in_texts(readout, inputs)
            value = depends(read(bound, outputs))
            flow, *flows = torch.autograd.grad(
                value.sum(), [*leaves, *capped, *streams], retain_graph=number < len(readouts), allow_unused=True
            )
            bent, along = _bend(capped, flows[: len(capped)]), tuple(flows[len(capped) :])
            found.append((value.detach(), first_order(bound, outputs, value), flow, ledger.taken(), bent, along))
    for value, linear, flow, biases, bent, along in found:
        stream = leaves[0].detach()
        yield Gradients(detached(outputs), value, stream, flow, linear, biases=biases, at_streams=along, bent=bent)


def _bend(capped: Sequence[Tensor], flows: Sequence[Tensor | None]) -> Float[Tensor, " b"] | None:
    """Return the readout to first order in the logits less the same in the head's output, given its gradients there."""
    parts = [(part, flow) for part, flow in zip(capped, flows, strict=True) if flow is not None]
    if len(parts) < 2:
        return None
    head, logits = ((part.detach().double() * flow).flatten(1).sum(dim=1) for part, flow in parts)
    return logits - head.to(logits.device)


@contextmanager
def _head_output(own: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the head that returns the logits returns inside the block, if the model says which it is."""
    found: list[Tensor] = []
    head = own.get_output_embeddings() if isinstance(own, transformers.PreTrainedModel) else None
    if not isinstance(head, nn.Module):
        yield found
        return
    handle = head.register_forward_hook(lambda _, __, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def final_norm(model: nn.Module) -> nn.Module:
    """Return the norm after a model's last layer: the last norm among the direct children of its base model.

    Where that has none, as in wrappers around a language model, it is that of the decoder inside.

    Raises:
        UnsupportedModelError: if there is none.
    """
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    norms = [module for module in base.children() if is_norm(module)]
    decoder = model.get_decoder() if isinstance(model, transformers.PreTrainedModel) else model
    if not norms and isinstance(decoder, nn.Module) and decoder is not model:
        return final_norm(decoder)
    if not norms:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no norm after its last layer, so its logits are not read from one residual "
            "stream"
        )
    return norms[-1]


@contextmanager
def _noted_before(part: nn.Module, leaves: list[Tensor], ledger: BiasLedger) -> Iterator[None]:
    """Keep the input of a module, of which a part is an input of the graph, and forget the biases before it."""

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        leaves.append(args[0])
        ledger.begin()

    handle = part.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _leaf_before(part: nn.Module, leaves: list[Tensor]) -> Iterator[None]:
    """Make the input of a module the leaf of the graph."""

    def cut(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        leaves.append(args[0].detach().requires_grad_())
        return (leaves[0], *args[1:])

    handle = part.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
