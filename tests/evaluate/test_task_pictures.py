"""Tasks on pictures: a right map is perfect, one that is about no class is chance, and misfits are refused."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers

from mambascope import readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate.data import picture_sets
from mambascope.evaluate.data.picture_sets import LabelledPicture, nearest, picture_set
from mambascope.evaluate.metrics.registry import listed_metrics
from mambascope.evaluate.patch_maps import PatchMaps, class_grid, patch_maps
from mambascope.evaluate.tasks import find_task, perturbation, segmentation
from mambascope.evaluate.tasks.perturbation import Perturbation
from mambascope.evaluate.tasks.segmentation import Segmentation
from mambascope.explanation import explain
from mambascope.methods.mamba_lrp import LRP_VISION, mamba_lrp
from mambascope.methods.registry import find_method
from mambascope.methods.rollout import rollout
from mambascope.trace import capture
from models import stock_model
from vision_models import vision_mamba

METHODS = ["latim", "rollout", "gradient-x-input"]
SIDE, PATCH = 16, 4


class Squares:
    """Pictures of two squares, each of four patches and of a class of its own, brighter than the rest."""

    classes = tuple("abcde")
    size = (SIDE, SIDE)

    def __init__(self, exclusive=False, labelled=None):
        self.exclusive, self.labelled = exclusive, labelled

    def __len__(self):
        return 7

    def picture(self, number):
        rng = np.random.default_rng(number)
        pixels = rng.integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8)
        masks = np.zeros((2, SIDE, SIDE), bool)
        masks[0, :8, :8] = masks[1, 8:, 8:] = True
        if self.exclusive:
            return LabelledPicture(pixels, (number % 5,))
        pixels[masks.any(axis=0)] += 100
        return LabelledPicture(pixels, (number % 5, (number + 2) % 5), masks, self.labelled)


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    monkeypatch.setitem(picture_sets.SETS, "squares", Squares)
    monkeypatch.setitem(picture_sets.SETS, "one-class", lambda: Squares(exclusive=True))
    picture_set.cache_clear()
    yield
    picture_set.cache_clear()


def seeing(model, classes=range(5)):
    """Let a model see these classes in every picture, and no others."""
    head = getattr(model, "head", None) or model.classifier
    with torch.no_grad():
        head.bias.copy_(torch.tensor([100.0 if k in classes else -100.0 for k in range(5)]))
    return model


def vim(**options):
    return vision_mamba(num_channels=3, image_size=SIDE, patch_size=PATCH, **options)


def vit():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=16, image_size=SIDE,
        patch_size=PATCH, num_labels=5,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def values(rows, metric, method="latim", layer=-1):
    return [row.value for row in rows if (row.metric, row.method, row.layer) == (metric, method, layer)]


def oracle(picture, sign=1.0, blind=False):
    """Answers with maps that mark the patches of the class's own square; a blind one those of every square."""

    def maps(model, inputs, methods, classes, trace):
        patches = picture.masks.reshape(2, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH).mean(axis=(2, 4))
        own = [patches.sum(axis=0) if blind else patches[picture.classes.index(number)] for number in classes]
        yield PatchMaps("latim", -1, sign * torch.tensor(np.stack(own)).float())

    return maps


def test_a_map_of_the_objects_own_patches_is_perfect_and_its_reverse_is_worst(monkeypatch):
    task = Segmentation(pictures="squares")
    sample = task.samples(None)[3]
    picture = picture_set("squares").picture(3)
    for sign, best in ((1.0, 1.0), (-1.0, 0.0)):
        monkeypatch.setattr(segmentation, "patch_maps", oracle(picture, sign))
        rows = task.evaluate((seeing(vim()), None), sample, ["latim"], 0)
        for metric in ("mask_auc:others", "mask_auc", "pointing_game"):
            assert values(rows, metric) == [pytest.approx(best)], metric
        (pixels,), (correct,) = values(rows, "segmentation_pixels"), values(rows, "segmentation_correct")
        assert pixels == 2 * SIDE * SIDE, "the counts of both classes' maps are summed"
        assert (correct / pixels > 0.8) == (sign > 0)


def test_a_map_that_marks_every_object_alike_is_at_chance_between_them(monkeypatch):
    task = Segmentation(pictures="squares")
    monkeypatch.setattr(segmentation, "patch_maps", oracle(picture_set("squares").picture(0), blind=True))
    rows = task.evaluate((seeing(vim()), None), task.samples(1)[0], ["latim"], 0)
    assert values(rows, "mask_auc:others") == [pytest.approx(0.5)]
    assert values(rows, "mask_auc") == [pytest.approx(5 / 6)]  # the other square's 64 of 192 pixels are tied


def test_only_classes_that_the_model_sees_are_judged():
    task = Segmentation(pictures="squares")
    (sample,) = task.samples(1)  # of classes 0 and 2
    for seen, count, accuracy in (((0, 1), 1, 3 / 5), ((2, 0), 2, 1), ((), 0, 3 / 5), ((1, 3), 0, 1 / 5)):
        rows = task.evaluate((seeing(vim(), seen), None), sample, ["latim"], 0)
        assert values(rows, "accuracy") == [pytest.approx(accuracy)]
        assert sum(values(rows, "segmentation_pixels")) == count * SIDE * SIDE


def test_pixels_of_which_nothing_is_known_do_not_count(monkeypatch):
    labelled = np.ones((SIDE, SIDE), bool)
    labelled[:, 8:] = False
    labelled[8:, 8:] = True
    monkeypatch.setitem(picture_sets.SETS, "half", lambda: Squares(labelled=labelled))
    task = Segmentation(pictures="half")
    monkeypatch.setattr(segmentation, "patch_maps", oracle(picture_set("half").picture(0)))
    rows = task.evaluate((seeing(vim(), (0,)), None), task.samples(1)[0], ["latim"], 0)
    assert values(rows, "segmentation_pixels") == [SIDE * SIDE * 3 / 4]


@pytest.mark.parametrize("build", [vim, vit])
def test_every_method_and_layer_is_judged_on_every_metric(build):
    task, model = Segmentation(pictures="squares"), seeing(build())
    methods = METHODS if build is vim else ["latim", "rollout", "raw-attention"]
    task.check((model, None), methods)
    rows = task.evaluate((model, None), task.samples(None)[1], methods, 0)
    for metric in ("mask_auc:others", "mask_auc", "pointing_game", "average_precision", "average_precision:released"):
        for layer in (-1, 0, 1):
            (value,) = values(rows, metric, "latim", layer)
            assert 0 <= value <= 1
        assert len(values(rows, metric, methods[-1])) == 1
    names = {row.metric for row in rows}
    assert listed_metrics(task.metrics).keys() - names == {"pixel_accuracy", "mean_iou"}, (
        "these two are derived from counts"
    )
    assert all(isinstance(json.dumps(row.value), str) for row in rows)


def test_maps_are_the_methods_own_rows_laid_over_the_picture():
    model = vim()
    inputs = {"pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))}
    trace, (grid, _) = capture(model, **inputs), class_grid(model, inputs)
    found = {(one.method, one.layer): one.maps for one in patch_maps(model, inputs, ["rollout", "mamba-lrp"], [3, 1])}
    row = rollout(trace)[0, grid.class_position]
    for maps in found["rollout", -1]:
        torch.testing.assert_close(maps.flatten(), row[list(grid.patch_positions)], rtol=1e-4, atol=1e-5)
    for k, number in enumerate((3, 1)):
        scores = mamba_lrp(capture(model, **inputs), readouts.class_(number), rules=LRP_VISION).scores[0]
        expected = scores[list(grid.patch_positions)]
        torch.testing.assert_close(found["mamba-lrp", -1][k].flatten(), expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found["mamba-lrp", -1][0], found["mamba-lrp", -1][1])


def mean_pooled():
    return vim(class_token="none")


COMMON = ["gradient-x-input", "alti-logit", "occlusion", "latim", "rollout", "raw-attention"]


@pytest.mark.parametrize(
    ("build", "name"),
    [*itertools.product([vim, vit, mean_pooled], COMMON), (vim, "mamba-lrp"), (mean_pooled, "mamba-lrp")],
)
def test_classes_asked_together_get_the_maps_that_each_gets_alone(build, name):
    model = build()
    inputs = {"pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))}
    grid, _ = class_grid(model, inputs)
    found = {one.layer: one.maps for one in patch_maps(model, inputs, [name], [3, 1])}
    for k, number in enumerate((3, 1)):
        asks = find_method(name).asks
        alone = explain(model, None, inputs, method=name, target=number if asks else None)
        expected = grid.over_patches(alone.row())
        torch.testing.assert_close(found[-1][k], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pictures", ["squares", "one-class"])
@pytest.mark.parametrize("build", [vim, mean_pooled])
def test_perturbation_judges_every_method_for_both_answers(build, pictures):
    task, model = Perturbation(pictures=pictures), build()
    task.check((model, None), METHODS)
    rows = task.evaluate((model, None), task.samples(None)[2], METHODS, 0)
    assert {row.metric for row in rows} == listed_metrics(task.metrics).keys()
    assert {row.layer for row in rows} == {-1}
    for method in METHODS:
        for sign in ("positive", "negative"):
            (value,) = values(rows, f"perturbation_{sign}_area:target", method)
            assert 0 <= value <= 0.8 + 1e-12, "an area under answers of at most 1, over nine tenths from 0 to 0.8"
        assert len(values(rows, "flipping_gap", method)) == 1


def test_erasing_what_the_model_looks_at_makes_the_answer_fall(monkeypatch):
    """A model that counts the bright pixels of the first square: its class 0 is there while they are."""
    task = Perturbation(pictures="squares")
    picture = picture_set("squares").picture(0)

    def logits(model, pictures):
        bright = pictures[:, :, :8, :8].clamp(min=0).sum(dim=(1, 2, 3))
        return torch.stack([bright - 10, *[torch.full_like(bright, -1e3)] * 4], dim=1)

    monkeypatch.setattr(perturbation, "_logits", logits)
    monkeypatch.setattr(perturbation, "patch_maps", oracle(picture))
    rows = task.evaluate((seeing(vim(), (0,)), None), task.samples(1)[0], ["latim"], 0)
    assert (
        values(rows, "perturbation_negative_area:predicted")[0]
        > values(rows, "perturbation_positive_area:predicted")[0] + 0.3
    )
    assert values(rows, "flipping_gap")[0] > 0
    assert values(rows, "flipping_area_most_first")[0] < values(rows, "flipping_area_least_first")[0]
    monkeypatch.setattr(perturbation, "patch_maps", oracle(picture, sign=-1.0))
    rows = task.evaluate((seeing(vim(), (0,)), None), task.samples(1)[0], ["latim"], 0)
    assert values(rows, "flipping_gap")[0] < 0


def test_the_picture_of_one_class_keeps_its_own_class_whatever_map_is_used(monkeypatch):
    """Of exclusive classes accuracy is that of the label, for the predicted class's map too (as Chefer et al. do)."""
    task, model = Perturbation(pictures="one-class"), vim()
    asked = []
    monkeypatch.setattr(perturbation, "stays", lambda model, number, exclusive: asked.append((number, exclusive)) or (
        lambda pictures: torch.zeros(len(pictures))
    ))  # fmt: skip
    sample = task.samples(None)[4]
    rows = task.evaluate((model, None), sample, ["rollout"], 0)
    assert asked == [(4, True), (4, True)]
    with torch.no_grad():
        from mambascope.evaluate.picture_task import model_inputs

        guessed = int(model(**model_inputs(model, task.picture(sample))).logits[0].argmax())
    assert values(rows, "accuracy", "rollout") == [float(guessed == 4)]


def test_samples_and_their_hash_are_the_same_every_time():
    task = Segmentation(pictures="squares", most=5)
    assert [sample.id for sample in task.samples(None)] == ["0", "1", "2", "3", "4"]
    assert len(task.samples(2)) == 2
    assert len(Segmentation(pictures="squares", most=99).samples(None)) == 7
    assert task.data_hash() == Segmentation(pictures="squares", most=5).data_hash()
    assert task.data_hash() != Segmentation(pictures="squares", most=4).data_hash()


def test_models_that_do_not_fit_are_refused():
    task = Segmentation(pictures="squares")
    with pytest.raises(InputError, match="need a vision model, and MambaForCausalLM reads no pictures"):
        task.check((stock_model("mamba"), None), ["latim"])
    with pytest.raises(InputError, match="reads pictures of 8 x 8 pixels, and those of squares have 16 x 16"):
        task.check((vision_mamba(num_channels=3, image_size=8, patch_size=4), None), ["latim"])
    with pytest.raises(InputError, match="this model has 4 classes, and the pictures of squares have 5"):
        task.check((vim(num_labels=4), None), ["latim"])
    with pytest.raises(
        UnsupportedModelError, match="rollout:reference-code: the reference code reads the class token's row"
    ):
        task.check((vim(class_token="none"), None), ["latim", "rollout:reference-code"])
    with pytest.raises(UnsupportedModelError, match="norm-based cannot read"):
        task.check((vim(), None), ["norm-based"])
    with pytest.raises(InputError, match="unknown pictures 'cats'; choose one of digits"):
        Segmentation(pictures="cats").samples(None)


def test_labels_are_shrunk_by_their_middle():
    labels = np.arange(36).reshape(6, 6).astype(np.uint8)
    assert nearest(labels, (2, 3)).tolist() == [[7, 9, 11], [25, 27, 29]]
    assert (nearest(labels, (6, 6)) == labels).all()


@pytest.mark.data
@pytest.mark.parametrize("name", ["digits", "cifar10", "camvid"])
def test_the_real_sets_can_be_judged(data, name, monkeypatch):
    monkeypatch.setenv("MAMBASCOPE_DATA", str(data))
    pictures = picture_set(name)
    picture = pictures.picture(1)
    assert picture.pixels.shape[:2] == pictures.size
    assert picture.classes
    if not pictures.exclusive:
        assert picture.masks.shape == (len(picture.classes), *pictures.size)
        assert picture.masks.any(axis=(1, 2)).all()
    assert {find_task(task).pictures for task in ("segmentation", "segmentation-camvid", "perturbation")} <= {
        "digits", "camvid",
    }  # fmt: skip
