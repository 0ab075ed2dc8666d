"""Groups of channels: by memory length where decays are known, and maps that are means of the channels' own."""

import itertools
import math

import pytest
import torch

from hybrids import hybrid_model
from mambascope import capture
from mambascope.methods import hidden_attention
from mambascope.theory.channel_groups import channel_groups, group_maps, memory_lengths
from mambascope.theory.heads import heads_of, repeated_rows
from models import stock_model


def read(model, span=11, rows=2):
    return capture(model, input_ids=repeated_rows(range(1, 50), span, rows))


def test_channels_are_sorted_by_a_memory_that_is_known():
    """Mamba-1 whose steps are constant: |α_ij| of a channel is a factor that all share, times r^(i-j)."""
    model = stock_model("mamba")
    mixer = model.backbone.layers[0].mixer
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))  # the channel of each rank
    with torch.no_grad():
        mixer.x_proj.weight[: mixer.time_step_rank] = 0.0
        mixer.dt_proj.bias.fill_(math.log(math.e - 1))  # a step of 1
        for rank, channel in enumerate(order.tolist()):
            mixer.A_log[channel] = math.log(-math.log(0.2 + 0.03 * rank))
    groups = channel_groups(read(model), 6)
    assert sorted(groups) == [("backbone.layers.0.mixer", 0), ("backbone.layers.1.mixer", 1)]
    found = groups["backbone.layers.0.mixer", 0]
    assert found[order].tolist() == [rank // 4 for rank in range(24)]


def test_sizes_differ_by_one_at_most_and_memory_grows():
    model = stock_model("mamba")
    trace = read(model)
    for layer, (_, groups) in enumerate(channel_groups(trace, 7).items()):
        assert sorted(groups.bincount().tolist()) == [3, 3, 3, 3, 4, 4, 4]
        lengths = memory_lengths(trace.operator(layer).scan, *trace.shape)
        means = [lengths[groups == number] for number in range(7)]
        assert all(one.max() <= next_.min() for one, next_ in itertools.pairwise(means))


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_memory_and_maps_are_those_of_the_channels_one_by_one(family):
    model = stock_model("mamba") if family == "mamba" else hybrid_model(family)
    trace = read(model)
    maps = hidden_attention(trace, 0).double().abs()
    scan = trace.operator(0).scan
    lags = (torch.arange(22)[:, None] - torch.arange(22)).abs()
    distances = ((maps * lags).sum(dim=-1) / maps.sum(dim=-1))[:, :, 11:].mean(dim=(0, 2))
    torch.testing.assert_close(memory_lengths(scan, *trace.shape), distances, rtol=1e-4, atol=1e-5)  # float32
    groups = channel_groups(trace, 5)[trace.layers[0].branch.name, 0]
    expected = torch.stack([maps[:, groups == number].mean(dim=1) for number in range(5)], dim=1)
    torch.testing.assert_close(group_maps(scan, groups, *trace.shape).double(), expected, rtol=1e-4, atol=1e-6)


def test_heads_and_few_channels_stay_as_they_are():
    assert channel_groups(read(stock_model("mamba2")), 3) == {}
    assert channel_groups(read(stock_model("mamba")), 24) == {}


def test_a_group_is_measured_as_its_map():
    """Groups of one channel each do what the channels do."""
    trace = read(stock_model("mamba"))
    alone = {("backbone.layers.0.mixer", 0): torch.arange(24), ("backbone.layers.1.mixer", 1): torch.arange(24)}
    for one, group in zip(heads_of(trace), heads_of(trace, groups=alone), strict=True):
        assert (one.layer, one.head) == (group.layer, group.head)
        assert one.distance == pytest.approx(group.distance, rel=1e-3)  # `tile` and `mix` round differently, in float32
        assert one.shares == pytest.approx(group.shares, rel=1e-3, abs=1e-5)
