"""The projected self-check: what its estimate means, that it misses no deliberate fault, and that it runs no scan."""

import dataclasses
import importlib
import math

import pytest
import torch

from hybrids import hybrid_model
from mambascope import ReconstructionError, capture
from mambascope.operators.affine import AffineMixer
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.trace import scanning, self_check
from mambascope.trace.scanning import relative_error
from mambascope.trust import TOLERANCE
from models import FAMILIES, padded_batch, stock_model

IDS, MASK = padded_batch(20, 2, "left")
ALLOWED = TOLERANCE[torch.float32]


def checked(family, monkeypatch, **options):
    """Capture a small model, and return the first mixer with what its self-check was given."""
    seen, module = [], importlib.import_module("mambascope.trace.capture")
    right = module.reconstruction_error

    def noting(branch, allowed, *, full, run, convolved):
        seen.append((branch, run, list(convolved)))
        return right(branch, allowed, full=full, run=run, convolved=convolved)

    monkeypatch.setattr(module, "reconstruction_error", noting)
    model = stock_model(family, **options) if family in FAMILIES else hybrid_model(family, **options)
    capture(model, input_ids=IDS, attention_mask=MASK)
    return seen[0]


@pytest.mark.parametrize("width", [1, 7, 64, 500])
@pytest.mark.parametrize("rank", [1, 40])
def test_an_estimate_is_near_the_error_that_a_product_has(width, rank):
    """The naive form is the error itself; of rank 1, an estimate is the mean of 32 squares of one normal number."""
    generator = torch.Generator().manual_seed(width)
    v, weight, bias = (torch.randn(*size, generator=generator).double() for size in ((1, 40, 9), (width, 9), (width,)))
    whole = v @ weight.t() + bias
    off = torch.randn(40, rank, generator=generator).double() @ torch.randn(rank, width, generator=generator).double()
    result = whole + 1e-3 * off
    error = relative_error(whole, result)
    estimate = self_check.projected_error(result, v, weight, bias)
    assert error / 2 < estimate < 2 * error  # 32 squares: beyond a factor of 2 once in 10⁶ widths
    assert self_check.projected_error(whole, v, weight, bias) < 1e-14  # sums of 500 numbers, each rounded to 1e-16


def test_estimates_are_right_on_average():
    """One direction's square has the mean of the error's, so 2,000 faults in places of their own average to it."""
    v, weight = torch.zeros(1, 1, 1).double(), torch.zeros(2000, 1).double()
    faults = torch.eye(2000).double()[:, None, None]
    squares = [self_check.projected_error(fault, v, weight) ** 2 for fault in faults]
    assert sum(squares) / 2000 == pytest.approx(1, abs=0.02)  # 64,000 squares, each of variance 2: 0.006


def test_the_chance_of_a_miss_is_what_the_docstring_says():
    k, n = self_check.DIRECTIONS, self_check.MARGIN
    bound = (math.exp(1 - n**-2) / n**2) ** (k / 2)
    exact = float(torch.special.gammainc(torch.tensor(k / 2).double(), torch.tensor(k / 2 / n**2).double()))
    assert exact < bound < 2e-13
    assert "below 2e-13" in self_check.__doc__


def test_not_finite_results_do_not_pass():
    v, weight = torch.ones(1, 3, 2), torch.ones(4, 2)
    for wrong in (float("nan"), float("inf")):
        result = v @ weight.t()
        result[0, 1, 2] = wrong
        assert self_check.projected_error(result, v, weight) == math.inf


PROJECTED = (*FAMILIES, "jamba", "bamba", "falcon_h1", "zamba2", "qwen3_next", "olmo_hybrid", "kimi_linear")


@pytest.mark.parametrize("family", PROJECTED)
def test_no_second_scan_runs_and_both_checks_pass(family, monkeypatch):
    branch, run, convolved = checked(family, monkeypatch)
    operator = branch.operator()
    assert next(self_check._read(operator, run.s, convolved)) < 1e-6, "the convolution's input was found"
    monkeypatch.setattr(AffineMixer, "output", None)  # what the full check would call
    error = self_check.reconstruction_error(branch, ALLOWED, full=False, run=run, convolved=convolved)
    assert 0 < error < 1e-6  # sums of some tens of products
    monkeypatch.undo()
    assert self_check.reconstruction_error(branch, ALLOWED, full=True, run=run, convolved=convolved) < 1e-6


def swapped(tensor, one, dim):
    """Return a tensor with two neighbours of an axis exchanged."""
    order = torch.arange(tensor.shape[dim])
    order[one], order[(one + 1) % len(order)] = (one + 1) % len(order), one
    return tensor.index_select(dim, order)


def moved(tensor, one):
    """Return a vector with one number changed by a tenth."""
    return tensor + 0.1 * torch.nn.functional.one_hot(torch.tensor(one), len(tensor))


def faster(rates, one):
    """Return decay rates of which one map's are a tenth larger."""
    rates = rates.clone()
    rates[one] *= 1.1
    return rates


#: Deliberate faults: what an operator says instead, given the number of a channel or head.
FAULTS = {
    "two rows of W_x": lambda op, d: {"W_x": swapped(op.W_x, d, 0)},
    "two columns of W_o": lambda op, d: {"W_o": swapped(op.W_o, d, 1)},
    "two rows of W_o": lambda op, d: {"W_o": swapped(op.W_o, d % len(op.W_o), 0)},
    "two channels of the gate": lambda op, d: {"gate": swapped(op.gate, d, 2)},
    "two channels of the taps": lambda op, d: {
        "convolution": dataclasses.replace(op.convolution, taps=swapped(op.conv, d, 0))
    },
    "a bias of the convolution": lambda op, d: {"conv_bias": moved(op.conv_bias, d)},
    "a bias of W_x": lambda op, d: {"b_x": moved(torch.zeros(op.inner_width) if op.b_x is None else op.b_x, d)},
    "a bias of W_o": lambda op, d: {
        "b_o": moved(torch.zeros(len(op.W_o)) if op.b_o is None else op.b_o, d % len(op.W_o))
    },
    "D of one channel dropped": lambda op, d: {
        "scan": dataclasses.replace(op.scan, skip=op.scan.skip * (torch.arange(op.inner_width) != d))
    },
    "one decay": lambda op, d: {"scan": dataclasses.replace(op.scan, A=faster(op.scan.A, d % len(op.scan.A)))},
    "steps of two maps": lambda op, d: {
        "scan": dataclasses.replace(op.scan, dt=swapped(op.scan.dt, d % op.scan.maps, 2))
    },
    "no activation": lambda op, d: {"silu": False},
    "no mask": lambda op, d: {"mask": None},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_deliberate_fault_is_missed_in_any_channel(family, fault, monkeypatch):
    if fault == "no mask" and family == "falcon_mamba":
        pytest.skip("its mixers are not given the mask")
    branch, run, convolved = checked(family, monkeypatch)
    right = branch.operator()
    for channel in range(right.inner_width):
        wrong = dataclasses.replace(right, **FAULTS[fault](right, channel))
        monkeypatch.setattr(type(branch), "operator", lambda *_, wrong=wrong: wrong)
        by = {
            full: self_check.reconstruction_error(branch, ALLOWED, full=full, run=run, convolved=convolved)
            for full in (False, True)
        }
        assert by[False] > ALLOWED, f"channel {channel}: missed"
        assert by[True] > ALLOWED, f"channel {channel}: this is no fault"
        same = self_check.same_scan(wrong.scan, run.scan)
        assert same != ("scan" in FAULTS[fault](right, channel))
        if same:  # so that it is the projected check that caught it
            assert self_check.error_by_steps(wrong, run, convolved, branch.y) > ALLOWED / self_check.MARGIN


@pytest.mark.parametrize("check", ["projected", "full"])
@pytest.mark.parametrize("part", ["in_proj", "conv1d", "out_proj"])
def test_a_model_that_does_something_else_is_caught(check, part):
    """The fault is in the model's own pass: two channels change places after a product, or after the convolution."""
    model = stock_model("mamba")
    layer = model.backbone.layers[1].mixer
    if part == "conv1d":
        original = importlib.import_module(type(layer).__module__)
        right = original.causal_conv1d_fn

        def wrong(hidden_states, *args, **kwargs):
            return swapped(right(hidden_states, *args, **kwargs), 3, 1)

        original.causal_conv1d_fn = wrong
    else:
        getattr(layer, part).register_forward_hook(lambda _, __, y: swapped(y, 3, 2))
    try:
        with pytest.raises(ReconstructionError, match="cannot be rebuilt"):
            capture(model, input_ids=IDS, check=check)
    finally:
        if part == "conv1d":
            original.causal_conv1d_fn = right


def test_near_the_bound_the_full_check_decides(monkeypatch):
    rebuilt = []
    right = AffineMixer.output
    monkeypatch.setattr(AffineMixer, "output", lambda self: rebuilt.append(1) or right(self))
    model = stock_model("mamba")
    estimated = capture(model, input_ids=IDS).reconstruction_error
    assert not rebuilt
    full = capture(model, input_ids=IDS, check="full").reconstruction_error
    assert len(rebuilt) == 2
    near = capture(model, input_ids=IDS, tolerance=2 * max(estimated)).reconstruction_error
    assert len(rebuilt) == 4
    assert near != estimated != full
    assert max(*near, *full) < 1e-6, "both are whole errors; the model's own convolution ran under the full check alone"


def test_without_a_function_for_the_convolution_its_output_is_rebuilt_from_x(monkeypatch):
    branch, run, _ = checked("mamba", monkeypatch)
    monkeypatch.setattr(AffineMixer, "output", None)
    assert self_check.reconstruction_error(branch, ALLOWED, full=False, run=run, convolved=[]) < 1e-6


def test_the_estimate_is_the_same_every_time():
    one, other = (capture(stock_model("mamba2"), input_ids=IDS).reconstruction_error for _ in range(2))
    assert one == other


def test_a_kernel_of_the_models_own_is_held_to_a_scan_of_ours(monkeypatch):
    """Where the model's own scan ran, nothing of ours has: the whole output is rebuilt."""
    scans = []
    right = SelectiveScan.apply
    monkeypatch.setattr(scanning, "has_kernel", lambda tensor: True)
    monkeypatch.setattr(SelectiveScan, "apply", lambda self, v: scans.append(1) or right(self, v))
    capture(stock_model("mamba"), input_ids=IDS)
    assert len(scans) == 2
