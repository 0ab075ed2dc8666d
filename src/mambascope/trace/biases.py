"""The relevance of biases: each bias times the gradient where it is added, collected during the same backward pass.

With all propagation rules, every part of a model is linear in its input and its bias together, so the relevance of the
tokens and that of the biases add up to the readout. One number is kept per text and bias, never the gradient itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

#: Modules that add a bias along the last axis of their output, and those that add it along the second.
LAST = (nn.Linear, nn.LayerNorm, Conv1D)
SECOND = (nn.Conv1d, nn.Conv2d)


class BiasLedger:
    """Sums of bias times gradient, filled while a backward pass runs.

    Attributes:
        held: The relevance of every bias that took part, in each text, by its name in the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.held: dict[str, Float[Tensor, " b"]] = {}
        self._names = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
        self._begun = object()

    def begin(self) -> None:
        """Forget the biases noted so far: they come before the tokens that relevance is traced back to."""
        self._begun = object()

    def taken(self) -> dict[str, Float[Tensor, " b"]]:
        """Return the relevance held so far, and start from zero."""
        held, self.held = self.held, {}
        return held

    def note(self, bias: Tensor, output: Tensor, axis: int) -> None:
        """Credit a bias with its product with the gradient that will reach an output to which it was added.

        Args:
            bias: The parameter.
            output: The output to which it was added, texts first.
            axis: The axis of the output along which the bias runs.
        """
        self._note(bias, output, partial(_along, bias, axis))

    def note_signed(self, bias: Tensor, forms: tuple[Tensor, Tensor], value: Tensor, output: Tensor, axis: int) -> None:
        """Credit a bias that enters an output in two forms: one where `value` is above zero, one elsewhere."""

        def product(gradient: Tensor) -> Float[Tensor, " b"]:
            above = gradient.masked_fill(value <= 0, 0.0)
            return _along(forms[0], axis, above) + _along(forms[1], axis, gradient - above)

        self._note(bias, output, product)

    def _note(self, bias: Tensor, output: Tensor, product: Callable[[Tensor], Float[Tensor, " b"]]) -> None:
        if not output.requires_grad:
            return
        name, begun = self._names.get(id(bias), "unnamed"), self._begun

        def arrived(gradient: Tensor) -> None:
            if begun is not self._begun:
                return
            found = product(gradient.detach())
            self.held[name] = self.held[name] + found if name in self.held else found

        output.register_hook(arrived)


def bias_hooks(
    model: nn.Module, ledger: BiasLedger, answered: Container[nn.Module]
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Yield the modules of a model that add a bias to their output, each with the hook that notes it.

    Args:
        model: The model.
        ledger: Where biases are noted.
        answered: Modules under a propagation rule that notes their biases itself.
    """
    for module in model.modules():
        bias = getattr(module, "bias", None)
        known = isinstance(module, (*LAST, *SECOND)) or "Norm" in type(module).__name__
        if isinstance(bias, Tensor) and known and module not in answered:
            yield module, partial(_noted, ledger, bias)


def _noted(ledger: BiasLedger, bias: Tensor, module: nn.Module, _: Any, output: Tensor) -> None:
    ledger.note(bias, output, 1 if isinstance(module, SECOND) else output.ndim - 1)


def _along(bias: Tensor, axis: int, gradient: Tensor) -> Float[Tensor, " b"]:
    """Return, for each text, the product of a bias with the gradient summed over all other axes, in float64."""
    others = [k for k in range(1, gradient.ndim) if k != axis]
    sums = gradient.sum(dim=others, dtype=torch.float64) if others else gradient.double()
    return sums @ bias.detach().double()
