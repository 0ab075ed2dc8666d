"""Raw attention and the rollouts against the papers' matrix products, written out densely.

Two texts of five layers; nothing here is shared with the package (`dense_reference`).
"""

import pytest
import torch

from dense_reference import distance, implicit_attention, runs
from mambascope import InputError
from mambascope.methods.implicit_attention import implicit_rollout_row
from mambascope.methods.raw_attention import raw_attention, raw_attention_row
from mambascope.methods.rollout import rollout, rollout_row
from mambascope.trace import capture
from models import FAMILIES, padded_batch, stock_model, without_downcasts
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH, LAYERS = 17, 5
TARGETS = (0, 1, 9, LENGTH - 1)
#: float64, products over five layers of matrices whose entries partly cancel.
BOUND = 1e-10


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    model = stock_model(request.param, torch.float64, num_hidden_layers=LAYERS)
    ids, _ = padded_batch(LENGTH, 1, "left")
    ids = torch.cat([ids, padded_batch(LENGTH, 1, "left", seed=1)[0]])
    with without_downcasts(request.param):
        trace = capture(model, input_ids=ids)
    return trace, runs(model, ids)


def unit(target):
    return torch.eye(LENGTH, dtype=torch.float64)[target]


def scaled(values):
    return (values - values.min()) / (values.max() - values.min())


@torch.no_grad()
def product(matrices, target):
    """The target's row of M_Λ … M_1, given from the first layer to the last."""
    row = unit(target)
    for matrix in reversed(matrices):
        row = row @ matrix
    return row


def agree(ours, references, what=""):
    assert ours.shape[0] == len(references) == 2
    for text, reference in enumerate(references):
        assert distance(ours[text], reference) < BOUND, f"{what} text {text}"


@pytest.mark.parametrize("layer", [0, LAYERS - 1])
def test_raw_attention_scales_each_row_of_all_channels_together(case, layer):
    trace, texts = case
    full = raw_attention(trace, layer)
    for target in range(LENGTH):
        expected = [scaled(text.layers[layer].alpha[:, target, : target + 1]).mean(dim=0) for text in texts]
        agree(full[:, target, : target + 1], expected, f"row {target}")
        assert not full[:, target, target + 1 :].any()
        if target in TARGETS:
            agree(raw_attention_row(trace, layer, target)[:, : target + 1], expected, f"row {target}")


def steps(text, normalise=False, reduce=None, discard=0):
    out = []
    for layer in text.layers:
        matrix = layer.alpha.mean(dim=0) if reduce is None else reduce(layer.alpha)
        matrix = matrix.clone()
        for target in range(LENGTH):
            seen = sorted(range(target + 1), key=lambda source: abs(float(matrix[target, source])))
            matrix[target, seen[: int(discard * len(seen))]] = 0
        matrix = torch.eye(LENGTH, dtype=torch.float64) + matrix
        out.append(matrix / matrix.sum(dim=1, keepdim=True) if normalise else matrix)
    return out


@pytest.mark.parametrize("normalise", [False, True])
def test_rollout_is_the_product_of_identity_plus_mean_attention(case, normalise):
    trace, texts = case
    full = rollout(trace, normalise=normalise)
    for target in TARGETS:
        expected = [product(steps(text, normalise), target) for text in texts]
        agree(rollout_row(trace, target, normalise=normalise), expected, f"row {target}")
        agree(full[:, target], expected, f"row {target} of the map")


REDUCTIONS = {
    "mean": lambda alpha: alpha.mean(dim=0),
    "max": lambda alpha: alpha.max(dim=0).values,
    "min": lambda alpha: alpha.min(dim=0).values,
    "product": lambda alpha: alpha.abs().prod(dim=0) ** (1 / len(alpha)),
}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("channels", REDUCTIONS)
def test_rollout_of_other_reductions_is_their_product(case, channels, absolute):
    trace, texts = case

    def reduce(alpha):
        return REDUCTIONS[channels](alpha.abs() if absolute else alpha).tril()

    full = rollout(trace, channels=channels, absolute=absolute)
    for target in TARGETS:
        agree(full[:, target], [product(steps(text, reduce=reduce), target) for text in texts], f"row {target}")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_discarding_removes_the_smallest_of_what_each_target_sees(case, share):
    trace, texts = case
    full = rollout(trace, discard=share, normalise=True)
    for target in TARGETS:
        expected = [product(steps(text, normalise=True, discard=share), target) for text in texts]
        agree(full[:, target], expected, f"row {target}")


def test_rows_of_several_targets_are_averaged(case):
    trace, texts = case
    targets = (3, 9, LENGTH - 1)
    expected = [sum(product(steps(text), target) for target in targets) / 3 for text in texts]
    agree(rollout_row(trace, targets), expected)
    assert_equal_to_rounding(rollout_row(trace, -1), rollout_row(trace, LENGTH - 1))


def test_implicit_rollout_is_the_product_with_gate_convolution_and_skip(case):
    trace, texts = case
    eye = torch.eye(LENGTH, dtype=torch.float64)
    matrices = [[eye + implicit_attention(layer).mean(dim=0) for layer in text.layers] for text in texts]
    for target in TARGETS:
        agree(implicit_rollout_row(trace, target), [product(each, target) for each in matrices], f"row {target}")
    both = [(product(each, 2) + product(each, 9)) / 2 for each in matrices]
    agree(implicit_rollout_row(trace, (2, 9)), both)


ROWS = {
    "rollout": rollout_row,
    "rollout, normalised": lambda trace, target: rollout_row(trace, target, normalise=True),
    "implicit rollout": implicit_rollout_row,
    "raw attention": lambda trace, target: raw_attention_row(trace, 1, target),
}
MAPS = {
    "rollout, maximum": lambda trace: rollout(trace, channels="max", normalise=True),
    "rollout, discarding": lambda trace: rollout(trace, discard=0.4),
    "raw attention, map": lambda trace: raw_attention(trace, 1),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_equals_one_by_one(family, side):
    """Without biases, which the stock model lets flow from padded tokens on the left."""
    model = stock_model(family, torch.float64, use_bias=False, use_conv_bias=False)
    ids, mask = padded_batch(12, 3, side)
    with without_downcasts(family):
        batch = capture(model, input_ids=ids, attention_mask=mask)
        for text in range(3):
            real = mask[text].bool()
            alone = capture(model, input_ids=ids[text : text + 1, real])
            for name, row in ROWS.items():
                for target in range(-int(mask.sum(dim=1).min()), 0):  # those that every text has
                    ours = row(batch, target)[text]
                    assert distance(ours[real], row(alone, target)[0]) < BOUND, f"{name}, text {text}, target {target}"
                    if name.startswith("raw"):
                        assert not ours[~real].any(), f"{name}: padding is no source"
            for name, full in MAPS.items():
                ours, expected = full(batch)[text][real], full(alone)[0]
                for target in range(len(expected)):
                    assert distance(ours[target, real], expected[target]) < BOUND, f"{name}, {text}, {target}"
                if name.startswith("raw"):
                    assert not ours[:, ~real].any(), f"{name}: padding is no source"


def test_wrong_requests_are_refused_in_one_sentence(case):
    trace, _ = case
    for call, words in (
        (lambda: rollout_row(trace, LENGTH), f"target {LENGTH} is not a position"),
        (lambda: rollout_row(trace, []), "is not a position"),
        (lambda: rollout(trace, discard=1.0), "discard must be a fraction"),
        (lambda: raw_attention_row(trace, 9, 0), "layer 9 does not exist"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
