"""What flows into biases: each constant times the gradient where it is added, collected during the same backward pass.

With all propagation rules, every part of a model is linear in its input and its bias together, so the relevance of the
tokens and that of the biases add up to the readout. One number is kept per text and bias, never the gradient itself.
Position and token-type embeddings are biases too: they are added to the stream and no token carries them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import UnsupportedModelError

#: The attribute of a tensor that was computed from weights alone, with their name.
MADE_FROM = "_mambascope_made_from"


class BiasLedger:
    """Sums of constant times gradient, filled while a backward pass runs.

    Attributes:
        texts: Number of texts that the model reads.
        held: The relevance of every constant that took part, in each text, by its name in the model.
        undistributed: Relevance that a rule does not hand on to what a function read, by the function's name.

    All sums are on the device of the model's first weight, wherever the others are.
    """

    def __init__(self, model: nn.Module, texts: int) -> None:
        self.texts = texts
        self.held: dict[str, Float[Tensor, " b"]] = {}
        self.undistributed: dict[str, Float[Tensor, " b"]] = {}
        constants = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self._names = {id(tensor): name for name, tensor in constants}
        self._kept = [tensor for _, tensor in constants]  # so that no other tensor gets one of their identities
        self._device = next((tensor.device for tensor in self._kept), None)
        self._begun = object()

    def begin(self) -> None:
        """Forget what was noted so far: it comes before the tokens that relevance is traced back to."""
        self._begun = object()

    def taken(self) -> dict[str, Float[Tensor, " b"]]:
        """Return the relevance held so far, and start from zero."""
        held, self.held = self.held, {}
        return held

    def name_of(self, tensor: Any) -> str | None:
        """Return the name of a weight, or of the weight that a tensor was computed from; None for anything else."""
        return self._names.get(id(tensor)) or getattr(tensor, MADE_FROM, None)

    def note(self, bias: Tensor, output: Tensor, axis: int) -> None:
        """Credit a bias with its product with the gradient that will reach an output to which it was added.

        Args:
            bias: The parameter.
            output: The output to which it was added, texts first.
            axis: The axis of the output along which the bias runs.
        """
        along = bias.detach().reshape(-1, *[1] * (output.ndim - 1 - axis))
        self.note_added(self.name_of(bias) or "unnamed", along, output)

    def note_added(
        self, name: str, constant: Tensor, output: Tensor, part: Callable[[Tensor], Tensor] = lambda gradient: gradient
    ) -> None:
        """Credit a constant that was added to an output and is spread over its axes.

        Args:
            name: Its name.
            constant: What was added.
            output: What it was added to, or the sum.
            part: Given the gradient at the output, returns that where the constant was added.
        """
        self._refuse_mixed_texts(name)
        constant = constant.detach()
        self._hold("held", name, output, lambda gradient: self._product(constant, part(gradient)))

    def note_signed(self, bias: Tensor, forms: tuple[Tensor, Tensor], value: Tensor, output: Tensor, axis: int) -> None:
        """Credit a bias that enters an output in two forms: one where `value` is above zero, one elsewhere."""
        above, below = (form.detach().reshape(-1, *[1] * (output.ndim - 1 - axis)) for form in forms)

        def product(gradient: Tensor) -> Float[Tensor, " b"]:
            high = gradient.masked_fill(value <= 0, 0.0)
            return self._product(above, high) + self._product(below, gradient - high)

        self._hold("held", self.name_of(bias) or "unnamed", output, product)

    def note_difference(self, name: str, output: Tensor, read: Tensor, *, hands_on: bool) -> None:
        """Credit what reaches an output and does not go on to the one tensor that was read.

        Args:
            name: The name of what lies between the two.
            output: What a part of the model returned.
            read: What it read, and nothing else did.
            hands_on: Whether all of it goes on but for biases; else it is `undistributed`.
        """
        into = "held" if hands_on else "undistributed"
        written, taken = output.detach(), read.detach()
        self._hold(into, name, output, lambda gradient: self._product(written, gradient))
        self._hold(into, name, read, lambda gradient: -self._product(taken, gradient))

    def _hold(self, into: str, name: str, output: Tensor, product: Callable[[Tensor], Float[Tensor, " b"]]) -> None:
        """Add what arrives at an output to one of the two sums, once it arrives."""
        if output.requires_grad:
            output.register_hook(partial(self._arrived, into, name, product, self._begun))

    def _arrived(
        self, into: str, name: str, product: Callable[[Tensor], Float[Tensor, " b"]], begun: object, gradient: Tensor
    ) -> None:
        if begun is self._begun:
            sums, found = getattr(self, into), product(gradient.detach()).to(self._device)
            sums[name] = sums[name] + found if name in sums else found

    def _product(self, constant: Tensor, gradient: Tensor) -> Float[Tensor, " b"]:
        """Return, for each text, the sum of a constant times the gradient, in float64."""
        shape = (1,) * (gradient.ndim - constant.ndim) + tuple(constant.shape)
        spread = [axis for axis in range(1, gradient.ndim) if shape[axis] == 1]
        sums = gradient.sum(dim=spread, keepdim=True, dtype=torch.float64) if spread else gradient.double()
        products = sums * constant.reshape(shape).double()
        products = products.masked_fill(sums == 0, 0.0)  # a mask's infinity times nothing is nothing
        rows = products.reshape(len(products), -1).sum(dim=1)
        if len(rows) % self.texts:
            raise UnsupportedModelError(
                f"a bias is added to {len(rows)} rows that do not fall into {self.texts} texts; explain the texts one "
                "by one"
            )
        return rows if len(rows) == self.texts else rows.view(self.texts, -1).sum(dim=1)

    def _refuse_mixed_texts(self, name: str) -> None:
        if self.texts > 1 and "experts" in name.split("."):
            raise UnsupportedModelError(
                f"{name} is added to tokens of {self.texts} texts in the order of the experts, so its relevance cannot "
                "be told apart by text; explain the texts one by one"
            )
