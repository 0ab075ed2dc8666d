"""What a layer remembers, held to loops over the recurrences and to maps whose distances are known."""

import pytest
import torch

import mambascope
from hybrids import hybrid_model
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.grid import Grid
from mambascope.inputs.patches import patch_grid
from mambascope.theory.memory import held, memory, patches_apart, read_maps, similarity, state
from models import stock_model, stock_transformer
from vision_models import pictures, vision_mamba

IDS = torch.randint(1, 50, (1, 12), generator=torch.Generator().manual_seed(0))


def test_maps_whose_distances_are_known():
    """All on the token before; even over four tokens; halved with every token."""
    length = 16
    rows = torch.arange(length // 2, length)
    lags = rows[:, None] - torch.arange(length)
    previous, even = (lags == 1).double(), ((lags >= 0) & (lags < 4)).double()
    halved = torch.where(lags >= 0, 0.5 ** lags.clamp(min=0).double(), 0.0)
    distance, reach, entropy, decay = read_maps(torch.stack([previous, even, halved]), lags.abs())
    torch.testing.assert_close(distance[:2], torch.tensor([1.0, 1.5]).double())
    assert abs(distance[2] - 1) < 0.02, "Σ n / 2^n less what lies before the text"
    assert reach.tolist() == [2, 4, 4]
    torch.testing.assert_close(entropy[:2], torch.tensor([0.0, 2.0]).double())
    assert decay[0] == 0
    assert abs(decay[2] - 0.5) < 1e-12


def test_distances_in_a_picture_are_those_of_its_patches():
    """All on the patch below, which is a row of tokens away; even over all patches."""
    apart = patches_apart(Grid(3, 4, None, 2, 2))
    assert apart[0, 4] == 1
    assert apart[0, 5] == pytest.approx(2**0.5, rel=1e-12)
    below, even = torch.zeros(12, 12), torch.ones(12, 12)
    below[torch.arange(12), (torch.arange(12) + 4) % 12] = 1
    distance, reach, entropy, _ = read_maps(torch.stack([below, even]).double()[:, :8], apart[:8])
    assert distance[0] == 1
    assert distance[1] == pytest.approx(float(apart[:8].mean()), rel=1e-12)
    assert reach[0] == 1
    assert entropy[1] == pytest.approx(float(torch.log2(torch.tensor(12.0))), rel=1e-6)


def test_a_class_token_is_left_out_of_a_pictures_distances():
    model = vision_mamba(class_token="middle")
    trace = mambascope.capture(model, pixel_values=pictures(model))
    grid = patch_grid(model, trace.inputs)
    (found,) = memory(trace, 0, grid=grid)
    alpha, places = mambascope.methods.hidden_attention(trace, 0)[0].double().abs(), list(grid.patch_positions)
    maps = alpha[:, places][:, :, places]
    expected = read_maps(maps, patches_apart(grid))
    for name, value in zip(("distance", "reach", "entropy", "decay"), expected, strict=True):
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="a grid of 4 tokens does not match"):
        memory(trace, 0, grid=Grid(2, 2, None, 4, 4))


def test_tokens_that_are_alike_have_similarity_one():
    stream = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(stream.double(), dim=-1)
    cosines = unit @ unit.t()
    expected = (cosines.sum() - 5) / 20
    assert abs(similarity(stream) - float(expected)) < 1e-12
    assert abs(similarity(stream[:1].expand(5, -1)) - 1) < 1e-12


def states_of_mamba(scan, s):
    """h_k = exp(Δ_k A) h_{k-1} + Δ_k B_k s_k, token by token; (L, D, N)."""
    h, found = torch.zeros_like(scan.A), []
    for k in range(s.shape[0]):
        h = torch.exp(scan.dt[0, k, :, None] * scan.A) * h + scan.dt[0, k, :, None] * scan.B[0, k] * s[k, :, None]
        found.append(h)
    return torch.stack(found)


def states_of_delta(rule, s):
    """S = a S, then S + β k (v - kᵀS), per head; (L, D, N)."""
    H, P = rule.maps, s.shape[-1] // rule.maps
    k = rule.k[0].repeat_interleave(H // rule.k.shape[2], dim=1)
    S, found = torch.zeros(H, rule.state_size, P, dtype=s.dtype), []
    for t in range(s.shape[0]):
        S = rule.decay[0, t].exp()[..., None] * S
        v = s[t].unflatten(0, (H, P))
        S = S + k[t][..., None] * (rule.beta[0, t, :, None] * (v - torch.einsum("hn,hnp->hp", k[t], S)))[:, None]
        found.append(S.transpose(1, 2).flatten(0, 1))
    return torch.stack(found)


@pytest.mark.parametrize(("family", "states"), [("mamba", states_of_mamba), ("qwen3_next", states_of_delta)])
def test_the_state_is_that_of_the_recurrence(family, states):
    model = stock_model(family) if family == "mamba" else hybrid_model(family)
    trace = mambascope.capture(model, input_ids=IDS)
    operator = trace.operator(0)
    expected = states(operator.scan, (operator.slope * operator.preactivation)[0])
    for position in (0, 5, -1):
        found = state(trace, 0, position)
        torch.testing.assert_close(found[0], expected[position], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "bamba", "zamba", "qwen3_next", "minimax", "xlstm", "rwkv"])
def test_what_the_tokens_hold_adds_up(family):
    """The state is linear in what the tokens wrote: without a token, its part is missing."""
    model = stock_model(family) if family in ("mamba", "mamba2") else hybrid_model(family)
    trace = mambascope.capture(model, input_ids=IDS)
    shares = held(trace, 0)
    assert shares.shape == trace.shape
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, dtype=torch.float64))
    operator = trace.layers[0].branch.operator()
    scan, v = operator.scan, operator.slope * operator.preactivation
    parts = []
    for token in range(trace.shape[1]):
        alone = torch.zeros_like(v)
        alone[:, token] = v[:, token]
        numbers = [scan.reading(number).apply(alone)[0, -1] for number in range(scan.state_size)]
        parts.append(torch.stack(numbers).double().norm())
    expected = torch.stack(parts) / torch.stack(parts).sum()
    torch.testing.assert_close(shares[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "gpt2", "falcon_h1", "lfm2", "recurrent_gemma"])
def test_every_layer_of_a_model_says_how_far_it_looks(family):
    make = {"gpt2": stock_transformer, "mamba": stock_model, "mamba2": stock_model}.get(family, hybrid_model)
    trace = mambascope.capture(make(family), input_ids=IDS)
    for layer in range(len(trace.layers)):
        for found in memory(trace, layer):
            maps = trace.layers[layer].branches[0].operator().scan.maps
            assert found.distance.shape == (maps,) or len(trace.layers[layer].branches) > 1
            assert (found.distance >= 0).all()
            assert (found.distance < 12).all()
            assert (found.reach >= 1).all()
            assert (found.entropy <= 3.6).all(), "log2 of 12 tokens"
            assert -1 <= found.similarity <= 1


def test_each_of_two_mixers_side_by_side_has_its_state_or_none():
    """Falcon-H1's scan keeps a state, its attention none."""
    trace = mambascope.capture(hybrid_model("falcon_h1"), input_ids=IDS)
    by_kind = {one.kind: one.held for one in memory(trace, 0)}
    assert by_kind["attention"] is None
    assert by_kind["scan"].shape == (12,)
    assert abs(float(by_kind["scan"].sum()) - 1) < 1e-12, "float64 shares of their sum"


def test_what_cannot_be_asked_is_refused_by_name():
    trace = mambascope.capture(stock_transformer("gpt2"), input_ids=IDS)
    with pytest.raises(UnsupportedModelError, match="mixes by attention, which keeps no state of fixed size"):
        state(trace, 0, -1)
    trace = mambascope.capture(stock_model("mamba"), input_ids=IDS)
    with pytest.raises(InputError, match="position 12 does not exist"):
        state(trace, 0, 12)
    with pytest.raises(InputError, match="one text of 4 tokens or more; this trace holds 1 of 3"):
        memory(mambascope.capture(stock_model("mamba"), input_ids=IDS[:, :3]), 0)
