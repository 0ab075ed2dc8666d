"""One picture in every form in which it can be given: the same pixels, upright, on a known scale, or one sentence."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from mambascope import memory
from mambascope.errors import InputError, MapTooLargeError
from mambascope.explanation import explain
from mambascope.inputs.pictures import read_picture
from models import stock_model
from picture_checkpoints import PROCESSOR, SIDE, cat, saved, vim, vit
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

TURNED, ORIENTATION = "turned upright, as the file says", 0x0112


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = vit()
    saved(model, tmp_path_factory.mktemp("vit"))
    return model


def photograph():
    return Image.fromarray(cat()[:60, :90])


def held(image, kind, **options):
    """Return the bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def forms(content, path):
    """Yield one file in every form that keeps what it says about itself."""
    path.write_bytes(content)
    yield "path", path
    yield "name", str(path)
    yield "bytes", content
    yield "open file", io.BytesIO(content)
    yield "Pillow", Image.open(path)
    read = Image.open(path)
    read.load()
    yield "Pillow, read", read


def as_pixels(pixels):
    """Yield 8-bit pixels in every form that holds only pixels."""
    yield "array", pixels
    tensor = torch.from_numpy(pixels)
    yield "tensor", tensor
    if pixels.ndim == 3:
        yield "array, channels first", np.moveaxis(pixels, 2, 0)
        yield "tensor, channels first", tensor.permute(2, 0, 1)
    if pixels.shape[2:] != (1,):
        yield "Pillow", Image.fromarray(pixels)


def same(found, expected):
    """Return whether two pictures are: of whole numbers to the bit; each pixel is scaled in float32, to 24 bits."""
    scaled = torch.allclose(found.pixel_values, expected.pixel_values, rtol=1e-6, atol=1e-6)
    return scaled and torch.equal(found.image, expected.image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_in_every_form_that_says_how_it_lies(model, tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    content = held(photograph(), kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    expected = read_picture(np.asarray(upright), model)
    assert expected.image.shape[:2] == ((60, 90) if orientation < 5 else (90, 60))
    for form, source in forms(content, tmp_path / "picture"):
        found = read_picture(source, model)
        assert same(found, expected), form
        if (kind, form) != ("TIFF", "Pillow, read"):  # Pillow turns a TIFF itself, and forgets that it did
            notes = [TURNED] * (orientation != 1)
            assert found.notes == (*notes, *expected.notes), form


def test_the_map_of_a_pillow_image_is_that_of_its_file(model, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "picture.png"
    photograph().save(path, exif=exif)
    of_file, of_image = (explain(model, None, one, method="latim") for one in (path, Image.open(path)))
    assert_equal_to_rounding(of_image.scores, of_file.scores)
    assert of_file.diagnostics["preparation"] == of_image.diagnostics["preparation"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_of_pillow_shows_the_same_picture(model, mode):
    """Whatever the mode, the colours come out as they went in, up to what the mode itself loses."""
    plain = photograph()
    if mode == "LAB":
        colours = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(plain, *colours, outputMode="LAB")
    elif mode in ("PA", "RGBa"):
        image = plain.convert("P" if mode == "PA" else "RGBA").convert(mode)
    else:
        image = plain.convert(mode)
    assert image.mode == mode
    grey, alike = mode in ("1", "L", "LA"), {"1": 0.2, "P": 0.85, "PA": 0.85}.get(mode, 0.97)
    shown = read_picture(image, model).image.float()
    original = torch.from_numpy(np.array(plain.convert("L").convert("RGB") if grey else plain)).float()
    assert torch.corrcoef(torch.stack([shown.flatten(), original.flatten()]))[0, 1] > alike
    notes = read_picture(image, model).notes
    said = ("grey, read with three equal colours",) if grey else (f"converted from {mode} to RGB",)
    said = () if mode in ("P", "PA", "RGB", "RGBA", "RGBa") else said
    assert notes == (*said, "resized from 90 x 60 to 32 x 32 pixels")


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_pixels_give_the_same_in_every_form(model, tmp_path, channels):
    pixels = np.dstack([cat()[:60, :90], cat()[60:120, :90, :1]])
    pixels = pixels[..., 0] if channels is None else np.ascontiguousarray(pixels[..., :channels])
    plain = pixels[..., 0] if channels == 1 else pixels
    path = tmp_path / "picture.png"
    Image.fromarray(plain).save(path)
    expected = read_picture(path, model)
    assert ("transparent parts laid on white" in expected.notes) == (channels == 4)
    for form, source in itertools.chain(as_pixels(pixels), as_pixels(plain)):
        found = read_picture(source, model)
        assert same(found, expected), form
        assert found.notes == expected.notes, form
    for kind in (torch.float32, torch.float64):
        found = read_picture(torch.from_numpy(pixels).to(kind) / 255, model)
        assert same(found, expected), "floats from 0 to 1"
        assert found.notes == ("floats from 0 to 1 reduced to 8 bits", *expected.notes)
    deep = read_picture(pixels.astype(np.uint16) * 257, model)
    assert same(deep, expected), "16 bits"
    assert deep.notes[0].endswith("reduced to 8")


def test_bits_of_black_and_white_are_a_scale(model):
    seen = cat()[:60, :90, 0] > 128
    assert same(read_picture(seen, model), read_picture(Image.fromarray(seen), model))


def test_16_bits_are_16_bits_in_every_form(model, tmp_path):
    values = cat()[:60, :90, 0].astype(np.uint16) * 250
    expected = torch.from_numpy((values >> 8).astype(np.uint8))
    for kind in ("PNG", "TIFF", "PPM"):
        for form, source in forms(held(Image.fromarray(values), kind), tmp_path / "picture"):
            found = read_picture(source, model)
            assert torch.equal(found.image[..., 0], expected), (kind, form)
            assert found.notes[0] == "16 bits of grey reduced to 8", (kind, form)
    assert torch.equal(read_picture(torch.from_numpy(values), model).image[..., 0], expected)
    dim = read_picture(values // 250, model)
    assert dim.notes[0] == f"16 bits of grey reduced to 8, though none is above {values.max() // 250} of 65535"


def tiff(values, bits, white_is_zero=False):
    """Return an uncompressed grey TIFF file of 12 or 16 bits, written by hand: Pillow writes no other than 16."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(height, -1, 2).astype(np.uint32)
        packed = np.stack([pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1)
        data = packed.astype(np.uint8).tobytes()
    else:
        data = values.astype("<u2").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, int(not white_is_zero)), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(data))]
    entries = b"".join(tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little") for tag, value in tags)
    start = 8 + len(data)
    head = b"II*\0" + start.to_bytes(4, "little")
    return head + data + len(tags).to_bytes(2, "little") + entries + bytes(4)


def test_a_file_says_how_many_bits_its_values_have(model):
    values = np.arange(60 * 90, dtype=np.uint16).reshape(60, 90) % 4096
    shown = torch.from_numpy((values >> 4).astype(np.uint8))
    found = read_picture(tiff(values, 12), model)
    assert torch.equal(found.image[..., 0], shown)
    assert found.notes[0] == "12 bits of grey reduced to 8"
    turned = read_picture(tiff(values * 16, 16, white_is_zero=True), model)
    assert torch.equal(turned.image[..., 0], 255 - shown), "where 0 is white"


def test_a_value_that_means_transparent_means_it_with_16_bits_too(model):
    values = np.full((40, 40), 30000, np.uint16)
    values[:20] = 5
    found = read_picture(held(Image.fromarray(values), "PNG", transparency=5), model)
    assert (found.image[:20] == 255).all()
    assert (found.image[20:] == 30000 >> 8).all()
    assert "transparent parts laid on white" in found.notes


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.linspace(0, 37, 5400).reshape(60, 90), "floats from 0 to 37, whose scale is unknown: divide them"),
        (np.linspace(-1, 1, 5400).reshape(60, 90), "floats from -1 to 1"),
        (np.where(np.arange(5400) < 9, np.nan, 0.5).reshape(60, 90), "floats from nan to nan"),
        (
            np.arange(5400, dtype=np.int32).reshape(60, 90),
            r"whole numbers \(int32\) from 0 to 5399, whose scale is unk",
        ),
    ],
)
def test_values_of_unknown_scale_are_refused_with_their_range_in_every_form(model, tmp_path, values, said):
    sources = [values, torch.from_numpy(values), np.stack([values] * 3), np.dstack([values] * 3)]
    image = Image.fromarray(values.astype(np.float32) if values.dtype.kind == "f" else values)
    image.save(tmp_path / "picture.tiff")
    for source in (*sources, image, tmp_path / "picture.tiff"):
        with pytest.raises(InputError, match=said):
            read_picture(source, model)


def test_floats_from_0_to_1_are_a_scale_in_every_form(model, tmp_path):
    values = (cat()[:60, :90, 0] / np.float32(255)).astype(np.float32)
    image = Image.fromarray(values)
    image.save(tmp_path / "picture.tiff")
    for source in (values, torch.from_numpy(values), image, tmp_path / "picture.tiff"):
        found = read_picture(source, model)
        assert torch.equal(found.image[..., 0], torch.from_numpy(cat()[:60, :90, 0].copy()))
        assert found.notes[0] == "floats from 0 to 1 reduced to 8 bits"


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((3, 40, 4), np.uint8), r"shape \(3, 40, 4\) may have their channels first or last; pass a Pillow"),
        (np.zeros((1, 3, 40, 40), np.uint8), r"\(1, 3, 40, 40\); pass one picture at a time, as pixels\[0\]"),
        (np.zeros((40, 40, 2), np.uint8), r"with 1, 3 or 4 channels, found uint8 of shape \(40, 40, 2\)"),
        (np.zeros(40, np.uint8), "pixels must have shape"),
        (np.zeros((0, 40, 3), np.uint8), r"has no pixels: its shape is \(0, 40, 3\)"),
        (Image.new("RGB", (0, 7)), "has no pixels: it is 0 wide and 7 high"),
        (np.zeros((40, 40), complex), "found complex128"),
        (b"these are words", "picture could not be read as an image"),
        (b"", "picture could not be read as an image"),
        (io.StringIO("words"), "found a _io.StringIO"),
        ([[1, 2], [3, 4]], r"found \[\[1, 2\], \[3, 4\]\]"),
    ],
)
def test_what_is_no_picture_is_one_sentence(model, pixels, said):
    with pytest.raises(InputError, match=said) as caught:
        read_picture(pixels, model)
    assert "\n" not in str(caught.value)


def test_a_file_that_ends_too_soon_is_one_sentence_in_every_form(model, tmp_path):
    content = held(photograph(), "JPEG")
    half = content[: len(content) // 2]
    (tmp_path / "half.jpg").write_bytes(half)
    with Image.open(io.BytesIO(content)) as closed:
        pass
    for source in (tmp_path / "half.jpg", half, io.BytesIO(half), Image.open(io.BytesIO(half)), closed):
        with pytest.raises(InputError, match="could not be read as an image"):
            read_picture(source, model)


def test_more_pixels_than_pillow_reads_are_one_sentence(model, tmp_path, monkeypatch):
    content = held(photograph(), "PNG")
    for limit in (4000, 2000):  # Pillow warns beyond its limit, and refuses beyond twice
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        (tmp_path / "picture.png").write_bytes(content)
        for source in (content, tmp_path / "picture.png"):
            with pytest.raises(InputError, match=r"holds more pixels than are read, reduce it first.*5400 pixels"):
                read_picture(source, model)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_the_smallest_and_the_longest_pictures_are_read(model, tmp_path, shape):
    crop = {"size": {"shortest_edge": SIDE}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
    cropping = vit()
    saved(cropping, tmp_path / "vit", PROCESSOR | crop)
    for one in (model, cropping):
        picture = read_picture(np.full((*shape,), 9, np.uint8), one)
        assert picture.pixel_values.shape == (1, 3, SIDE, SIDE)
        assert 0 not in picture.image.shape


def test_a_picture_that_would_grow_beyond_measure_is_refused(tmp_path):
    crop = {"size": {"shortest_edge": SIDE}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
    model = vit()
    saved(model, tmp_path / "vit", PROCESSOR | crop)
    with pytest.raises(InputError, match="of 90000 x 1 pixels would be enlarged to 2880000 x 32, of which the model"):
        read_picture(np.zeros((1, 90000), np.uint8), model)


def test_a_picture_whose_values_would_not_fit_is_refused(model, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000)
    with pytest.raises(MapTooLargeError, match=r"a picture of 451 x 300 pixels needs .* are free; make it smaller"):
        read_picture(cat(), model, keep_size=True)


def test_of_a_moving_picture_one_frame_is_read_and_which_is_told(model):
    frames = [Image.new("RGB", (SIDE, SIDE), (shade, 0, 0)) for shade in (10, 200)]
    content = held(frames[0], "GIF", save_all=True, append_images=frames[1:])
    moving = Image.open(io.BytesIO(content))
    assert read_picture(moving, model).notes == read_picture(content, model).notes == (
        "the first of 2 pictures in the file",
    )  # fmt: skip
    moving.seek(1)
    second = read_picture(moving, model)
    assert second.notes == ("number 2 of 2 pictures in the file",)
    assert (second.image[..., 0] == 200).all()


def test_a_colour_profile_is_not_applied_and_that_is_told(model):
    plain = photograph()
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    expected = read_picture(plain, model)
    for profile, said in (
        (usual, None),
        (other, "its colour profile 'XYZ identity built-in'"),
        (b"?", "cannot be read"),
    ):
        found = read_picture(held(plain, "PNG", icc_profile=profile), model)
        assert same(found, expected)
        assert any("is not applied" in note and (said or "") in note for note in found.notes) == (said is not None)


def test_a_grey_picture_for_a_model_that_reads_grey_needs_no_word(tmp_path):
    model = vim(num_channels=1)
    saved(model, tmp_path / "vim", PROCESSOR | {"image_mean": [0.5], "image_std": [0.5]})
    assert read_picture(np.full((SIDE, SIDE), 255, np.uint8), model).notes == ()


def test_bytes_are_no_text(model):
    content = held(photograph(), "PNG")
    with pytest.raises(InputError, match="reads text, not pictures"):
        explain(stock_model("mamba"), None, content)
    with pytest.raises(InputError, match="reads text, not pictures"):
        explain(stock_model("mamba"), None, io.BytesIO(content))


def test_a_file_that_claims_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "large.png"
    Image.new("RGB", (4, 4)).save(file)

    def exhausted(_):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", exhausted)
    with pytest.raises(InputError, match=r"large\.png could not be read as an image: reading it takes more memory"):
        read_picture(file, vim())
