"""What is measured, and beside what: the floor for the same work, plain loops, dense tensors, the stock model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mambascope import readouts
from mambascope.bench import forms
from mambascope.bench.measuring import product, write
from mambascope.bench.settings import Setting
from mambascope.brief import brief
from mambascope.methods.hidden_attention import hidden_attention
from mambascope.methods.implicit_attention import implicit_attention
from mambascope.methods.latim import latim, latim_row
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.rollout import rollout, rollout_row
from mambascope.trace.capture import capture

#: A call to be timed.
Call = Callable[[], Any]


@dataclass(frozen=True)
class Beside:
    """Something else to do the same work with, or the least that it must cost.

    Attributes:
        name: What it is.
        call: Given the setting, returns the call, and how many times its seconds it would take for this work.
        longest: Most tokens that it is run with; ours is then measured on as many.
        held: Given the setting, about how many bytes it takes; None where that is little.
        memory: Whether to measure its memory too.
    """

    name: str
    call: Callable[[Setting], tuple[Call, float]]
    longest: int | None = None
    held: Callable[[Setting], int] | None = None
    memory: bool = False

    __repr__ = brief


@dataclass(frozen=True)
class Case:
    """One thing that users wait for.

    Attributes:
        title: What it is, in a clause.
        layers: How many layers of the model it needs; None for all.
        ours: Given the setting, returns the call.
        beside: What it is measured beside.
        answer: Given the setting, returns what is checked against float64.
        expected: Given a setting in float64, returns what it should be.
        longest: Most tokens that it is run with.
    """

    title: str
    layers: int | None
    ours: Callable[[Setting], Call]
    beside: tuple[Beside, ...]
    answer: Callable[[Setting], Tensor]
    expected: Callable[[Setting], Tensor]
    longest: int | None = None

    __repr__ = brief


def stock_forward(setting: Setting) -> Call:
    """Return the stock model's own pass."""

    @torch.no_grad()
    def call() -> Any:
        return setting.model(input_ids=setting.ids, use_cache=False)

    return call


def stock_gradient(setting: Setting) -> Call:
    """Return the stock model's own pass forward and backward, from one logit to the embeddings."""

    def call() -> Any:
        embeddings = setting.model.get_input_embeddings()(setting.ids).detach().requires_grad_()
        logits = setting.model(inputs_embeds=embeddings, use_cache=False).logits
        return torch.autograd.grad(logits[0, -1, 7], embeddings)[0]

    return call


def own_forward(setting: Setting) -> Call:
    """Return our own pass: a capture without its self-check."""
    return lambda: capture(setting.model, input_ids=setting.ids, check=False)


def _once(call: Callable[[Setting], Call]) -> Callable[[Setting], tuple[Call, float]]:
    return lambda setting: (call(setting), 1.0)


def _product(operations: Callable[[Any, float], float]) -> Beside:
    """Return a matrix product with as many operations as these, given a layer's map and the number of pairs."""

    def call(setting: Setting) -> tuple[Call, float]:
        large, own = product(str(setting.ids.device))
        pairs = setting.length * (setting.length + 1) / 2
        return large, operations(setting.operator, pairs) / own

    return Beside("floor: a matrix product as large", call)


def _written(setting: Setting) -> tuple[Call, float]:
    """Return the writing of as many bytes as all matrices of a layer have."""
    large, own = write(str(setting.ids.device))
    return large, setting.operator.scan.maps * setting.length**2 * setting.operator.x.element_size() / own


def _of_scan(operator: Any, pairs: float) -> float:
    return 2 * pairs * operator.scan.state_size * operator.scan.maps


def _of_output(operator: Any, pairs: float) -> float:
    return float(2 * pairs * operator.inner_width * len(operator.W_o))


def _readout(setting: Setting) -> Any:
    return readouts.token(setting.length - 1, 7)


OWN_PASS = Beside("floor: one forward pass of ours", _once(own_forward))
LOOP_OF_ROW = "a plain loop over sources"
LOOP, DENSE = "a plain loop over pairs", "dense tensors of all pairs"
#: Most tokens for which every pair's decays are multiplied anew: the cost is cubic.
PUBLISHED, LONGEST_PUBLISHED = "the published loop, each pair's decays anew", 128

#: Everything that can be measured, by name.
CASES: dict[str, Case] = {
    "capture": Case(
        "a capture of the whole model, with its self-check",
        None,
        lambda s: lambda: capture(s.model, input_ids=s.ids),
        (
            Beside("the stock forward pass", _once(stock_forward), memory=True),
            Beside(
                "with the full self-check", _once(lambda s: lambda: capture(s.model, input_ids=s.ids, check="full"))
            ),
            Beside("without a self-check", _once(own_forward)),
        ),
        lambda s: s.trace.outputs.logits,
        lambda s: stock_forward(s)().logits,
    ),
    "hidden-attention": Case(
        "hidden attention of one layer, averaged over channels or heads, all pairs",
        1,
        lambda s: lambda: hidden_attention(s.trace, 0, channels="mean"),
        (
            _product(_of_scan),
            Beside(PUBLISHED, _once(lambda s: lambda: forms.published(s.operator.scan).mean(dim=0)), LONGEST_PUBLISHED),
            Beside(LOOP, _once(lambda s: lambda: forms.looped_mean(s.operator.scan)), longest=256),
            Beside(
                DENSE,
                _once(lambda s: lambda: forms.dense(s.operator.scan).mean(dim=0)),
                longest=256,
                held=lambda s: forms.dense_bytes(s.operator.scan),
                memory=True,
            ),
        ),
        lambda s: hidden_attention(s.trace, 0, channels="mean")[0],
        lambda s: forms.looped_mean(s.trace.operator(0).scan),
    ),
    "channels": Case(
        "hidden attention of one layer, the matrix of every channel or head",
        1,
        lambda s: lambda: hidden_attention(s.trace, 0),
        (
            Beside("floor: writing as many bytes", _written),
            Beside(PUBLISHED, _once(lambda s: lambda: forms.published(s.operator.scan)), LONGEST_PUBLISHED),
            Beside(LOOP, _once(lambda s: lambda: forms.looped(s.operator.scan)), longest=256),
            Beside(
                DENSE,
                _once(lambda s: lambda: forms.dense(s.operator.scan)),
                longest=256,
                held=lambda s: forms.dense_bytes(s.operator.scan),
                memory=True,
            ),
        ),
        lambda s: hidden_attention(s.trace, 0)[0],
        lambda s: forms.looped(s.trace.operator(0).scan),
        longest=256,
    ),
    "implicit-attention": Case(
        "implicit attention of one layer, averaged over channels, all pairs",
        1,
        lambda s: lambda: implicit_attention(s.trace, 0, channels="mean"),
        (_product(_of_scan),),
        lambda s: implicit_attention(s.trace, 0, channels="mean")[0],
        lambda s: implicit_attention(s.trace, 0)[0].mean(dim=0),
    ),
    "latim": Case(
        "LaTIM of one layer, all pairs",
        1,
        lambda s: lambda: latim(s.trace, 0),
        (
            _product(_of_output),
            Beside(LOOP, _once(lambda s: lambda: forms.looped_contributions(s.operator)), longest=64),
            Beside(
                DENSE,
                _once(lambda s: lambda: forms.dense_contributions(s.operator)),
                longest=256,
                held=lambda s: forms.contribution_bytes(s.operator),
                memory=True,
            ),
        ),
        lambda s: latim(s.trace, 0)[0],
        lambda s: forms.looped_contributions(s.trace.operator(0)),
    ),
    "latim-row": Case(
        "LaTIM of one layer, one target",
        1,
        lambda s: lambda: latim_row(s.trace, 0, s.length - 1),
        (OWN_PASS, Beside(LOOP_OF_ROW, _once(lambda s: lambda: forms.looped_row(s.operator)), longest=256)),
        lambda s: latim_row(s.trace, 0, s.length - 1)[0],
        lambda s: forms.looped_row(s.trace.operator(0)),
    ),
    "rollout": Case(
        "rollout of one target through all layers",
        None,
        lambda s: lambda: rollout_row(s.trace, s.length - 1),
        (
            OWN_PASS,
            Beside("all layers' matrices multiplied", _once(lambda s: lambda: rollout(s.trace)), longest=1024),
        ),
        lambda s: rollout_row(s.trace, s.length - 1),
        lambda s: rollout(s.trace)[:, -1],
    ),
    "mamba-lrp": Case(
        "MambaLRP of one target through all layers",
        None,
        lambda s: lambda: mamba_lrp(s.trace, _readout(s)),
        (
            OWN_PASS,
            Beside("the stock forward and backward pass", _once(stock_gradient), longest=64, memory=True),
        ),
        lambda s: mamba_lrp(s.trace, _readout(s)).scores,
        lambda s: mamba_lrp(s.trace, _readout(s)).scores,
    ),
}
