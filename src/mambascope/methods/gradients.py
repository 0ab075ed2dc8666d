"""The gradient family, computed by captum on the embedded tokens: the true gradient, nothing frozen.

* Gradient x input (Shrikumar et al., arXiv 1605.01713): Σ_e x_j[e] ∂f/∂x_j[e].
* Integrated gradients (Sundararajan, Taly & Yan, arXiv 1703.01365, eq. 1 and 3).
* SmoothGrad (Smilkov et al., arXiv 1706.03825, section 3), times input.

The model's own code runs with our scans, which have a backward pass, so each gradient costs a few forward passes.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.families import find_mixers
from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.mamba_lrp import gradient_x_pixels
from mambascope.methods.method import AnyReadout, Method, MethodResult, at_positions, number_of
from mambascope.methods.targets import require_no_padding
from mambascope.numbering import shown
from mambascope.readouts import OneEach, read
from mambascope.trace import Trace
from mambascope.trace.differentiate import depends, differentiable
from mambascope.trace.embedding import embedded, mean_embedding, reading
from mambascope.trace.footprint import require_pass
from mambascope.trace.running import call, in_texts, running

#: Copies of the points of an integral that are held at once: they, their gradients, and both on the way to a sum.
AT_ONCE = 4

#: Tokens per batch, unless the caller gives a number of texts: their graph is kept for the backward pass.
BATCH_TOKENS = 1024


@dataclass(frozen=True, eq=False)
class GradientScores:
    """The effect of each token on a readout, from gradients.

    Attributes:
        scores: Signed, summed over the width of the embedding.
        value: The readout f.
        error: Completeness error |f - f_0 - Σ_j scores_j| / |f - f_0|, with f_0 the readout at the baseline (by default
            zeros): for integrated gradients the error of the integral, for the others the error of the first order.
    """

    scores: Float[Tensor, "b L"]
    value: Float[Tensor, " b"]
    error: Float[Tensor, " b"]

    __repr__ = brief


@checked
def gradient_x_input(trace: Trace, readout: Callable[[Any], Float[Tensor, " b"]]) -> GradientScores:
    """Return gradient times input of every token for a readout.

    Args:
        trace: A capture.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.

    Raises:
        InputError: if captum is not installed, or the model is quantised.
    """
    with _passes(trace, readout) as passes:
        method = _captum().InputXGradient(passes.run)
        leaf = passes.embeddings.clone().requires_grad_()
        return passes.scored(method.attribute(leaf, additional_forward_args=passes.rest))


@checked
def integrated_gradients(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    steps: int = 50,
    baseline: str = "zero",
    batch: int | None = None,
) -> GradientScores:
    """Return integrated gradients of every token for a readout, along the line from a baseline to the embedded text.

    Check the error: along the line from zeros, nearly all change in a model that normalises its stream happens within
    1e-6 of the line's length from zero, where a rule of 50 steps, or 500, may see next to nothing.

    Args:
        trace: A capture.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        steps: Number of points of the Gauss-Legendre rule; increase it if the completeness error is too large.
        baseline: `zero`, a vector of zeros for every token, or `mean`, the mean of all embeddings.
        batch: Texts per batch, at least as many as the trace has; by default as many as make 1024 tokens.

    Raises:
        InputError: if captum is not installed, an option cannot be used, or the model is quantised.
    """
    if baseline not in ("zero", "mean"):
        raise InputError(f"unknown baseline {shown(baseline)}; choose 'zero' or 'mean'")
    with _passes(trace, readout) as passes:
        method = _captum().IntegratedGradients(passes.run)
        texts = len(passes.embeddings)
        start = torch.zeros_like(passes.embeddings)
        require_room((steps, *start.shape), start, "ask for fewer steps, or shorten the text", copies=AT_ONCE)
        if baseline == "mean":
            start += mean_embedding(passes.model).to(start.dtype)
        attributions = method.attribute(
            passes.embeddings,
            baselines=start,
            n_steps=steps,
            internal_batch_size=max(texts, passes.at_a_time(batch)),
            additional_forward_args=passes.rest,
        )
        return passes.scored(attributions, start)


@checked
def smooth_grad(
    trace: Trace,
    readout: Callable[[Any], Float[Tensor, " b"]],
    *,
    noise: float = 0.1,
    samples: int = 25,
    seed: int = 0,
    batch: int | None = None,
) -> GradientScores:
    """Return the gradient averaged over noisy copies of the embedded text, times the text, for every token.

    Every text is smoothed separately, so its scores do not depend on other texts in the batch; the same seed and
    `batch` give the same scores, and the global random state is unchanged.

    Args:
        trace: A capture.
        readout: Given the model's outputs, returns one number per text; see `mambascope.readouts`.
        noise: Standard deviation of the noise, in standard deviations of the text's embeddings. (The paper's unit is
            the range of values, which for embeddings, unlike pixels, depends on outliers.)
        samples: Number of noisy copies of each text.
        seed: Seed of the noise.
        batch: Copies per batch; by default as many as make 1024 tokens.

    Raises:
        InputError: if captum is not installed, an option cannot be used, or the model is quantised.
    """
    if not noise > 0:
        raise InputError(f"noise {noise} is not positive; pass a fraction of the embeddings' standard deviation")
    with _passes(trace, readout) as passes:
        saliency, gradients = _captum().Saliency(passes.run), []
        for row, text in enumerate(passes.embeddings):
            # captum's own noise is drawn from the seed of the whole process, which other threads may be using
            draw = torch.Generator(text.device).manual_seed(seed)
            size, parts = noise * float(passes.own(row).detach().double().std()), []
            for count in map(len, torch.arange(samples).split(passes.at_a_time(batch))):
                given = {"generator": draw, "device": text.device, "dtype": torch.float32}  # one draw for any precision
                shift = torch.normal(0.0, size, (count, *text.shape), **given)
                rest = tuple(value[row].expand(count, *value.shape[1:]) for value in passes.rest)
                noisy = (text + shift).requires_grad_()
                parts.append(saliency.attribute(noisy, abs=False, additional_forward_args=rest))
            gradients.append(torch.cat(parts).mean(dim=0))
        return passes.scored(torch.stack(gradients) * passes.embeddings)


@dataclass(frozen=True, eq=False)
class _Passes:
    """The readout as a function of embeddings and of the texts' other inputs, which captum repeats with them."""

    trace: Trace
    model: nn.Module
    readout: Callable[[Any], Tensor]
    inputs: dict[str, Any]
    embeddings: Tensor

    __repr__ = brief

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs that have a row per text."""
        texts = len(self.embeddings)
        return tuple(
            name
            for name, value in self.inputs.items()
            if name != "inputs_embeds" and isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == texts
        )

    @property
    def rest(self) -> tuple[Tensor, ...]:
        """Those inputs."""
        return tuple(self.inputs[name] for name in self.names)

    def run(self, embeddings: Tensor, *rest: Tensor) -> Tensor:
        """Return the readout of texts with these embeddings."""
        embeddings = embeddings.to(self.embeddings.dtype)  # captum's noise and steps are float32
        given = self.inputs | dict(zip(self.names, rest, strict=True))
        with reading(self.model, given, lambda _: embeddings) as given:
            value = read(in_texts(self.readout, given), call(self.model, given))
        return depends(value) if embeddings.requires_grad else value

    def own(self, row: int) -> Tensor:
        """Return the embeddings of one text without its padding."""
        mask = self.inputs.get("attention_mask")
        return self.embeddings[row] if mask is None else self.embeddings[row, mask[row].bool()]

    def at_a_time(self, batch: int | None) -> int:
        """Return the number of texts per batch."""
        if batch is not None:
            return batch
        return max(1, BATCH_TOKENS // self.embeddings.shape[1])

    def scored(self, attributions: Tensor, start: Tensor | None = None) -> GradientScores:
        """Return the tokens' scores with their completeness error from the baseline `start`, by default zeros."""
        scores = attributions.detach().double().sum(dim=-1)
        require_no_padding(self.trace, scores)
        with torch.no_grad():
            value = self.run(self.embeddings, *self.rest)
            before = self.run(torch.zeros_like(self.embeddings) if start is None else start, *self.rest)
        fall = value.double() - before.double()
        error = (fall - scores.sum(dim=-1)).abs() / fall.abs().clamp_min(1e-300)
        return GradientScores(scores.to(self.embeddings.dtype), value, error)


@contextmanager
def _passes(trace: Trace, readout: Callable[[Any], Float[Tensor, " b"]]) -> Iterator[_Passes]:
    _captum()
    inputs = dict(trace.inputs)
    with running(trace.model, eager=True) as own, differentiable(own):
        require_pass(own, find_mixers(own), inputs, backward=True)
        yield _Passes(trace, own, readout, inputs, embedded(own, inputs))


def _captum() -> Any:
    """Return `captum.attr`, which only these methods need.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise InputError(
            "the gradient methods need captum, which is not installed: pip install mambascope[captum]"
        ) from error


def _results(trace: Trace, found: GradientScores) -> list[MethodResult]:
    """Return each text's scores and evidence."""
    rows = at_positions(trace, found.scores)
    numbers = zip(rows, found.value.tolist(), found.error.tolist(), strict=True)
    return [MethodResult(row[None], {"value": value, "completeness_error": error}) for row, value, error in numbers]


def _scored(trace: Trace, found: GradientScores, pixels: Tensor | None = None) -> MethodResult:
    (result,) = _results(trace, found)
    return result if pixels is None else dataclasses.replace(result, pixels=pixels[0])


def _gradient_x_input(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    number = number_of(readout)
    return _scored(trace, gradient_x_input(trace, number), gradient_x_pixels(trace, number))


def _scored_copies(trace: Trace, readout: OneEach) -> list[MethodResult]:
    return _results(trace, gradient_x_input(trace, readout))


def _integrated_gradients(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    """Integrate from the mean embedding, or from zeros for pictures.

    With RMS norms, nearly all change along the line from zeros happens in its first millionth, which the steps miss.
    """
    baseline = "zero" if trace.input_ids is None else "mean"
    return _scored(trace, integrated_gradients(trace, number_of(readout), baseline=baseline))


def _smooth_grad(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    return _scored(trace, smooth_grad(trace, number_of(readout)))


METHODS = [
    Method(
        "gradient-x-input",
        "the logit's gradient at each embedding, times the embedding",
        "Shrikumar et al. 2017, arXiv 1605.01713",
        signed=True,
        needs="backward",
        score=_gradient_x_input,
        score_copies=_scored_copies,
        passes=4.0,
        asks=True,
        by_place=False,
        reaches_embeddings=True,
        answers=2,
        column="relevance",
    ),
    Method(
        "integrated-gradients",
        "gradients averaged along the line from the mean embedding, times the difference",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        signed=True,
        needs="backward",
        score=_integrated_gradients,
        passes=100.0,
        asks=True,
        by_place=False,
        reaches_embeddings=True,
    ),
    Method(
        "smoothgrad",
        "gradient times input averaged over noisy embeddings",
        "Smilkov et al. 2017, arXiv 1706.03825",
        signed=True,
        needs="backward",
        score=_smooth_grad,
        passes=50.0,
        asks=True,
        by_place=False,
        reaches_embeddings=True,
    ),
]
