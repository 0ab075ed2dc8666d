"""Count in row by one selective channel: exact for all short strings and for every length up to 4,096."""

import dataclasses
import itertools
from decimal import Decimal, localcontext

import pytest
import torch

import mambascope
from mambascope.errors import InputError
from mambascope.methods.hidden_attention import hidden_attention
from mambascope.operators.naive import selective_scan_matrix
from mambascope.theory.count_in_row import (
    COUNTED,
    FORGET,
    PLAIN,
    RATE,
    exact_channel,
    mixer_model,
    one_number_channel,
    rounding,
    run_lengths,
)

LONGEST = 4096
DTYPES = (torch.float32, torch.float64)


def loop(string):
    """Return count in row, bit by bit."""
    counts, h = [], 0
    for x in string:
        h = x * h + x
        counts.append(h)
    return counts


def all_strings(length):
    return torch.tensor(list(itertools.product((0, 1), repeat=length)))


def long_strings():
    """Return strings of the greatest length: structured ones, and random ones with runs of all sizes."""
    places = torch.arange(LONGEST)
    structured = [
        torch.ones(LONGEST), torch.zeros(LONGEST), places % 2, (places + 1) % 2, places % 3 > 0, places // 64 % 2,
        places >= LONGEST // 2, places < LONGEST // 2, places.ne(1), places.ne(LONGEST - 2), places.ne(0),
        (places + 1).log2().frac() > 0, ((8 * places + 1).sqrt() - 1).frac() > 1e-5,
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.05, 0.3, 0.5, 0.9, 0.99, 0.999, 0.9999])[:, None]
    random = torch.rand(len(shares), LONGEST, generator=generator) < shares
    return torch.cat([torch.stack([row.long() for row in structured]), random.long()])


def wrong(channel, bits):
    """Return how many positions are not what the definition says."""
    return int((channel.count(bits) != run_lengths(bits)).sum())


@pytest.mark.parametrize("length", range(1, 13))
def test_the_definition_is_the_loop(length):
    bits = all_strings(length)
    assert run_lengths(bits).tolist() == [loop(string) for string in bits.tolist()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_strings_up_to_length_12(dtype):
    for length in range(1, 13):
        assert wrong(exact_channel(dtype), all_strings(length)) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_length_up_to_4096(dtype):
    """The counts of a string are those of all its beginnings, as the channel is causal: every length is a position."""
    bits = long_strings()
    assert wrong(exact_channel(dtype), bits) == 0
    for length in (1, 2, 3, 63, 64, 65, 1000, 2049, 4095):
        assert wrong(exact_channel(dtype), bits[:, :length]) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_its_matrix_says_which_ones_are_counted(dtype):
    bits = long_strings()[:, -300:]
    scan = exact_channel(dtype).scan(bits)
    zeros = (1 - bits).cumsum(dim=1)
    same_run = (zeros[:, :, None] == zeros[:, None]) & (bits[:, :, None] * bits[:, None] == 1)
    assert torch.equal(scan.tile(slice(0, 300), slice(0, 300))[:, 0], same_run.tril().to(dtype))
    ones = exact_channel(dtype).scan(torch.ones(1, LONGEST, dtype=torch.long))
    assert ones.tile(slice(LONGEST - 1, LONGEST), slice(0, LONGEST)).eq(1).all()


def test_its_matrix_is_the_specification():
    bits = long_strings()[-4:, :40]
    scan = exact_channel().scan(bits)
    for b, tile in enumerate(scan.tile(slice(0, 40), slice(0, 40))):
        expected = selective_scan_matrix(scan.dt[b], scan.A, scan.B[b], scan.C[b])
        torch.testing.assert_close(tile, expected, rtol=0, atol=1e-12)  # float64; both are zeros and ones


def test_in_real_numbers_it_is_within_its_bound():
    """Loses Σ_{k<n} (1 - q^k) with q = exp(Δ A) at ones; computed with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        q = (Decimal(PLAIN) * Decimal(RATE)).exp()
        counted = (1 - q**LONGEST) / (1 - q)
        assert 0 < LONGEST - counted < Decimal(LONGEST) ** 2 / 2**75
        assert (Decimal(FORGET) * Decimal(RATE)) == -1024


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_number_is_enough_up_to_rounding(dtype):
    channel = one_number_channel(dtype)
    for bits in [all_strings(length) for length in range(1, 13)] + [long_strings()]:
        counts = run_lengths(bits)
        bound = torch.tensor([rounding(n, dtype) for n in range(bits.shape[1] + 1)], dtype=torch.float64)[counts]
        assert ((channel.count(bits).double() - counts).abs() <= bound).all()
    assert rounding(LONGEST, torch.float64) < 2e-9


@pytest.mark.parametrize("changed", ["W_dt", "b_dt", "W_B", "W_C", "W_s"])
def test_other_weights_do_not_count(changed):
    """Halving any weight spoils the counts; of Δ's weights by so much that zeros keep, or that the ones add more."""
    factor = 2.0**-20 if changed == "W_dt" else 0.5
    channel = exact_channel()
    spoiled = dataclasses.replace(channel, **{changed: getattr(channel, changed) * factor})
    assert wrong(spoiled, all_strings(6)) > 0


def test_a_rate_that_ones_feel_forgets():
    channel = exact_channel()
    spoiled = dataclasses.replace(channel, A=channel.A * 2**30)
    assert wrong(spoiled, torch.ones(1, LONGEST, dtype=torch.long)) > 0


def test_a_stock_layer_counts_and_its_map_shows_how():
    model = mixer_model()
    bits = long_strings()[:, :130]
    trace = mambascope.capture(model, input_ids=bits)
    counts = run_lengths(bits)
    assert torch.equal(trace.layers[0].y[..., COUNTED], counts.float())
    assert not trace.layers[0].y[..., [0, 1, 3]].any()
    assert max(trace.reconstruction_error) == 0
    matrix = exact_channel(torch.float32).scan(bits).tile(slice(0, 130), slice(0, 130))[:, 0]
    assert torch.equal(hidden_attention(trace, 0, [0])[:, 0] * PLAIN, matrix)
    for target in (0, 7, 64, 129):
        vectors, bias = trace.operator(0).contributions(target)
        assert torch.equal(vectors[..., COUNTED], matrix[:, target])
        assert not bias.any()


def test_a_stock_layer_counts_all_strings_up_to_length_12_and_4096_ones():
    model = mixer_model()
    seen = {}
    model.backbone.layers[0].mixer.register_forward_hook(lambda module, inputs, output: seen.update(y=output))
    with torch.no_grad():
        for bits in (all_strings(12), torch.ones(1, LONGEST, dtype=torch.long)):
            model(input_ids=bits)
            assert torch.equal(seen["y"][..., COUNTED], run_lengths(bits).float())


def test_its_logit_rises_with_the_count():
    with torch.no_grad():
        logits = mixer_model()(input_ids=torch.ones(1, 50, dtype=torch.long)).logits[0, :, 1]
    assert (logits.diff() > 0).all()


def test_other_tokens_are_refused():
    with pytest.raises(InputError, match="zeros and ones only, found 2"):
        exact_channel().count(torch.tensor([[0, 2]]))
    with pytest.raises(InputError, match="found -1"):
        run_lengths(torch.tensor([[0, -1]]))
