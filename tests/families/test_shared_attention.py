"""Zamba's graph: attention that layers share, whose output enters the next mixer and not the stream."""

import dataclasses

import pytest
import torch
from torch import nn

from dense_reference import distance
from hybrids import hybrid_model
from mambascope import families, readouts
from mambascope.errors import UnsupportedModelError
from mambascope.methods import METHODS
from mambascope.methods.alti import alti, alti_rollout, alti_row
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.implicit_attention import implicit_attention, implicit_rollout_row
from mambascope.methods.mamba_attribution import mamba_attribution
from mambascope.trace import capture
from mambascope.trace.parts import in_parts
from models import without_downcasts

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH, TARGET = 9, 6
READOUT = readouts.token(TARGET, 3)
#: float64 sums of a few hundred terms in another order.
BOUND = 1e-10
FAMILIES = ("zamba", "zamba2")


def some_ids():
    return torch.randint(1, 50, (1, LENGTH), generator=torch.Generator().manual_seed(0))


def traced(name, dtype=torch.float64):
    with without_downcasts(name):
        return capture(hybrid_model(name, dtype), input_ids=some_ids())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_attention_is_a_layer_of_its_own_with_no_place_in_the_stream(name):
    trace = traced(name)
    kinds = [block.kind for block in trace.layers]
    assert kinds[:3] == ["scan", "attention", "scan"]
    assert [block.aside for block in trace.layers] == [kind == "attention" for kind in kinds]
    assert [block.kind for block in trace.updates] == ["scan"] * len(trace.updates)
    shared, fed = trace.layers[1:3]
    assert fed.fed_by is shared
    assert shared.stream_out is None
    assert "not in the stream" in repr(shared)
    assert torch.equal(shared.stream_in, fed.stream_in)
    assert distance(fed.stream_in + fed.y, fed.stream_out) < BOUND
    with pytest.raises(UnsupportedModelError, match=r"layer 1 \(model\.layers\.1\.shared\w*\) is not in it"):
        shared.stream("ALTI")


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_what_a_mixer_read_add_up(name):
    for block in traced(name).layers:
        whole = block.operator()
        parts = in_parts(block, whole, "the test")
        assert len(parts) == (1 if block.fed_by is None and not block.aside else 2)
        vectors = sum(part.contributions(TARGET)[0] for part in parts)
        assert distance(vectors, whole.contributions(TARGET)[0]) < BOUND
        assert distance(sum(part.pull(block.y) for part in parts), whole.pull(block.y)) < BOUND


@pytest.mark.parametrize("name", FAMILIES)
def test_a_layers_shares_are_those_of_positions(name):
    trace = traced(name)
    for layer in range(len(trace.layers)):
        found = alti(trace, layer)
        assert float((found.sum(dim=-1) - 1).abs().max()) < BOUND
        assert distance(alti_row(trace, layer, TARGET), found[:, TARGET]) < BOUND


@pytest.mark.parametrize("name", FAMILIES)
def test_several_readouts_share_the_shares(name):
    trace = traced(name)
    with without_downcasts(name):
        (result,) = METHODS["alti-logit"].score_many(trace, [READOUT])
        assert distance(result.scores, alti_logit(trace, READOUT).scores[0]) < BOUND


@pytest.mark.parametrize("name", FAMILIES)
def test_other_walks_follow_the_graph(name):
    """h' = h + A x, x = h + t, t = B (h + e), with each method's own matrices A and B."""
    trace = traced(name)
    with without_downcasts(name):
        gradients = trace.gradients(READOUT)
        attributed = mamba_attribution(trace, READOUT)
    implicit = [implicit_attention(trace, layer, "mean")[0] for layer in range(len(trace.layers))]
    weighted = []
    for block in trace.layers:
        if block.kind == "attention":  # Transformer-Attribution's, E_h (∇p ⊙ p)⁺
            p, flow = gradients.attention[block.branch.name]
            weighted.append((p * flow)[0].clamp(min=0).mean(dim=0))
            continue
        slope = gradients.mixers[block.branch.name][1][0].mean(dim=-1)
        scan = block.operator().scan
        mean = scan.tile(slice(0, LENGTH), slice(0, LENGTH))[0].mean(dim=0)
        weighted.append((slope[:, None] * mean).clamp(min=0))
    for found, maps in ((implicit_rollout_row(trace, TARGET), implicit), (attributed, weighted)):
        h = e = torch.eye(LENGTH, dtype=torch.float64)
        for block in trace.updates:
            t = 0 if block.fed_by is None else maps[trace.number_of(block.fed_by)] @ (h + e)
            h = h + maps[trace.number_of(block)] @ (h + t)
        assert distance(found[0], h[TARGET]) < BOUND


@pytest.mark.parametrize("name", FAMILIES)
def test_an_attention_said_to_be_in_the_stream_is_refused_by_name(name, monkeypatch):
    family = getattr(families, name).FAMILIES[1]
    monkeypatch.setitem(families.FAMILIES, family.name, dataclasses.replace(family, aside=False))
    trace = traced(name)
    assert max(trace.reconstruction_error) < BOUND, "the maps of the mixers stay exact"
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1\.shared\w* changes it in a way"):
        alti_rollout(trace)
    with pytest.raises(UnsupportedModelError, match=r"mixers of model\.layers\.1\.mamba_decoder read something other"):
        alti(trace, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_whole_maps_are_refused(name):
    trace = traced(name)
    maps = [alti(trace, layer) for layer in range(len(trace.layers) - 1)]
    with pytest.raises(UnsupportedModelError, match="maps of whole layers do not tell apart"):
        alti_logit(trace, READOUT, maps=maps)


class Doubling(nn.Module):
    """A norm of another kind, which is found by its name."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return 2 * x


class DoublingRMSNorm(Doubling):
    pass


def test_what_stands_before_the_mixer_must_be_a_norm_that_is_known():
    model = hybrid_model("zamba", torch.float64)
    decoder = model.model.layers[1].mamba_decoder
    for norm, message in ((DoublingRMSNorm, "which is no RMS norm"), (Doubling, "cannot read its norm")):
        decoder.input_layernorm = norm(decoder.input_layernorm)
        with without_downcasts("zamba"):
            trace = capture(model, input_ids=some_ids())
        with pytest.raises(UnsupportedModelError, match=message):
            alti_rollout(trace)


def test_a_shared_attention_that_reads_other_tokens_is_refused():
    """The second half of its input must be what the first layer read."""
    model = hybrid_model("zamba", torch.float64)
    shared = model.model.layers[1].shared_transf

    def other_tokens(_, args, kwargs):
        return args, kwargs | {"original_hidden_states": 2 * kwargs["original_hidden_states"]}

    shared.register_forward_pre_hook(other_tokens, with_kwargs=True)
    with without_downcasts("zamba"):
        trace = capture(model, input_ids=some_ids())
    with pytest.raises(UnsupportedModelError, match="which is not the stream beside the embedded tokens"):
        alti_rollout(trace)
