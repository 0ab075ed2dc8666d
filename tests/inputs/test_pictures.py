"""Pictures as models read them: prepared as the checkpoint says, whatever the file holds, and what is done is told."""

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from mambascope.errors import CheckpointError, InputError
from mambascope.inputs.pictures import SHOWN_SIDE, is_picture, read_picture
from models import stock_model
from picture_checkpoints import PROCESSOR, SIDE, astronaut, cat, saved, vim, vit


@pytest.fixture
def model(tmp_path):
    model = vit()
    saved(model, tmp_path / "vit")
    return model


@pytest.fixture
def file(tmp_path):
    """Write an image of Pillow to a file and return its path."""

    def write(image, name="picture.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def test_the_processor_beside_the_checkpoint_is_followed(model, file):
    photograph = Image.fromarray(cat())
    picture = read_picture(file(photograph), model)
    resized = np.asarray(photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    expected = (resized - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    assert picture.pixel_values.shape == (1, 3, SIDE, SIDE)
    assert np.allclose(picture.pixel_values[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert picture.notes == ("resized from 451 x 300 to 32 x 32 pixels",)
    assert np.array_equal(picture.image.numpy(), cat()), "the original is kept for display"
    assert picture.name == "picture.png"


def test_a_cropping_processor_keeps_the_proportions_and_shows_what_is_read(tmp_path, file):
    model = vit()
    crop = {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
    saved(model, tmp_path / "vit", PROCESSOR | crop)
    photograph = Image.fromarray(cat())
    picture = read_picture(file(photograph), model)
    resized = photograph.resize((60, 40), Image.Resampling.BILINEAR).crop((14, 4, 46, 36))
    expected = (np.asarray(resized) / 255 - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    assert np.allclose(picture.pixel_values[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert picture.image.shape == (240, 241, 3), "a square of 32/40 of the height from the middle"
    assert np.array_equal(picture.image.numpy(), cat()[30:270, 105:346])
    assert "the middle 43 % of it, resized from 451 x 300 to 32 x 32 pixels" in picture.notes


def test_without_a_processor_imagenets_numbers_stand_in_and_that_is_told(tmp_path, file):
    model = vit()
    saved(model, tmp_path / "vit", processor=None)
    picture = read_picture(file(Image.new("RGB", (64, 48), (124, 116, 104))), model)
    assert picture.pixel_values.shape == (1, 3, SIDE, SIDE)
    assert picture.pixel_values.abs().max() < 0.02, "ImageNet's mean colour is nought"
    assert any("ImageNet" in note for note in picture.notes)
    assert picture.image.shape == (48, 48, 3), "its middle"


def test_a_large_picture_is_shown_smaller(model):
    picture = read_picture(np.zeros((1000, 1500, 3), np.uint8), model)
    assert picture.image.shape == (427, SHOWN_SIDE, 3)


@pytest.mark.parametrize(
    ("mode", "note"),
    [
        ("L", "grey, read with three equal colours"),
        ("1", "grey, read with three equal colours"),
        ("CMYK", "converted from CMYK to RGB"),
        ("P", None),
        ("RGB", None),
    ],
)
def test_every_kind_of_pixel_becomes_rgb_and_is_told(model, mode, note):
    photograph = Image.fromarray(astronaut()[:SIDE, :SIDE])
    picture = read_picture(photograph.convert(mode), model)
    expected = torch.from_numpy(np.array(photograph.convert(mode).convert("RGB")))
    assert torch.equal(picture.image, expected)
    assert picture.notes == (() if note is None else (note,))


def test_16_bits_of_grey_are_scaled(model):
    deep = Image.fromarray(np.full((SIDE, SIDE), 257 * 100, np.uint16))
    picture = read_picture(deep, model)
    assert (picture.image == 100).all()
    assert "16 bits of grey reduced to 8" in picture.notes


def test_transparent_parts_become_white_and_opaque_alpha_is_nothing_to_tell(model):
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[: SIDE // 2, :, 3] = 255
    picture = read_picture(pixels, model)
    assert (picture.image[: SIDE // 2] == 0).all()
    assert (picture.image[SIDE // 2 :] == 255).all()
    assert picture.notes == ("transparent parts laid on white",)
    pixels[..., 3] = 255
    assert read_picture(pixels, model).notes == ()


def test_a_picture_lying_on_its_side_is_turned_as_its_file_says(model, file):
    upright = Image.fromarray(cat())
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    path = file(upright.rotate(90, expand=True), "side.png", exif=exif)
    picture = read_picture(path, model)
    assert np.array_equal(picture.image.numpy(), cat())
    assert "turned upright, as the file says" in picture.notes


def test_of_several_pictures_in_a_file_the_first_is_read(model, file):
    frames = [Image.new("RGB", (SIDE, SIDE), (shade, 0, 0)) for shade in (10, 200)]
    path = file(frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(path, model)
    assert "the first of 2 pictures in the file" in picture.notes
    assert (picture.image[..., 0] == 10).all()


def test_a_picture_may_keep_its_size(model, file):
    picture = read_picture(file(Image.fromarray(cat()[:50, :70])), model, keep_size=True)
    assert picture.pixel_values.shape == (1, 3, 50, 70)
    assert picture.notes == ("the model's positions, made for 32 x 32 pixels, interpolated for 70 x 50",)


def test_a_model_of_one_channel_reads_grey(tmp_path):
    model = vim(num_channels=1)
    saved(model, tmp_path / "vim", PROCESSOR | {"image_mean": [0.5], "image_std": [0.5]})
    picture = read_picture(np.full((SIDE, SIDE, 3), 255, np.uint8), model)
    assert picture.pixel_values.shape == (1, 1, SIDE, SIDE)
    assert (picture.pixel_values == 1).all()
    assert picture.notes == ("read in grey",)
    with pytest.raises(InputError, match="2 channels"):
        read_picture(astronaut(), vim(num_channels=2))


def test_what_cannot_be_read_is_one_sentence(model, tmp_path, file):
    (tmp_path / "text.png").write_text("these are words")
    whole = file(Image.fromarray(cat()), "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "half.jpg", "empty.png"):
        with pytest.raises(InputError, match="could not be read as an image") as caught:
            read_picture(tmp_path / name, model)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="there is no picture"):
        read_picture(tmp_path / "absent.png", model)
    with pytest.raises(InputError, match="reads text"):
        read_picture(astronaut(), stock_model("mamba"))


@pytest.mark.parametrize(
    "change", [{"image_mean": [0.5]}, {"size": {"longest_edge": 9}}, {"image_std": [0, 1, 1]}, {"size": "large"}]
)
def test_a_processor_that_cannot_be_used_is_refused(tmp_path, change):
    model = vit()
    saved(model, tmp_path / "vit", PROCESSOR | change)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json cannot be used"):
        read_picture(astronaut(), model)


def test_a_processor_that_asks_for_many_times_the_models_size_is_refused(tmp_path):
    model = vit()
    for side in (4 * SIDE, 8 * SIDE):
        saved(model, tmp_path / f"vit{side}", PROCESSOR | {"size": {"height": side, "width": side}})
        assert read_picture(astronaut(), model).pixel_values.shape == (1, 3, side, side)
    saved(model, tmp_path / "large", PROCESSOR | {"size": {"height": 8 * SIDE + 1, "width": SIDE}})
    with pytest.raises(InputError, match=r"read at 32 x 257 pixels, more than 8 times the 32 x 32 that the model"):
        read_picture(astronaut(), model)
    assert read_picture(astronaut(), model, keep_size=True).pixel_values.shape == (1, 3, 512, 512), "as one wishes"


def test_without_pillow_one_sentence_says_what_to_install(model, monkeypatch):
    def absent(name, *_):
        raise ImportError(name)

    pixels = astronaut()
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"pip install mambascope\[vision\]"):
        read_picture(pixels, model)


def test_pictures_are_known_by_their_first_bytes_or_their_name(tmp_path, file):
    image = Image.fromarray(cat())
    for name in ("a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tiff"):
        plain = file(image, name).rename(tmp_path / f"{name}.data")
        assert is_picture(plain), name
    (tmp_path / "notes.txt").write_text("BMW and GIF are words")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    assert is_picture(tmp_path / "drawing.svg")
    assert not is_picture("a.png of a cat")
    assert not is_picture("word " * 2000)
    assert not is_picture(tmp_path)
    assert not is_picture("a\0b.png")


def test_the_callers_default_precision_changes_no_pixel():
    model = vim()
    plain = read_picture(astronaut(), model).pixel_values
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = read_picture(astronaut(), model).pixel_values
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == plain.dtype
    assert torch.allclose(found, plain, rtol=1e-6, atol=1e-6), "bfloat16 would round to 4e-3"
