"""What of a readout flows into biases: each bias times the gradient where it is added, in the same backward pass.

With all propagation rules every part of a model is linear in its input and its bias together, so that relevance of the
tokens and of the biases add up to the readout. The number is kept per text and per bias, never the gradient itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

#: Parts of a model that add a bias along the last axis of what they return, and those that add it along the second.
LAST = (nn.Linear, nn.LayerNorm, Conv1D)
SECOND = (nn.Conv1d, nn.Conv2d)


class BiasLedger:
    """Sums of bias times gradient, filled while a backward pass runs.

    Attributes:
        held: For every bias that took part, by its name in the model, its relevance in each text.
    """

    def __init__(self, model: nn.Module) -> None:
        self.held: dict[str, Float[Tensor, " b"]] = {}
        self._names = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
        self._begun = object()

    def begin(self) -> None:
        """Forget what was noted so far: it lies before the tokens that relevance goes back to."""
        self._begun = object()

    def taken(self) -> dict[str, Float[Tensor, " b"]]:
        """Return what is held, and begin another sum."""
        held, self.held = self.held, {}
        return held

    def note(self, bias: Tensor, output: Tensor, axis: int) -> None:
        """Credit a bias with its product with the gradient that will arrive at an output it was added to.

        Args:
            bias: The parameter.
            output: What it was added to, texts first.
            axis: The axis of the output that the bias lies along.
        """
        self._note(bias, output, partial(_along, bias, axis))

    def note_signed(self, bias: Tensor, forms: tuple[Tensor, Tensor], value: Tensor, output: Tensor, axis: int) -> None:
        """Credit a bias that stands in an output in two forms: where `value` is above zero, and elsewhere."""

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
    """Yield the parts of a model that add a bias to what they return, with the hook that notes it.

    Args:
        model: The model.
        ledger: Where it is noted.
        answered: Parts that a propagation rule answers for, which notes their biases itself.
    """
    for module in model.modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor) and isinstance(module, (*LAST, *SECOND)) and module not in answered:
            yield module, partial(_noted, ledger, bias)


def _noted(ledger: BiasLedger, bias: Tensor, module: nn.Module, _: Any, output: Tensor) -> None:
    ledger.note(bias, output, output.ndim - 1 if isinstance(module, LAST) else 1)


def _along(bias: Tensor, axis: int, gradient: Tensor) -> Float[Tensor, " b"]:
    """Return, text by text, the product of a bias and the gradient summed over every other axis, in float64."""
    others = [k for k in range(1, gradient.ndim) if k != axis]
    sums = gradient.sum(dim=others, dtype=torch.float64) if others else gradient.double()
    return sums @ bias.detach().double()
