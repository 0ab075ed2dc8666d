"""Training on pictures: what a step holds, the fast mixer of Vim, the head for patches, and that a run resumes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mambascope
from mambascope.inputs.preparation import preparation
from mambascope.models.vim import VisionMamba, VisionMambaConfig
from rounding import assert_trained_alike
from training.running import loop
from training.running.scans import fast_scans
from training.vision import export as vision_export
from training.vision import pictures
from training.vision import train as vision
from training.vision.patch_teaching import PatchTaught
from training.vision.pictures import Camvid, PictureBatch, epochs, moved, patch_classes, picture_loss, presence_figures
from training.zoo import export as zoo
from vision_models import vision_mamba

CLASSES = tuple("abcd")


class Stripes:
    """Eight-pixel pictures whose classes are those of their four quarters, each a patch."""

    size, classes, patch, taught = (8, 8), CLASSES, 4, True

    def step(self, step):
        rng = np.random.default_rng(step)
        patches = rng.integers(0, 5, (6, 2, 2))
        there = np.stack([(patches == k).any(axis=(1, 2)) for k in range(4)], axis=1).astype(np.float32)
        levels = patches.repeat(4, axis=1).repeat(4, axis=2)[:, None].repeat(3, axis=1)
        return PictureBatch(torch.from_numpy(levels / 2.0 - 1).float(), *map(torch.from_numpy, (there, patches)))

    def validate(self, model):
        batch = self.step(10**6)
        with torch.no_grad():
            return presence_figures(model(pixel_values=batch.pixels).logits, batch.shown)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2}
SETTINGS = {
    "vim": vision.architecture("vim", Stripes()) | SMALL,
    "vit": vision.architecture("vit", Stripes()) | SMALL | {"num_attention_heads": 2},
}


def build(model):
    torch.manual_seed(0)
    return vision.build(model, SETTINGS[model])


@pytest.mark.parametrize("options", [{}, {"class_token": "first", "divide_output": False, "use_bias": False}])
def test_the_fast_mixer_changes_no_logit_and_no_gradient(options):
    model = vision_mamba(num_channels=3, hidden_size=16, state_size=4, **options)
    x = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    stock = model(pixel_values=x).logits
    stock.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    with fast_scans():
        fast = model(pixel_values=x).logits
        fast.square().sum().backward()
    torch.testing.assert_close(fast, stock, rtol=1e-4, atol=1e-5)
    for name, parameter in model.named_parameters():
        scale = float(gradients[name].abs().max())
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("model", vision.MODELS)
def test_the_head_for_patches_leaves_the_pictures_logits_alone(model):
    inner = build(model).eval()
    taught = PatchTaught(inner)
    batch = Stripes().step(0)
    found = taught(pixel_values=batch.pixels)
    torch.testing.assert_close(found.logits, inner(pixel_values=batch.pixels).logits, rtol=1e-5, atol=1e-6)
    assert found.patches.shape == (6, 4, len(CLASSES) + 1)


@pytest.mark.parametrize("model", vision.MODELS)
def test_patches_are_asked_for_what_they_show_and_not_their_neighbours(model):
    """Trained on patches alone, the head learns in a few steps which level of grey is which class, in its own place."""
    taught = PatchTaught(build(model))
    optimizer = torch.optim.AdamW(taught.parameters(), lr=1e-2)
    for step in range(60):
        batch = Stripes().step(step)
        with fast_scans():
            logits = taught(pixel_values=batch.pixels).patches
        loss = F.cross_entropy(logits.flatten(0, 1), batch.patches.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = Stripes().step(999)
    right = taught(pixel_values=batch.pixels).patches.argmax(-1) == batch.patches.flatten(1)
    assert right.float().mean() > 0.9


def test_the_loss_is_of_classes_and_of_patches_where_they_are_known():
    model = PatchTaught(build("vim"))
    batch = Stripes().step(0)
    found = model(pixel_values=batch.pixels)
    classes = F.binary_cross_entropy_with_logits(found.logits, batch.shown)
    patches = F.cross_entropy(found.patches.flatten(0, 1), batch.patches.flatten())
    torch.testing.assert_close(picture_loss(model, batch), classes + patches)
    torch.testing.assert_close(picture_loss(model, batch._replace(patches=None)), classes)
    one = PictureBatch(batch.pixels, torch.tensor([0, 1, 2, 3, 0, 1]))
    torch.testing.assert_close(picture_loss(model, one), F.cross_entropy(found.logits, one.shown))
    assert one.seen == 6


def test_the_class_of_a_patch_is_that_of_most_of_its_pixels_if_they_are_enough():
    shown = np.full((1, 4, 8), 3)  # three classes; 3 is none
    shown[0, :, :2] = 1  # half of the first patch
    shown[0, 0, 0] = 2
    shown[0, 0, 4] = 0  # a sixteenth of the second
    assert patch_classes(shown, 4, 3, least=0.1).tolist() == [[[1, 3]]]
    assert patch_classes(shown, 4, 3, least=0.05).tolist() == [[[1, 0]]]
    assert patch_classes(shown, 4, 3, least=0.6).tolist() == [[[3, 3]]]


def test_an_epoch_shows_every_picture_once():
    places = np.arange(100, 123)
    seen = np.concatenate([epochs(places, 5, 7, step)[0] for step in range(4)])
    assert len(seen) == len(set(seen.tolist())) == 20
    assert set(seen.tolist()) <= set(places.tolist())
    assert (epochs(places, 5, 7, 2)[0] == epochs(places, 5, 7, 2)[0]).all()
    assert (epochs(places, 5, 7, 4)[0] != epochs(places, 5, 7, 0)[0]).any(), "the next epoch has another order"


def test_moved_pictures_are_windows_of_the_same_picture():
    rng = np.random.default_rng(0)
    original = rng.integers(0, 256, (40, 9, 7, 2), dtype=np.uint8)
    found = moved(original, 2, np.random.default_rng(1))
    padded = np.pad(original, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    shifts = set()
    for k in range(40):
        places = [
            (y, x, turned)
            for y in range(5)
            for x in range(5)
            for turned in (1, -1)
            if (padded[k, y : y + 9, x : x + 7][:, ::turned] == found[k]).all()
        ]
        assert len(places) == 1
        shifts.add(places[0])
    assert len(shifts) > 20
    assert {turned for _, _, turned in shifts} == {1, -1}


def test_presence_figures_by_hand():
    logits = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    there = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert presence_figures(logits, there) == {"classes_right": 0.75, "pictures_right": 0.5}


@pytest.mark.parametrize("model", vision.MODELS)
def test_a_resumed_run_ends_as_the_uninterrupted_one(model, tmp_path):
    settings = loop.Settings("stripes", {"model": model}, steps=6, warmup=2, decay=2)
    reporting = loop.Reporting(log_steps=2, validation_steps=99, unit="pictures")

    def run(folder, stop=None):
        learner = PatchTaught(build(model))
        run = loop.train(settings, learner, Stripes(), tmp_path / folder, reporting, False, stop, picture_loss)
        return run.state_dict()

    whole = run("whole")
    run("parts", 4)
    assert_trained_alike(run("parts"), whole, PatchTaught(build(model)).state_dict())
    table = (tmp_path / "parts" / "curve.csv").read_text().split()
    assert table[0].startswith("step,pictures,")
    assert [line.split(",")[:2] for line in table[1:]] == [["2", "12"], ["4", "24"], ["6", "36"]]


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_the_two_models_are_of_one_size_and_small(dataset):
    task = {"digits": pictures.Digits, "cifar10": pictures.Cifar10}[dataset]
    sizes = [
        sum(parameter.numel() for parameter in vision.build(model, vision.architecture(model, task)).parameters())
        for model in vision.MODELS
    ]
    assert max(sizes) < 1.05 * min(sizes)
    assert 2 * max(sizes) < 8_000_000


@pytest.mark.data
def test_road_scenes_move_with_their_labels(data):
    task = Camvid(data, batch=4, seed=0)
    batch = task.step(3)
    assert batch.pixels.shape == (4, 3, 96, 128)
    assert batch.patches.shape == (4, 12, 16)
    assert batch.shown.shape == (4, 11)
    sky = batch.pixels.mean(dim=1).unflatten(1, (12, 8)).unflatten(3, (16, 8)).mean(dim=(2, 4))
    bright = sky[batch.patches == 0].mean(), sky[batch.patches != 0].mean()
    assert bright[0] > bright[1] + 0.2, "patches that are called sky are brighter than the others"


@pytest.mark.parametrize("model", vision.MODELS)
def test_an_exported_model_is_the_one_that_was_trained(model, tmp_path):
    learner = PatchTaught(build(model))
    settings = loop.Settings("stripes", SETTINGS[model], steps=1, warmup=1, decay=0)
    loop.train(settings, learner, Stripes(), tmp_path, loop.Reporting(), loss_of=picture_loss)
    found = vision_export.load_run(model, tmp_path / "checkpoint.pt")
    batch = Stripes().step(5)
    expected = learner.eval()(pixel_values=batch.pixels).logits
    torch.testing.assert_close(found(pixel_values=batch.pixels).logits, expected, rtol=1e-5, atol=1e-6)
    size = vision_export.export(found, tmp_path / "folder", (8, 8))
    assert size == (tmp_path / "folder" / "model.safetensors").stat().st_size
    loaded, _ = mambascope.load(tmp_path / "folder")
    torch.testing.assert_close(loaded(pixel_values=batch.pixels).logits, expected, rtol=1e-2, atol=1e-2)  # float16


def test_a_vision_mamba_is_built_as_its_settings_say():
    config = build("vim").config
    assert isinstance(config, VisionMambaConfig)
    assert isinstance(build("vim"), VisionMamba)
    assert config.id2label == dict(enumerate(CLASSES))
    assert config.class_token == "middle"


@pytest.mark.parametrize(("place", "at"), [("first", 0), ("middle", 32), ("last", 64), ("none", None)])
def test_the_patches_are_taught_wherever_the_class_token_stands(place, at):
    learner = PatchTaught(vision.build("vim", vision.architecture("vim", pictures.Digits, place))).eval()
    pixels = torch.randn(2, 3, 64, 64)
    features = learner.model(pixel_values=pixels).last_hidden_state
    patches = features[:, [k for k in range(features.shape[1]) if k != at]]
    torch.testing.assert_close(learner(pixel_values=pixels).patches, learner.patch_head(patches))


def test_runs_are_named_after_the_place_of_the_class_token():
    assert vision.run_name("digits", "vim", "middle") == "vision-digits-vim"
    assert vision.run_name("digits", "vim", "first") == "vision-digits-vim-first"


ZOO = Path(__file__).parents[2] / "zoo"
EXPORTED = sorted(folder.name for folder in ZOO.glob("vision-*") if (folder / "model.safetensors").exists())


@pytest.mark.data
@pytest.mark.parametrize("name", EXPORTED)
def test_a_vision_model_of_the_zoo_loads_and_knows_its_pictures(name, data):
    folder = ZOO / name
    assert (folder / "model.safetensors").stat().st_size <= zoo.MOST_BYTES
    assert (folder / "README.md").exists()
    model, tokenizer = mambascope.load(folder)
    assert tokenizer is None
    told = preparation(model)
    assert (told.mean, told.std, told.scale) == ((0.5,) * 3, (0.5,) * 3, (64, 64))
    figures = pictures.Digits(data, 1, 0, held_out=60).validate(model)
    assert figures["classes_right"] > 0.93  # saying no to all gets 0.8
