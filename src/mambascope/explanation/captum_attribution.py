"""Every method under captum's interface, `attribute(inputs, target=…)`, for code that is written for captum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.arguments import flag
from mambascope.attribution import Attribution
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation.defaults import default_method, has_head
from mambascope.explanation.explaining import explain
from mambascope.families import find_mixers
from mambascope.inputs.checks import check_inputs
from mambascope.inputs.preparation import reads_pictures
from mambascope.methods.registry import METHODS, find_method
from mambascope.numbering import LayersAsked, read_layers, shown, whole_number, whole_numbers
from mambascope.positions import positions_in
from mambascope.trace.private_copy import plain_model
from mambascope.trace.running import call, running

try:
    from captum.attr import Attribution as CaptumInterface
    from captum.log import log_usage  # logs nothing; NoiseTunnel calls what it wraps
except ImportError:
    raise InputError("CaptumAttribution needs captum, which is not installed: pip install mambascope[captum]") from None


class CaptumAttribution(CaptumInterface):
    """A method of mambascope as one of captum's attribution algorithms.

    Its `attribute` takes and returns what captum's do, so captum's metrics and NoiseTunnel work with it. Each text or
    picture of a batch is explained by itself, as `explain` does it.

    Attributes:
        forward_func: The function that is explained, for captum's metrics: `forward_func(inputs, attention_mask=None)`
            returns the logits of all tokens after the position (of all classes, for a classifier), (b, v).

    Args:
        model: A stock model of a supported family, see `explain`.
        method: The name of a method; by default that of `explain`.
        position: For a language model, the position after which the target is predicted; negative numbers count back
            from each text's own last token; by default the last.
        layer: For methods that score layers, the layers whose mean is returned; see `explain`.

    Raises:
        InputError: if captum is not installed (on import), or the method, position or layer cannot be used.
        UnsupportedModelError: if mambascope cannot read the model.
    """

    def __init__(
        self, model: nn.Module, method: str | None = None, *, position: int | None = None, layer: LayersAsked = "all"
    ) -> None:
        self.model = plain_model(model)
        find_mixers(self.model)
        layers = read_layers(layer)
        self.method = find_method(
            default_method(self.model, has_head(self.model), layer=layers) if method is None else method
        )
        self.position = None if position is None else whole_number(position, "position")
        self.layer = layers
        super().__init__(self._logits)

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: scores are what tokens contribute, not how much changing them would change."""
        return True

    def has_convergence_delta(self) -> bool:
        """Return whether the method has terms that add up to the number explained."""
        return self.method.conserves

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        target: int | Tensor | list[int] | None = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Return the scores of inputs, on their device and in their shape.

        Args:
            inputs: Token ids (b, L), or for a vision model pixels (b, c, h, w) as the model reads them; alone or in a
                tuple of one, and the scores then are too.
            target: The token or class to explain, by number: one for all, or one each as a list or tensor (b,). By
                default each text's likeliest one. Methods that score a position take none.
            additional_forward_args: For padded texts, their attention mask (b, L), alone or in a tuple.
            return_convergence_delta: Return also, for each text, by how much its terms (tokens, biases and others) miss
                the logit that they add up to, (b,).

        Returns:
            Scores (b, L) of texts; of pictures (b, c, h, w): a patch's score, or that of a pixel from methods that go
            down to pixels, is spread evenly over its values, so sums are kept. A class token's belongs to no pixel.
            With `return_convergence_delta`, (scores, delta).

        Raises:
            InputError: if the inputs, targets or mask have another form, or the method has no terms that add up.
            UnsupportedModelError: as `explain`, or if the model does not say where its patches lie.
        """
        alone = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
        given = self._named(alone, additional_forward_args)
        if flag(return_convergence_delta, "return_convergence_delta") and not self.method.conserves:
            able = ", ".join(one.name for one in METHODS.values() if one.conserves)
            raise InputError(f"{self.method.name} has no terms that add up to the logit; choose one of {able}")
        scores, deltas = [], []
        for text, number in enumerate(_targets(target, len(alone))):
            row = {name: value[text : text + 1] for name, value in given.items()}
            result = explain(
                self.model, None, row, method=self.method.name, target=number, position=self.position,
                layer=self.layer, progress=False,
            )  # fmt: skip
            scores.append(_over_values(result, alone.shape[1:]) if alone.ndim == 4 else result.row())
            if return_convergence_delta:
                terms, value = result.diagnostics["terms"], result.diagnostics["value"]
                deltas.append(sum(terms.values()) - value)
        found = torch.stack(scores).to(alone.device)
        answer = (found,) if isinstance(inputs, tuple) else found
        return (
            (answer, torch.tensor(deltas, dtype=torch.float32, device=alone.device))
            if return_convergence_delta
            else answer
        )

    def _logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Float[Tensor, "b v"]:
        given = self._named(inputs, attention_mask)
        with running(self.model) as own:
            check_inputs(own, given)
            logits = getattr(call(own, given), "logits", None)
        if not isinstance(logits, Tensor):
            raise InputError(f"{type(self.model).__name__} has no head, so there are no logits to compare scores with")
        if logits.ndim == 2:
            return logits
        at = -1 if self.position is None else self.position
        places = positions_in(attention_mask, (logits.shape[0], logits.shape[1]), at, "position")
        return logits[torch.arange(len(logits), device=logits.device), places[:, 0].to(logits.device)]

    def _named(self, inputs: Any, mask: Any) -> dict[str, Tensor]:
        """Return a batch by the names that the model calls its parts."""
        pictures = reads_pictures(self.model)
        floats, axes = (True, 4) if pictures else (False, 2)
        form = "pixels of shape (b, c, h, w)" if pictures else "token ids of shape (b, L)"
        fits = isinstance(inputs, Tensor) and inputs.ndim == axes and inputs.is_floating_point() == floats
        if not fits or not len(inputs):
            raise InputError(f"{type(self.model).__name__} reads {form}, found {shown(inputs)}")
        mask = mask[0] if isinstance(mask, tuple) and len(mask) == 1 else mask
        if mask is None:
            return {"pixel_values" if pictures else "input_ids": inputs}
        if pictures or not isinstance(mask, Tensor) or mask.shape != inputs.shape:
            raise InputError(
                f"additional_forward_args may hold a text's attention mask, as large as its ids, found {shown(mask)}"
            )
        return {"input_ids": inputs, "attention_mask": mask}


def _targets(target: Any, texts: int) -> Sequence[int | None]:
    """Return the target of each text."""
    if target is None:
        return [None] * texts
    numbers = None if isinstance(target, tuple) else whole_numbers(target, "target")
    if numbers is None or len(numbers) not in (1, texts):
        raise InputError(
            f"target must be the number of a token or class, or a list of {texts}, one for each text, found "
            f"{shown(target)}"
        )
    return numbers * (texts // len(numbers))


def _over_values(result: Attribution, shape: torch.Size) -> Float[Tensor, "c h w"]:
    """Return a picture's scores for each of its values, which add up to those of its patches, or of its pixels."""
    (colours, height, width), grid = shape, result.grid
    if grid is None:
        raise UnsupportedModelError(
            f"the {len(result.tokens)} tokens of {result.model.class_name} are not whole patches of its picture with "
            "at most one class token, so scores cannot be laid over it"
        )
    if result.pixels is not None:
        return (result.pixels / colours).expand(colours, height, width)
    patches = result.picture().flatten() / (colours * grid.patch**2)
    spread = patches.expand(1, grid.patch**2, len(patches))
    covered = F.fold(spread, grid.size, kernel_size=grid.patch, stride=grid.stride)[0]
    padded = F.pad(covered, (0, width - grid.size[1], 0, height - grid.size[0]))
    return padded.expand(colours, height, width)
