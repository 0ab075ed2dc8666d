"""Another thread runs stock passes of the same model while this one explains: neither changes anything for the other.

Hooks on the model and its mixers act in passes of ours too, and look at the whole model then: so what is changed on it
for the time of a pass is seen every time, and not only when the other thread comes at the wrong moment.
"""

import threading
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import nn

from mambascope import capture, explain, methods, readouts
from mambascope.families import find_mixers
from models import FAMILIES, TRANSFORMERS, padded_batch, stock_model, stock_transformer
from rounding import assert_equal_to_rounding
from small_staged_models import small
from vision_models import pictures, vision_mamba

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: Nothing is drawn at random in training mode either.
NO_DROPOUT = {
    "gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
STAGED = ("vmamba", "mambavision")
ALL = (*FAMILIES, *TRANSFORMERS, "vim", *STAGED)


def made(family):
    """Return a small model as a user would have it in a training loop, and one text or picture."""
    if family in FAMILIES:
        model = stock_model(family)
    elif family == "vim":
        model = vision_mamba()
    elif family in STAGED:
        model = small(family, torch.float32)
    else:
        model = stock_transformer(family, **NO_DROPOUT.get(family, {}))
    model.requires_grad_(True)
    for module in model.modules():
        module.training = not isinstance(module, nn.modules.batchnorm._BatchNorm)
    if family == "vit":
        return model, {"pixel_values": torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    if family in STAGED:
        side = 16 if family == "vmamba" else 48
        return model, {"pixel_values": torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(0))}
    if family == "vim":
        return model, {"pixel_values": pictures(model)}
    return model, {"input_ids": padded_batch(7, 1, "left")[0]}


@cache
def quiet(family):
    """Return a model, its inputs, and the logits of a stock pass while nothing else runs."""
    model, inputs = made(family)
    return model, inputs, model(**inputs).logits.detach()


WHAT = ("mode", "gradients of weights", "hooks and parts", "attributes", "attention")


def state(model):
    """Return what passes used to change on a model for a while: nothing of it may ever differ."""
    modules = list(model.modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_modules")
    return (
        [module.training for module in modules],
        [parameter.requires_grad for parameter in model.parameters()],
        [(name, key, id(value)) for module in modules for name in hooks for key, value in vars(module)[name].items()],
        [len(vars(module)) for module in modules],
        getattr(model.config, "_attn_implementation", None),
    )


@contextmanager
def watched(model):
    """Look at the whole model when it begins a pass of ours, and in it at every mixer; yield a list of the changes."""
    changed = []

    def look(*_):
        if threading.current_thread() is threading.main_thread() and state(model) != before:
            changed.append([name for name, now, then in zip(WHAT, state(model), before, strict=True) if now != then])

    parts = [model, *(mixer for _, mixer, _ in find_mixers(model))]
    handles = [part.register_forward_pre_hook(look) for part in parts]
    before = state(model)
    try:
        yield changed
        look()
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def stock_passes(model, inputs):
    """Run stock passes in another thread, at least one whole one; yield the list of their logits, or of an error."""
    found, over, begun = [], threading.Event(), threading.Event()

    def run():
        try:
            while not over.wait(0.002) or len(found) < 2:
                logits = model(**inputs).logits
                found.append(logits if logits.requires_grad else RuntimeError("without a graph"))
                begun.set()
        except Exception as error:
            found.append(error)
            begun.set()

    thread = threading.Thread(target=run, name="stock passes")
    thread.start()
    begun.wait(60)
    try:
        yield found
    finally:
        over.set()
        thread.join(60)


def held_beside(family, call):
    """Make a call beside stock passes, and hold these and the model's state to what they are without it."""
    model, inputs, expected = quiet(family)
    with watched(model) as changed, stock_passes(model, inputs) as found:
        call(model, inputs)
    assert not changed, f"the model was changed for a while: {changed[0]}"
    for logits in found:
        if isinstance(logits, Exception):
            raise AssertionError("a stock pass failed") from logits
        assert_equal_to_rounding(logits, expected, "logits of a stock pass and of a quiet model")


KINDS = {family: {"attention"} if family in TRANSFORMERS else {"scan"} for family in ALL}
KINDS["mambavision"] = {"scan", "attention"}


def supports(family, method):
    """Return whether a method explains the prediction of a family's small model."""
    refused = {
        "bert": method.name == "alti-logit",  # its norms come after the sum
        "vmamba": not method.by_stage or method.takes_means,
        "mambavision": not method.by_stage or method.reaches_embeddings,  # its first stage mixes no tokens
    }
    return method.reads(KINDS[family]) and not refused.get(family, False)


SUPPORTED = [
    pytest.param(family, name, id=f"{family}-{name}")
    for family in ALL
    for name, method in methods.METHODS.items()
    if supports(family, method)
]


@pytest.mark.parametrize(("family", "name"), SUPPORTED)
def test_every_method(family, name):
    held_beside(family, lambda model, inputs: explain(model, None, inputs, method=name, progress=False))


CALLS = {
    "capture": lambda model, inputs: capture(model, **inputs),
    "direction": lambda model, inputs: capture(model, **inputs).logit_direction(readouts.token(-1, 3)),
    "several directions": lambda model, inputs: explain(
        model, None, inputs, method="alti-logit", positions=[2, 4], progress=False
    ),
    "generate": lambda model, inputs: explain(model, None, inputs, generate=2, method="latim", progress=False),
    "page": lambda model, inputs: explain(model, None, inputs, views=True, progress=False),
}


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2", "llama"])
@pytest.mark.parametrize("entry", CALLS)
def test_other_entry_points(family, entry):
    held_beside(family, CALLS[entry])
