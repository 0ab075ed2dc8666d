"""Models with layers on several devices: everything gives what it gives on one, and no operation mixes devices.

The devices are taken on trust (`tests/support/placed.py`); accelerate's hooks, which move what a layer reads, are real.
"""

import dataclasses
import functools
from functools import partial

import pytest
import torch

from hybrids import HYBRIDS, hybrid_model
from mambascope import capture, explain, head_gallery, methods, readouts, write_maps
from mambascope.errors import MambascopeError
from mambascope.explanation.runner import score, score_every
from mambascope.methods.registry import METHODS
from mambascope.theory import heads, memory
from mambascope.trace import text_in_pieces
from models import FAMILIES, stock_model, stock_transformer
from placed import CPU, DEVICES, Placed, spread

LENGTH = 9
READOUT, SECOND = readouts.token(-1, 7, foil=3), readouts.token(4, 5)
#: Scans, a scan with heads, layers of two kinds, shared attention that feeds a mixer, parallel mixers, delta rules.
MODELS = ["mamba", "mamba2", "bamba", "zamba", "falcon_h1", "qwen3_next"]


def model_of(family):
    if family in FAMILIES:
        return stock_model(family)
    return hybrid_model(family) if family in HYBRIDS else stock_transformer(family)


def texts(device=CPU, padded=False):
    ids = torch.randint(1, 50, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % 50
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    more = {"attention_mask": mask.to(device)} if padded else {}
    return [{"input_ids": one.to(device), **more} for one in (ids, changed)]


@functools.cache
def on_one(family, padded=False):
    return [capture(model_of(family), **one) for one in texts(padded=padded)]


@functools.cache
def on_two(family):
    placed = Placed()
    with placed:
        return placed, spread(model_of(family), placed)


@functools.cache
def traced_on_two(family, padded=False):
    """Captures, to be made and used inside the block of the family's `Placed`."""
    traces = [capture(on_two(family)[1], **one) for one in texts(DEVICES[0], padded)]
    assert {block.x.device for block in traces[0].layers} == set(DEVICES)
    assert max(traces[0].reconstruction_error) < 1e-5  # float32 sums of a few dozen terms
    return traces


def last(trace):
    return len(trace.layers) - 1


#: What a method of the registry is asked for; those that it has.
ASKED = {
    "row": lambda method, trace: [method.row(trace, layer, 5) for layer in range(len(trace.layers))],
    "map": lambda method, trace: [method.map(trace, layer) for layer in range(len(trace.layers))],
    "band": lambda method, trace: method.band(trace, last(trace), slice(2, 5)),
    "score": lambda method, trace: method.score(trace, READOUT, "published"),
    "score_many": lambda method, trace: method.score_many(trace, [READOUT, SECOND]),
    "score_copies": lambda method, trace: method.score_copies(
        dataclasses.replace(trace, inputs={"input_ids": trace.input_ids.expand(2, -1)}),
        readouts.OneEach((READOUT, SECOND)),
    ),
    "score_spans": lambda method, trace: method.score_spans(trace, READOUT, [(0, 3), (3, 5)]),
    "whole_map": lambda method, trace: method.whole_map(trace),
}
#: Public functions and options that the registry does not call.
CALLS = {
    "contributions": lambda trace, other: methods.contributions(trace, last(trace), 4),
    "latim": lambda trace, other: methods.latim(trace),
    "latim in bfloat16": lambda trace, other: methods.latim(trace, precision="bfloat16"),
    "latim_error": lambda trace, other: methods.latim_error(trace, methods.latim(trace) + 1),
    "sketched_latim": lambda trace, other: methods.sketched_latim(trace, sketch=4, exact=2),
    "alti_logit": lambda trace, other: methods.alti_logit(trace, READOUT).conservation_error < 1e-5,
    "alti_logit in part": lambda trace, other: methods.alti_logit(trace, READOUT, traced_share=0.6),
    "alti_logit by maps": lambda trace, other: methods.alti_logit(
        trace, READOUT, maps=[methods.alti(trace, layer) for layer in range(last(trace))]
    ),
    "alti_rollout_row": lambda trace, other: methods.alti_rollout_row(trace, [3, -1], value_bias="source"),
    "rollout": lambda trace, other: methods.rollout(trace, channels="max", absolute=True, normalise=True, discard=0.5),
    "reference code": lambda trace, other: methods.rollout_row(trace, -1, variant="reference-code"),
    "reference code of a readout": lambda trace, other: methods.mamba_attribution(
        trace, READOUT, variant="reference-code"
    ),
    "logit_lens": lambda trace, other: methods.logit_lens(trace, (2, -1)),
    "knockout": lambda trace, other: methods.knockout(
        trace, READOUT, layers=(last(trace), last(trace)), sources=[1, 3], targets=[8]
    ),
    "occlusion by a mean": lambda trace, other: methods.occlusion(trace, READOUT, replacement="mean"),
    "occlusion by deletion": lambda trace, other: methods.occlusion(trace, READOUT, replacement="delete"),
    "patching of streams": lambda trace, other: methods.patching(trace, other, READOUT, what="stream"),
    "patching of mixers": lambda trace, other: methods.patching(trace, other, READOUT, what="mixer"),
    "patching of states": lambda trace, other: methods.patching(trace, other, READOUT, what="state"),
    "mamba_lrp": lambda trace, other: methods.mamba_lrp(trace, READOUT).conservation_error < 1e-4,
    "integrated_gradients": lambda trace, other: methods.integrated_gradients(trace, READOUT, steps=3, baseline="mean"),
    "rows of a runner": lambda trace, other: score(trace, METHODS["latim"], [READOUT, SECOND]).whole,
    "maps of a runner": lambda trace, other: score_every(trace, METHODS["latim"], precision="bfloat16").whole,
    "memory": lambda trace, other: [memory.memory(trace, layer) for layer in range(len(trace.layers))],
    "heads": lambda trace, other: heads.heads(trace.model, trace.input_ids.repeat(2, 2)),
}


def numbers(found):
    """The tensors and numbers in a result, on the CPU."""
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        names = [one.name for one in dataclasses.fields(found) if one.name not in ("outputs", "error", "conservation")]
        return [value for name in names for value in numbers(getattr(found, name))]
    if isinstance(found, dict):
        return [value for name in found if not name.endswith("_error") for value in numbers(found[name])]
    if isinstance(found, (list, tuple)):
        return [value for one in found for value in numbers(one)]
    if isinstance(found, torch.Tensor):
        return [found.detach().cpu().double()]
    return [torch.tensor(found, dtype=torch.float64)] if isinstance(found, (bool, int, float)) else []


def outcome(call, *args):
    """The numbers that a call returns, or the words with which it refuses."""
    torch.manual_seed(0)
    try:
        return numbers(call(*args))
    except MambascopeError as error:
        return f"{type(error).__name__}: {error}"


def check_same(one, two, bound=1e-4):
    """Hold results on two devices to those on one: the same operations, of which some sum in another order.

    On the processor, convolutions before scans are our own. What is left of a sum is its rounding: of numbers as large
    as the largest in the result.
    """
    if isinstance(one, str) or isinstance(two, str):
        assert one == two
        return
    assert one
    rounding = bound / 10 * max(1, *(float(each.nan_to_num().norm()) for each in one))
    for expected, found in zip(one, two, strict=True):
        assert found.shape == expected.shape
        assert torch.equal(found.isnan(), expected.isnan())
        size = expected.nan_to_num().norm()
        assert (found - expected).nan_to_num().norm() <= bound * size + rounding


def readable(family):
    trace = on_one(family)[0]
    return [
        method for method in METHODS.values() if method.reads({kind for block in trace.layers for kind in block.kinds})
    ]


@pytest.mark.product
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", [*MODELS, "gpt2"])
def test_every_method_reads_layers_on_two_devices(family, name):
    method, placed = METHODS[name], on_two(family)[0]
    if method not in readable(family):
        pytest.skip("it cannot read this kind of mixer")
    for padded in (False, True):
        for what, ask in ASKED.items():
            if getattr(method, what) is None or (padded and what not in ("row", "map", "score", "whole_map")):
                continue
            one = outcome(partial(ask, method), on_one(family, padded)[0])
            with placed:
                two = outcome(partial(ask, method), traced_on_two(family, padded)[0])
            check_same(one, two)


@pytest.mark.product
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("family", MODELS)
def test_every_function_reads_layers_on_two_devices(family, name):
    one = outcome(CALLS[name], *on_one(family))
    with on_two(family)[0]:
        two = outcome(CALLS[name], *traced_on_two(family))
    check_same(one, two)


@pytest.mark.parametrize("family", ["mamba2", pytest.param("zamba", marks=pytest.mark.slow)])
def test_a_prompt_is_explained_on_two_devices(family, tmp_path):
    def explained(model, device):
        inputs = texts(device)[0]
        asked = ["alti-logit", "mamba-attribution", "mamba-lrp", "knockout"]
        results = explain(model, None, inputs, method=asked, target=7, progress=False)
        every = explain(model, None, inputs, method="latim", positions="all", progress=False)
        grown = write_maps(tmp_path / f"{device.type}.safetensors", model, None, inputs, method="latim", progress=False)
        rows = explain(model, None, inputs, method=["latim", "rollout"], position=5, progress=False)
        checked = explain(model, None, inputs, method="alti-logit", target=7, verify=2, progress=False)
        gallery = head_gallery(model, None, inputs)
        return [[one.scores for one in (*results, every, grown, *rows, checked)], gallery]

    one = outcome(explained, model_of(family), CPU)
    placed, model = on_two(family)
    with placed:
        two = outcome(explained, model, DEVICES[0])
    assert not isinstance(one, str)
    check_same(one, two)


@pytest.mark.parametrize("family", MODELS[:3])
def test_a_long_text_runs_piece_by_piece_on_two_devices(family, monkeypatch):
    monkeypatch.setattr(text_in_pieces, "LONG", 40)
    monkeypatch.setattr(text_in_pieces, "PIECE", 32)

    def long(model, device):
        ids = texts(device)[0]["input_ids"].repeat(1, 8)
        trace = capture(model, input_ids=ids)
        found = methods.knockout(trace, READOUT, spans=[(30, 50), (60, 71)]).scores
        return methods.mamba_lrp(trace, READOUT).scores, found

    one = outcome(long, model_of(family), CPU)
    placed, model = on_two(family)
    with placed:
        two = outcome(long, model, DEVICES[0])
    assert not isinstance(one, str)
    check_same(one, two)


# --- the devices themselves: what torch refuses, and what it allows ---


def mixed(here, there, on_cpu):
    return {
        "a sum": lambda: here + there,
        "a sum in place": lambda: here.clone().add_(there),
        "with the CPU": lambda: here * on_cpu,
        "an answer elsewhere": lambda: torch.sum(here[None], dim=0, out=on_cpu.clone()),
        "a stack": lambda: torch.stack([here, there]),
        "a product": lambda: torch.einsum("i,i->", here, there),
        "a comparison": lambda: torch.equal(here, there),
        "an index": lambda: on_cpu[torch.tensor([0]).to(here.device)],
        "a single number of another device": lambda: on_cpu * here.sum(),
        "a number changed on the CPU": lambda: torch.tensor(2.0).add_(here.sum()),
        "a choice": lambda: torch.where(there > 0, here, 0.0),
    }


@pytest.mark.parametrize("name", mixed(*torch.ones(3, 3)))
def test_operations_between_devices_are_refused(name):
    with Placed():
        here, there = (torch.ones(3, device=device) for device in DEVICES)
        with pytest.raises(RuntimeError, match=r"same device|device"):
            mixed(here, there, torch.ones(3))[name]()
    with pytest.raises(TypeError), Placed():
        torch.ones(3, device=DEVICES[0]).numpy()


def test_what_is_made_and_moved_is_where_it_was_asked_for():
    first, second = DEVICES
    with Placed():
        here, there, on_cpu = torch.ones(3, device=first), torch.ones(3, device=second), torch.ones(3)
        assert [one.device for one in (here, there, on_cpu)] == [first, second, CPU]
        for one in (here * torch.tensor(2.0), here[1:], here.new_zeros(2), torch.zeros_like(here), here.double()):
            assert one.device == first
        for one in (here.to(second), here.to(there), on_cpu.to(device=second), torch.arange(3, device=there.device)):
            assert one.device == second
        assert here.to(first) is here
        assert here.cpu().device == torch.from_numpy(on_cpu.numpy()).device == CPU
        here[:2] = there[:2] + 1
        assert here.device == first
        assert here.tolist() == [2, 2, 1]
        assert here[torch.tensor([0])].device == first
        leaf = torch.ones(3, device=first, requires_grad=True)
        (flow,) = torch.autograd.grad((leaf.to(second) * there * 2).cpu().sum(), leaf)
        assert flow.device == first
        assert flow.tolist() == [2, 2, 2]
    assert here.device == CPU
