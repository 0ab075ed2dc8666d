"""Methods under captum's interface, used by captum's own metrics, NoiseTunnel and drawings."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max

import mambascope
from mambascope import CaptumAttribution, explain
from mambascope.errors import InputError
from mambascope.methods.registry import METHODS
from models import padded_batch, stock_model
from picture_checkpoints import vim, vit

IDS = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 7, 6, 5]])


def alike(a, b):
    """Return whether two float32 results are the same, but for the order of sums in batches of other sizes."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def model():
    return stock_model("mamba")


def picture(texts=1):
    return torch.randn(texts, 3, 32, 32, generator=torch.Generator().manual_seed(0))


#: `random` draws anew each time.
READABLE = [one.name for one in METHODS.values() if one.reads({"scan"}) and one.name != "random"]


@pytest.mark.product
@pytest.mark.parametrize("method", READABLE)
def test_every_method_gives_the_scores_of_explain(method, model):
    adapted, targets = CaptumAttribution(model, method), [11, 12] if METHODS[method].asks else [None, None]
    found = adapted.attribute(IDS, target=targets if METHODS[method].asks else None)
    assert found.shape == IDS.shape
    for row, ids, target in zip(found, IDS, targets, strict=True):
        result = explain(model, None, {"input_ids": ids[None]}, method=method, target=target, progress=False)
        assert alike(row, result.row())
        assert ("terms" in result.diagnostics) == adapted.has_convergence_delta()


def test_targets_in_every_form(model):
    adapted = CaptumAttribution(model)
    each = adapted.attribute(IDS, target=[11, 12])
    assert alike(adapted.attribute(IDS, target=torch.tensor([11, 12])), each)
    for one in (11, [11], torch.tensor(11), torch.tensor([11])):
        assert alike(adapted.attribute(IDS, target=one)[0], each[0])
        assert not alike(adapted.attribute(IDS, target=one)[1], each[1])
    likeliest = adapted.forward_func(IDS).argmax(dim=-1)
    assert alike(adapted.attribute(IDS), adapted.attribute(IDS, target=likeliest))
    assert isinstance(adapted.attribute((IDS,)), tuple)
    assert alike(adapted.attribute((IDS,), target=[11, 12])[0], each)


def test_the_function_explained_is_the_stock_models(model):
    with torch.no_grad():
        logits = model(IDS).logits
    for position, place in ((None, 4), (2, 2), (-2, 3)):
        adapted = CaptumAttribution(model, position=position)
        torch.testing.assert_close(adapted.forward_func(IDS), logits[:, place], rtol=1e-4, atol=1e-5)
        assert not adapted.attribute(IDS)[:, place + 1 :].any()
        assert adapted.attribute(IDS)[:, place].all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_may_be_padded(side):
    model = stock_model("mamba", use_bias=False)  # a bias before the convolution lets padding change what follows
    ids, mask = padded_batch(7, 3, side)
    adapted = CaptumAttribution(model, "latim")
    found = adapted.attribute(ids, additional_forward_args=(mask,))
    assert not found[mask == 0].any()
    for row, own, real in zip(found, ids, mask.bool(), strict=True):
        alone = adapted.attribute(own[real][None])
        torch.testing.assert_close(row[real], alone[0], rtol=1e-4, atol=1e-6)
    short = adapted.forward_func(ids[2][mask[2].bool()][None])
    torch.testing.assert_close(adapted.forward_func(ids, mask)[2:], short, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["mamba-lrp", "alti-logit"])
def test_the_convergence_delta_is_what_the_terms_miss(method, model):
    adapted = CaptumAttribution(model, method)
    scores, delta = adapted.attribute(IDS, target=[11, 12], return_convergence_delta=True)
    assert alike(scores, adapted.attribute(IDS, target=[11, 12]))
    assert delta.shape == (2,)
    for row, ids, target in zip(delta, IDS, (11, 12), strict=True):
        result = explain(model, None, {"input_ids": ids[None]}, method=method, target=target, progress=False)
        value, terms = result.diagnostics["value"], result.diagnostics["terms"]
        assert float(row) == pytest.approx(sum(terms.values()) - value, abs=1e-9)
        assert abs(float(row)) <= 1e-5 * sum(map(abs, terms.values())), "rounding in float32"
    with pytest.raises(InputError, match=r"latim has no terms that add up to the logit; choose one of alti-logit, mam"):
        CaptumAttribution(model, "latim").attribute(IDS, return_convergence_delta=True)


def test_captums_infidelity_reads_it(model):
    adapted = CaptumAttribution(model)
    scores = adapted.attribute(IDS, target=11)

    def replaced(ids):
        other = ids.clone()
        other[:, 1] = 20
        return (ids != other).float(), other

    found = infidelity(adapted.forward_func, replaced, IDS, scores, target=11, n_perturb_samples=1)
    before, after = (adapted.forward_func(ids)[:, 11] for ids in (IDS, replaced(IDS)[1]))
    torch.testing.assert_close(found, (scores[:, 1] - (before - after)) ** 2)


def test_captums_sensitivity_calls_it(model):
    adapted = CaptumAttribution(model)

    def replaced(inputs):
        other = inputs.clone()
        other[:, 1] = 20
        return other

    found = sensitivity_max(adapted.attribute, IDS, perturb_func=replaced, target=[11, 12], n_perturb_samples=1)
    before, after = (adapted.attribute(ids, target=[11, 12]) for ids in (IDS, replaced(IDS)))
    torch.testing.assert_close(found, (before - after).norm(dim=1) / before.norm(dim=1))


@pytest.mark.parametrize("make", [vim, vit])
@pytest.mark.parametrize("method", ["latim", "mamba-lrp"])
def test_a_patchs_score_is_spread_over_its_values(make, method):
    model, pixels = make(), picture(2)
    adapted = CaptumAttribution(model, method)
    found = adapted.attribute(pixels, target=3 if METHODS[method].asks else None)
    assert found.shape == pixels.shape
    assert alike(found[:, 0], found[:, 2])
    result = explain(
        model, None, {"pixel_values": pixels[:1]}, method=method, target=3 if METHODS[method].asks else None
    )
    if result.pixels is not None:
        torch.testing.assert_close(found[0].sum(dim=0), result.pixels)
    else:
        summed = found[0].sum(dim=0).unflatten(0, (4, 8)).unflatten(2, (4, 8)).sum(dim=(1, 3))
        torch.testing.assert_close(summed, result.picture())
    assert (result.pixels is not None) == (method == "mamba-lrp")


def test_patches_that_overlap_add_up():
    model, pixels = vim(stride=4), picture()
    result = explain(model, None, {"pixel_values": pixels}, method="latim")
    assert result.grid.stride < result.grid.patch
    found = CaptumAttribution(model, "latim").attribute(pixels)
    torch.testing.assert_close(found.sum(), result.picture().sum())
    corner = result.picture()[0, 0] / (3 * result.grid.patch**2)
    torch.testing.assert_close(found[0, :, 0, 0], corner.expand(3)), "no other patch reads the first pixel"


def test_captums_noise_tunnel_and_drawings_take_it():
    model, pixels = vit(), picture()
    adapted = CaptumAttribution(model, "alti-logit")
    plain = adapted.attribute(pixels, target=3)
    still = NoiseTunnel(adapted).attribute(pixels, nt_type="smoothgrad", nt_samples=2, stdevs=0.0, target=3)
    torch.testing.assert_close(still, plain)
    noisy = NoiseTunnel(adapted).attribute(pixels, nt_type="smoothgrad", nt_samples=2, stdevs=0.5, target=3)
    assert not torch.allclose(noisy, plain)
    values = plain[0].permute(1, 2, 0).numpy()
    shown = np.zeros((32, 32, 3), dtype=np.uint8)
    figure, _ = visualization.visualize_image_attr(values, shown, method="heat_map", sign="all", use_pyplot=False)
    plt.close(figure)


@pytest.mark.parametrize(
    ("inputs", "given", "says"),
    [
        (IDS.float(), {}, "reads token ids of shape"),
        (IDS[0], {}, "reads token ids of shape"),
        (IDS[:0], {}, "reads token ids of shape"),
        (IDS, {"target": [11, 12, 13]}, "target must be the number of a token or class, or a list of 2"),
        (IDS, {"target": 99}, "the target 99 is not a token"),
        (IDS, {"additional_forward_args": (IDS[:, :2],)}, "may hold a text's attention mask"),
    ],
)
def test_other_inputs_are_refused(inputs, given, says, model):
    with pytest.raises(InputError, match=says):
        CaptumAttribution(model).attribute(inputs, **given)


def test_a_method_that_scores_positions_takes_no_target(model):
    with pytest.raises(InputError, match="latim scores a position, whatever is predicted there"):
        CaptumAttribution(model, "latim").attribute(IDS, target=11)


def test_a_model_without_a_head_has_positions_only(model):
    adapted = CaptumAttribution(model.backbone)
    assert adapted.method.name == "latim"
    assert adapted.attribute(IDS).shape == IDS.shape
    with pytest.raises(InputError, match="MambaModel has no head"):
        adapted.forward_func(IDS)


def test_without_captum_the_way_to_get_it_is_said():
    program = (
        "import sys; sys.modules['captum'] = None; import mambascope\n"
        "try: mambascope.CaptumAttribution\n"
        "except mambascope.InputError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "CaptumAttribution needs captum, which is not installed: pip install mambascope[captum]\n"
    assert "CaptumAttribution" in dir(mambascope)
