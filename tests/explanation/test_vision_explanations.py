"""A picture's explanation: scores of patches with the class token apart, of pixels, and of a patch's own features."""

import numpy as np
import pytest
import torch

from dense_reference import distance
from mambascope import readouts
from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.explanation import explain
from mambascope.explanation.runner import score
from mambascope.methods.mamba_lrp import LRP, LRP_VISION, mamba_lrp
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS
from mambascope.readouts import FeatureReadout
from mambascope.trace import capture
from rounding import assert_equal_to_rounding
from vision_models import CLASS_TOKENS, pictures, vision_mamba
from vision_reference import embed, run
from vision_relevance import dense_relevance, readout_of

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64 scores that a result keeps as float32.
KEPT = 1e-6
RULES = frozenset({"silu", "scan", "gate", "norm"})


def explained(model, picture, *names, **question):
    return explain(model, None, {"pixel_values": picture}, method=names, **question)


def able(method: Method) -> bool:
    return method.reads({"scan"})


@pytest.mark.parametrize("place", CLASS_TOKENS)
def test_every_method_scores_patches_with_the_class_token_apart(place):
    model = vision_mamba(class_token=place, image_size=(8, 12))
    names = [name for name, method in METHODS.items() if able(method)]
    length = 6 + (place != "none")
    at = {"middle": 3, "first": 0, "last": 6, "none": None}[place]
    for result in explained(model, pictures(model), *names):
        assert result.scores.shape[-1] == length
        assert result.grid.class_position == at
        assert result.picture().shape == (2, 3)
        patches = [result.tokens[k] for k in range(length) if k != at]
        assert patches == ["0,0", "0,1", "0,2", "1,0", "1,1", "1,2"]
        if at is not None:
            assert result.tokens[at] == "class"
            assert result.target.position == at
        else:
            assert result.target.pooled == 6
        kept = [k for k in range(length) if k != at]
        assert_equal_to_rounding(result.picture().flatten(), result.row()[kept])
        assert torch.isfinite(result.scores).all()


@pytest.mark.parametrize("name", ["mamba-lrp", "gradient-x-input"])
def test_methods_that_go_down_to_the_pixels_bring_them(tmp_path, name):
    model = vision_mamba(torch.float64, image_size=(8, 12))
    picture = pictures(model, 1, (9, 12))
    (result,) = explained(model, picture, name, target=3)
    frozen, gamma = (RULES, 0.25) if name == "mamba-lrp" else (frozenset(), 0.0)
    with torch.no_grad():
        expected, value = dense_relevance(model, picture[0], "class", frozen, gamma, True)
    assert result.pixels.shape == (9, 12)
    assert distance(result.pixels.double(), expected) < KEPT
    assert result.target.value == pytest.approx(value.item())
    again = Attribution.load(result.save(tmp_path / "result.safetensors"))
    assert torch.equal(again.pixels, result.pixels)
    (other,) = explained(model, picture, "latim")
    assert other.pixels is None
    assert Attribution.load(other.save(tmp_path / "other.safetensors")).pixels is None


@pytest.mark.parametrize("name", ["value-zeroing", "latim", "latim-alti", "alti-rollout", "rollout"])
def test_a_class_read_from_all_patches_has_the_mean_of_their_rows(name):
    model = vision_mamba(torch.float64, class_token="none", image_size=(8, 12))
    picture = pictures(model)
    (pooled,) = explained(model, picture, name)
    rows = [explained(model, picture, name, position=place)[0].scores for place in range(6)]
    assert distance(pooled.scores, torch.stack(rows).mean(dim=0)) < KEPT
    assert distance(pooled.scores, rows[-1]) > 0.1


def test_integrated_gradients_of_a_picture_go_from_zeros():
    """By autograd through the dense model, at the 50 points of the rule."""
    model = vision_mamba(torch.float64, image_size=(8, 12))
    picture = pictures(model)
    (result,) = explained(model, picture, "integrated-gradients", target=3)
    tokens = embed(model, picture[0]).detach()
    expected = torch.zeros(len(tokens), dtype=torch.float64)
    for node, weight in zip(*np.polynomial.legendre.leggauss(50), strict=True):
        with torch.enable_grad():
            leaf = (float(node + 1) / 2 * tokens).requires_grad_()
            (flow,) = torch.autograd.grad(run(model, leaf).logits[3], leaf)
        expected += float(weight) / 2 * (flow * tokens).sum(dim=1)
    assert distance(result.row().double(), expected) < 1e-4, "captum's nodes are float32"


def test_a_patch_is_asked_about_by_its_features():
    model = vision_mamba(torch.float64, image_size=(8, 12))
    picture = pictures(model)
    result, rollout = explained(model, picture, "mamba-lrp", "rollout", patch=(0, 2))
    expected, value = dense_relevance(model, picture[0], "patch", RULES, 0.25, False)
    assert distance(result.row().double(), expected) < KEPT
    assert result.target.value == pytest.approx(value.item())
    assert result.target.asked == "size of the features of token 0,2"
    assert result.target.position == rollout.target.position == 2


def test_features_in_a_direction_are_a_product():
    model = vision_mamba(torch.float64)
    outputs = capture(model, pixel_values=pictures(model, 2)).outputs
    features = outputs.last_hidden_state[:, 4]
    along = torch.arange(6, dtype=torch.float64)
    assert torch.allclose(readouts.features(4, along)(outputs), features @ along)
    assert torch.allclose(readouts.features(4)(outputs), features.norm(dim=1))
    assert isinstance(readout_of("patch"), FeatureReadout)
    with pytest.raises(InputError, match="no features"):
        readouts.features(0)(torch.zeros(1))
    assert readouts.class_(1)(outputs).tolist() == outputs.logits[:, 1].tolist()


def test_several_classes_at_once_are_explained_by_the_rules_for_pictures():
    model = vision_mamba(class_token="first", image_size=(8, 12))
    inputs = {"pixel_values": pictures(model)[:1]}
    numbers = [readouts.class_(number, positions=(0,)) for number in (1, 3)]
    rows = score(capture(model, **inputs), METHODS["mamba-lrp"], numbers).whole
    for row, readout in zip(rows, numbers, strict=True):
        alone = mamba_lrp(capture(model, **inputs), readout, rules=LRP_VISION).scores[0]
        assert distance(row, alone) < 1e-5
        assert distance(row, mamba_lrp(capture(model, **inputs), readout, rules=LRP).scores[0]) > 1e-3
