"""Pictures explained: patches in their places, the class token apart, any patch in its stead, and clear refusals."""

import json

import pytest
import torch

from mambascope import Attribution, capture
from mambascope.attribution import Model, Target
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation import explain
from mambascope.grid import Grid
from mambascope.inputs.pictures import read_picture
from mambascope.methods.latim import latim
from mambascope.methods.registry import METHODS
from models import stock_model
from picture_checkpoints import CLASSES, GRID, SIDE, astronaut, saved, vim, vit
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = vit()
    saved(model, tmp_path_factory.mktemp("vit"))
    return model


@pytest.mark.parametrize("place", [None, 0, 6, 12])
def test_patches_lie_row_by_row_around_the_class_token(place):
    grid = Grid(3, 4, place, patch=4, stride=2)
    assert grid.tokens == 12 + (place is not None)
    assert grid.size == (8, 10)
    names = [grid.name(position) for position in range(grid.tokens)]
    patches = [f"{row},{column}" for row in range(3) for column in range(4)]
    assert [name for name in names if name != "class"] == patches
    assert place is None or names[place] == "class"
    assert [grid.place(grid.position(row, column)) for row in range(3) for column in range(4)] == [
        (row, column) for row in range(3) for column in range(4)
    ]
    scores = torch.arange(grid.tokens)
    laid = grid.over_patches(scores.float())
    assert all(laid[row, column] == grid.position(row, column) for row in range(3) for column in range(4))
    with pytest.raises(InputError, match="row 3 and column 0: the picture has 3 rows and 4 columns"):
        grid.position(3, 0)


def test_a_result_has_its_picture_and_the_place_of_every_patch(model):
    result = explain(model, None, astronaut(), method="latim", target=None)
    assert result.grid == Grid(GRID, GRID, 0, SIDE // GRID, SIDE // GRID)
    assert result.tokens[:3] == ("class", "0,0", "0,1")
    assert torch.equal(result.image, torch.from_numpy(astronaut()))
    assert result.target.position == 0
    trace = capture(model, pixel_values=read_picture(astronaut(), model).pixel_values)
    expected = latim(trace)[0, :, 0, 1:].unflatten(-1, (GRID, GRID))
    assert torch.allclose(result.picture(), expected.mean(0), rtol=1e-5)
    assert torch.allclose(result.picture(layer=1), expected[1], rtol=1e-5)
    assert sorted(name for name, _ in result.target.next_tokens) == sorted(CLASSES.values())
    assert sum(share for _, share in result.target.next_tokens) == pytest.approx(1, abs=1e-5)
    assert result.diagnostics["preparation"] == "resized from 512 x 512 to 32 x 32 pixels"


def test_a_class_is_asked_for_by_name_or_number(model):
    by_name = explain(model, None, astronaut(), target="rocket")
    assert by_name.method == "alti-logit"
    assert by_name.target.asked == "logit of class 'rocket'"
    by_number = explain(model, None, astronaut(), target=1)
    assert_equal_to_rounding(by_name.scores, by_number.scores)
    against = explain(model, None, astronaut(), target="rocket", foil="9")
    assert against.target.asked == "logit of class 'rocket' minus that of '9'"
    with pytest.raises(InputError, match=r"'dog' is not a class of this model; its classes are tabby cat, ro"):
        explain(model, None, astronaut(), target="dog")


def test_a_foil_alone_is_a_question_about_the_likeliest_class(model):
    for reader, options, method in (
        (model, {}, "alti-logit"),
        (vim(), {}, "mamba-lrp"),
        (vim(), {"method": "mamba-attribution", "patch": (2, 1)}, "mamba-attribution"),  # not of the patch's features
    ):
        (best, _), *_, (other, _) = explain(reader, None, astronaut()).target.next_tokens
        alone = explain(reader, None, astronaut(), foil=other, **options)
        assert alone.method == method
        assert alone.target.asked == f"logit of class '{best}' minus that of '{other}'"
    with pytest.raises(InputError, match="latim scores a position, whatever is predicted there"):
        explain(model, None, astronaut(), method="latim", foil=0)


def test_a_patch_is_explained_in_place_of_the_class_token(model):
    at_patch = explain(model, None, astronaut(), patch=(2, 1))
    every = explain(model, None, astronaut(), method="latim", positions="all")
    position = every.grid.position(2, 1)
    assert at_patch.method == "latim"
    assert (at_patch.target.position, at_patch.target.token) == (position, "2,1")
    assert torch.allclose(at_patch.picture(), every.picture(position), rtol=1e-5)
    assert not torch.allclose(at_patch.picture(), every.picture(), rtol=0.1)
    with pytest.raises(InputError, match="no patch in row 4 and column 0: the picture has 4 rows and 4 columns"):
        explain(model, None, astronaut(), patch=(4, 0))
    with pytest.raises(InputError, match="alti-logit explains a class, not a single patch"):
        explain(model, None, astronaut(), patch=(0, 0), method="alti-logit")


def test_a_class_is_not_explained_at_several_positions_by_what_explains_it_as_a_whole(model):
    for positions in ([1, 2], "1:3", "all"):
        with pytest.raises(InputError, match="alti-logit explains a class, not single positions; choose one of latim"):
            explain(model, None, astronaut(), positions=positions, method="alti-logit")
    result = explain(model, None, astronaut(), positions=[1, 2], method="latim")
    for row, position in enumerate((1, 2)):
        alone = explain(model, None, astronaut(), position=position, method="latim")
        assert_equal_to_rounding(result.scores[:, row], alone.scores[:, 0])


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.reads({"attention"})])
def test_the_place_matters_where_a_method_says_so(model, name):
    """A method that is not `by_place` gives the same wherever it is asked; one that is gives something else."""
    inputs = {"pixel_values": read_picture(astronaut(), model).pixel_values}
    asked = [explain(model, None, inputs, method=[name], position=place)[0] for place in (0, 7)]
    assert torch.allclose(asked[0].row(0), asked[1].row(7), rtol=1e-4) == (not METHODS[name].by_place)


@pytest.mark.parametrize("place", ["middle", "none"])
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.reads({"scan"})])
def test_a_patch_of_vision_mamba_is_explained_by_every_method(place, name):
    """By its own features where a method explains a number; a class asked for by name is explained or refused."""
    vision = vim(class_token=place)
    of_patch = explain(vision, None, astronaut(), method=name, patch=(2, 1))
    assert of_patch.target.token == "2,1"
    assert of_patch.target.pooled == 1
    assert of_patch.target.asked.startswith("size of the features") == METHODS[name].asks
    other = explain(vision, None, astronaut(), method=name, patch=(0, 3))
    assert not torch.allclose(of_patch.picture(), other.picture(), rtol=1e-2)
    if not METHODS[name].by_place:
        with pytest.raises(InputError, match="not a single patch"):
            explain(vision, None, astronaut(), method=name, patch=(2, 1), target=0)
        with pytest.raises(InputError, match="not a single patch"):
            explain(vision, None, astronaut(), method=name, patch=(2, 1), foil=0)


def test_the_mean_of_the_patches_is_in_focus_where_classes_are_read_from_it():
    vision = vim(class_token="none")
    every = explain(vision, None, astronaut(), method="latim", positions="all")
    alone = explain(vision, None, astronaut(), method="latim")
    assert every.target.pooled == alone.target.pooled == GRID**2
    assert torch.allclose(every.picture(), alone.picture(), rtol=1e-4)
    assert not torch.allclose(every.row(every.target.position), alone.row(), rtol=0.1)
    assert torch.allclose(every.layer_mass(), alone.layer_mass(), rtol=1e-4)
    assert len(every.top(99)) == GRID**2
    assert [source.position for source in every.top(3)] == [source.position for source in alone.top(3)]


def test_pixels_that_make_no_patch_are_told_and_not_shown(model):
    result = explain(model, None, astronaut()[:45, :70], method="latim", keep_size=True)
    assert (result.grid.rows, result.grid.columns) == (5, 8)
    assert result.image.shape == (40, 64, 3)
    assert "6 columns of pixels at the right and 5 rows at the bottom are not read" in result.diagnostics["preparation"]


def test_a_picture_comes_back_from_a_file(model, tmp_path):
    result = explain(model, None, astronaut(), method="latim")
    loaded = Attribution.load(result.save(tmp_path / "x.safetensors"))
    assert loaded.grid == result.grid
    assert torch.equal(loaded.image, result.image)
    assert torch.equal(loaded.scores, result.scores)
    assert_equal_to_rounding(loaded.picture(), result.picture())
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["grid"] == {"rows": 4, "columns": 4, "class_position": 0, "patch": 8, "stride": 8}
    for row, expected in zip(plain["picture"], result.picture().tolist(), strict=True):
        assert row == pytest.approx(expected, rel=1e-6), "the mean over layers, in float32"


def test_a_text_has_no_picture():
    text = Attribution(
        scores=torch.zeros(1, 1, 2),
        tokens=("a", "b"),
        axes={"layer": (0,), "target": (1,), "source": (0, 1)},
        method="latim",
        target=Target(1, "b"),
        model=Model("m", "mamba", "M", 1, 2),
    )
    with pytest.raises(InputError, match="of a text, not of a picture"):
        text.picture()
    with pytest.raises(InputError, match="a grid of 5 tokens was given for 2"):
        Attribution(**{**vars(text), "grid": Grid(2, 2, 0, 1, 1)})


def test_models_that_read_no_pictures_or_cut_them_otherwise_are_refused(model, monkeypatch):
    with pytest.raises(InputError, match="MambaForCausalLM reads text, not pictures"):
        explain(stock_model("mamba"), None, astronaut(), method="latim")
    monkeypatch.setattr(model.config, "patch_size", 16)
    with pytest.raises(UnsupportedModelError, match="the 17 tokens of ViTForImageClassification are not whole patches"):
        explain(model, None, astronaut(), method="latim")
