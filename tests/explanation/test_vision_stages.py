"""Models with stages: one stage is explained, laid over the picture, and what cannot be asked of it is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import mambascope
from mambascope import readouts
from mambascope.cli import main
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation import explain
from mambascope.explanation.stages import explains_stage
from mambascope.inputs.pictures import read_picture
from mambascope.methods.gradients import gradient_x_input
from mambascope.methods.mamba_attribution import from_gradients
from mambascope.methods.registry import METHODS
from mambascope.models.mambavision import MambaVision, MambaVisionConfig
from mambascope.models.vmamba import VMamba, VMambaConfig
from mambascope.show.picture_words import what_is_explained
from mambascope.trace import capture
from mambascope.trace.differentiate import differentiate
from picture_mixer_models import drawn
from vision_models import vision_mamba

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

SIDE = 32


def vmamba():
    config = VMambaConfig(image_size=SIDE, depths=(1, 2), hidden_sizes=(8, 12), mlp_ratio=2.0, num_labels=4)
    return drawn(VMamba(config), torch.float64)


def mambavision(**options):
    config = MambaVisionConfig(
        **{
            "depths": (1, 1, 2, 2),
            "hidden_size": 4,
            "stem_size": 3,
            "num_heads": (1, 1, 2, 4),
            "windows": (8, 8, 4, 2),
            "state_size": 2,
            "mlp_ratio": 1.5,
            "num_labels": 4,
        }
        | options
    )
    return drawn(MambaVision(config), torch.float64)


def pixels(height=SIDE, width=SIDE):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_the_last_stage_is_explained_unless_one_is_named():
    model = vmamba()
    for stage, number, side in ((None, 1, 4), (0, 0, 8), (1, 1, 4), (-2, 0, 8)):
        result = explain(model, None, pixels(), method="latim", stage=stage)
        assert (result.grid.rows, result.grid.columns, result.grid.class_position) == (side, side, None)
        assert (result.diagnostics["stage"], result.diagnostics["stages"]) == (number, 2)
        assert result.scores.shape == ((1, 2)[number], 1, side**2)
        assert result.target.pooled == side**2
        assert result.grid.size == (SIDE, SIDE)


def test_rows_are_the_means_over_the_stages_own_tokens():
    model = vmamba()
    result = explain(model, None, pixels(), method="latim", stage=0)
    trace = capture(model, pixel_values=read_picture(pixels(), model).pixel_values.double())
    own = mambascope.methods.latim(trace.stages[0])[0, 0].mean(dim=0)
    torch.testing.assert_close(result.row().double(), own, rtol=1e-5, atol=1e-7)


def test_a_class_is_explained_by_gradients_back_to_the_first_stage_or_at_a_stages_mixers():
    model = vmamba()
    inputs = {"pixel_values": read_picture(pixels(), model).pixel_values.double()}
    result = explain(model, None, pixels(), target=2)
    assert (result.method, result.grid.rows) == ("gradient-x-input", 8)
    expected = gradient_x_input(capture(model, **inputs), readouts.class_(2)).scores[0]
    torch.testing.assert_close(result.row().double(), expected, rtol=1e-5, atol=1e-7)
    against = explain(model, None, pixels(), foil=1)
    assert (against.method, against.grid.rows) == ("gradient-x-input", 8), "a foil alone asks about a class too"
    assert against.target.asked.endswith("minus that of 'LABEL_1'")
    result = explain(model, None, pixels(), target=2, method="mamba-attribution", stage=0)
    gradients = differentiate(model, readouts.class_(2), mixers=True, **inputs)
    expected = from_gradients(capture(model, **inputs).stages[0], gradients, range(64))[0]
    torch.testing.assert_close(result.row().double(), expected, rtol=1e-5, atol=1e-7)
    other = explain(model, None, pixels(), target=1, method="mamba-attribution", stage=0)
    assert not torch.allclose(result.row(), other.row())


def test_mamba_attribution_says_nothing_before_a_layer_norm_and_says_so():
    """The gradient before a LayerNorm has no mean over the width: the published formula is left with nothing."""
    model = vmamba()
    inputs = {"pixel_values": read_picture(pixels(), model).pixel_values.double()}
    gradients = differentiate(model, readouts.class_(2), mixers=True, **inputs)
    with pytest.raises(UnsupportedModelError, match="zero here up to rounding, because LayerNorms follow"):
        from_gradients(capture(model, **inputs).stages[1], gradients, range(16))
    with pytest.raises(UnsupportedModelError, match="mamba-attribution cannot explain stage 1 of a VMamba by itself"):
        explain(model, None, pixels(), target=2, method="mamba-attribution")
    model = mambavision()  # a batch norm follows its last stage, and takes no mean out
    inputs = {"pixel_values": read_picture(pixels(64, 64), model).pixel_values.double()}
    gradients = differentiate(model, readouts.class_(2), mixers=True, **inputs)
    assert from_gradients(capture(model, **inputs).stages[1], gradients, range(4)).std() > 0


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_explains_a_stage_or_says_that_it_cannot(name, stage):
    model = vmamba()
    if not METHODS[name].reads({"scan"}) or not explains_stage(model, METHODS[name], stage):
        with pytest.raises(UnsupportedModelError):
            explain(model, None, pixels(), method=name, stage=stage)
        return
    result = explain(model, None, pixels(), method=name, stage=stage)
    assert result.grid.rows == (8, 4)[stage]
    assert result.scores.isfinite().all()
    assert result.scores.std() > 0
    assert result.image.shape == (SIDE, SIDE, 3)


def test_a_patch_of_a_stage_can_be_asked_about():
    model = vmamba()
    result = explain(model, None, pixels(), patch=(3, 1))
    assert (result.method, result.target.position) == ("latim", 13)
    with pytest.raises(InputError, match="no patch in row 4"):
        explain(model, None, pixels(), patch=(4, 0))
    explain(model, None, pixels(), patch=(4, 0), stage=0)


@pytest.mark.parametrize(
    ("layer", "kinds"),
    [
        ("all", ["scan", "scan", "attention", "attention"]),
        (slice(1, 4), ["scan", "attention", "attention"]),
        ("1:3", ["scan", "attention"]),
        ([3, 0], ["attention", "scan"]),
        ([-4, -1], ["scan", "attention"]),
        ([2, 3], ["attention", "attention"]),
        (-1, ["attention"]),
    ],
)
def test_a_hybrids_layers_are_told_by_kind_whichever_are_asked_for(layer, kinds):
    """Of the layers that are explained, in their order."""
    model = mambavision(depths=(1, 1, 4, 2))
    result = explain(model, None, pixels(64, 64), method="latim", layer=layer, stage=0)
    assert list(result.layer_kinds) == kinds
    own = ("scan", "scan", "attention", "attention")
    assert result.model.kinds == own
    assert [own[number] for number in result.axes["layer"]] == kinds


def test_mambavision_is_explained_where_a_stage_is_one_window():
    model = mambavision()
    assert model.config.image_size == 64
    for stage, side in ((None, 2), (0, 4)):
        result = explain(model, None, pixels(64, 64), stage=stage, method="latim")
        assert (result.grid.rows, result.grid.columns) == (side, side)
    with pytest.raises(UnsupportedModelError, match="stage 0 of this MambaVision reads the picture in 4 windows"):
        explain(mambavision(windows=(8, 8, 2, 2)), None, pixels(64, 64), stage=0)


def test_a_picture_whose_last_cells_are_cut_off_is_refused_and_no_positions_are_said_to_be_interpolated():
    model = vmamba()
    with pytest.raises(UnsupportedModelError, match="are not whole patches of its picture"):
        explain(model, None, pixels(36, 40), keep_size=True)
    wider = explain(model, None, pixels(32, 40), keep_size=True)
    assert (wider.grid.rows, wider.grid.columns) == (4, 5)
    assert "interpolated" not in wider.diagnostics.get("preparation", "")


def test_what_is_no_question_about_a_stage_is_refused():
    model = vmamba()
    with pytest.raises(UnsupportedModelError, match="mamba-lrp cannot explain stage 1 of a VMamba by itself; these"):
        explain(model, None, pixels(), method="mamba-lrp")
    with pytest.raises(UnsupportedModelError, match="occlusion cannot explain stage 0 of a MambaVision"):
        explain(mambavision(), None, pixels(64, 64), method="occlusion")
    with pytest.raises(InputError, match="stage 2 does not exist: the model has 2 that mix tokens, 0 to 1"):
        explain(model, None, pixels(), stage=2)
    with pytest.raises(InputError, match="layer 2 does not exist; this model has layers 0–1"):
        explain(model, None, pixels(), method="latim", layer=2)
    with pytest.raises(InputError, match="VisionMamba has no stages"):
        explain(vision_mamba(num_channels=3, image_size=16, patch_size=4), None, pixels(), stage=0)


def test_words_say_which_stage_is_explained():
    model = vmamba()
    said = what_is_explained(explain(model, None, pixels(), target=2))
    assert said == "explains 'LABEL_2', in the 64 patches of stage 0 (0 to 1)"
    assert what_is_explained(explain(model, None, pixels())) == "explains the 16 patches of stage 1 (0 to 1) together"
    assert what_is_explained(explain(model, None, pixels(), patch=(0, 1))) == "explains patch 0,1"


def test_methods_share_one_capture():
    results = explain(vmamba(), None, pixels(), method=["latim", "rollout", "raw-attention"], stage=0)
    assert {len(result.tokens) for result in results} == {64}


@pytest.fixture
def released(tmp_path):
    torch.manual_seed(0)
    config = VMambaConfig(depths=(1, 1, 1, 1), hidden_sizes=(4, 6, 8, 10), mlp_ratio=1.0, num_labels=3)
    path, picture = tmp_path / "vmamba.pth", tmp_path / "picture.png"
    torch.save({"model": drawn(VMamba(config), torch.float32).state_dict()}, path)
    Image.fromarray(pixels(64, 96)).save(picture)
    return str(picture), "--model", str(path), "--keep-size"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command with these arguments; returns exit code, standard output and standard error."""

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["mambascope", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


def test_the_command_explains_a_released_file_stage_by_stage(released, run, tmp_path):
    for stage, cell in (((), 32), (("--stage", "2"), 16)):
        code, out, error = run("explain", *released, *stage, "--json")
        assert code == 0, error
        expected = {"rows": 64 // cell, "columns": 96 // cell, "class_position": None, "patch": cell, "stride": cell}
        assert json.loads(out)["grid"] == expected
    page = tmp_path / "page.html"
    for more in ((), ("--target", "1"), ("--target", "1", "--method", "mamba-attribution", "--stage", "2")):
        code, _, error = run("explain", *released, *more, "--out", str(page))
        assert code == 0, error
        assert page.stat().st_size > 10_000
    code, _, error = run("explain", "some text", "--stage", "2")
    assert code == 2
    assert "--stage is for pictures" in error


def test_the_comparison_shows_what_can_be_shown(released, run):
    picture, _, path, keep = released
    code, out, error = run("compare", picture, "--models", path, keep)
    assert code == 0, error
    assert "rollout" in out
    assert "mamba-lrp cannot explain the last stage by itself" in out
