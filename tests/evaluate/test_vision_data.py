"""Picture files: what is read is what was written, and what is damaged is named."""

import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from mambascope.errors import InputError
from mambascope.evaluate.data import camvid, cifar10
from mambascope.evaluate.data.camvid import UNLABELLED, read_camvid
from mambascope.evaluate.data.cifar10 import read_cifar10
from mambascope.evaluate.data.mnist import read_mnist
from mambascope.evaluate.data.pictures import normalised, resized


def encoded(pixels, kind="png"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 95} if kind == "jpeg" else {}))
    return file.getvalue()


def archive(path, files):
    """Write a tar archive of {name: content}, packed as its name says."""
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def smooth(shape, seed=0):
    """A smooth picture, which JPEG hardly changes."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    channels = [40 + 3 * rows + seed, 200 - 2 * columns, 90 + rows + columns]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def idx(path, array, magic=None):
    header = struct.pack(f">{1 + array.ndim}I", magic or (0x800 + array.ndim), *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())
    return path


def test_cifar_pictures_have_their_folders_class(tmp_path):
    files = {
        f"test/{name}/0001.jpg": encoded(smooth((32, 32), seed=k), "jpeg")
        for k, name in enumerate(("ship", "bird", "airplane"))
    }
    found = read_cifar10(archive(tmp_path / "c.tar.xz", {"test/readme.txt": b"no picture", **files}))
    assert [found.classes[label] for label in found.labels] == ["ship", "bird", "airplane"]
    assert found.pixels.shape == (3, 32, 32, 3)
    difference = found.pixels[0].astype(int) - smooth((32, 32))
    assert np.abs(difference).mean() < 3  # JPEG is lossy


def test_a_picture_of_a_data_set_is_prepared_as_one_that_is_explained(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    file = io.BytesIO()
    Image.fromarray(smooth((32, 32))).save(file, "png", exif=exif)
    found = read_cifar10(archive(tmp_path / "c.tar", {"test/frog/1.jpg": file.getvalue()}))
    assert np.array_equal(found.pixels[0], smooth((32, 32))[::-1, ::-1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"test/whale/1.jpg": encoded(smooth((32, 32)), "jpeg")},
            r"c\.tar: test/whale/1\.jpg is not in the folder of a class",
        ),
        ({"test/frog/1.jpg": encoded(smooth((30, 32)), "jpeg")}, r"c\.tar: test/frog/1\.jpg has 32×30 pixels"),
        ({"test/frog/1.jpg": b"\xff\xd8 no picture"}, r"c\.tar: test/frog/1\.jpg could not be read as an image"),
        (
            {"test/frog/1.jpg": encoded(smooth((32, 32)), "jpeg")[:300]},
            r"c\.tar: test/frog/1\.jpg could not be read as an image",
        ),
        ({"test/frog/1.txt": b""}, r"c\.tar holds no picture"),
    ],
)
def test_damaged_cifar_is_named(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        read_cifar10(archive(tmp_path / "c.tar", files))


def test_an_archive_cut_short_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = archive(tmp_path / "c.tar.xz", {f"test/frog/{k}.jpg": encoded(noise + k, "jpeg") for k in range(9)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"c\.tar\.xz could not be read"):
        read_cifar10(path)
    with pytest.raises(InputError, match="absent could not be read"):
        read_cifar10(tmp_path / "absent")


def test_digits_are_read_as_they_were_written(tmp_path):
    digits = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 251
    images, labels = idx(tmp_path / "i.gz", digits), idx(tmp_path / "l.gz", np.array([7, 2]))
    found, classes = read_mnist(images, labels)
    np.testing.assert_array_equal(found, digits)
    assert classes.tolist() == [7, 2]


def test_damaged_digits_are_named(tmp_path):
    images, labels = idx(tmp_path / "i.gz", np.zeros((2, 28, 28))), idx(tmp_path / "l.gz", np.array([7, 2]))
    with pytest.raises(InputError, match=r"l\.gz is not an idx file of unsigned bytes with 3 axes"):
        read_mnist(labels, labels)
    with pytest.raises(InputError, match=r"i\.gz holds 2 digits and .*three\.gz has labels for 3"):
        read_mnist(images, idx(tmp_path / "three.gz", np.array([1, 2, 3])))
    with pytest.raises(InputError, match=r"ten\.gz has a label 10"):
        read_mnist(images, idx(tmp_path / "ten.gz", np.array([1, 10])))
    with pytest.raises(InputError, match=r"wide\.gz holds pictures of 29×28"):
        read_mnist(idx(tmp_path / "wide.gz", np.zeros((2, 28, 29))), labels)
    with gzip.open(tmp_path / "short.gz", "wb") as file:
        file.write(gzip.decompress(images.read_bytes())[:-1])
    with pytest.raises(InputError, match=r"short\.gz says that it holds 1568 bytes, and holds 1567"):
        read_mnist(tmp_path / "short.gz", labels)
    images.write_bytes(images.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"i\.gz could not be read"):
        read_mnist(images, labels)


def scene(name, size=(6, 8), classes=0):
    labels = np.full(size, classes, np.uint8)
    labels[:3] = 2
    return {f"val/{name}.jpg": encoded(smooth(size), "jpeg"), f"valannot/{name}.png": encoded(labels)}


def test_scenes_have_their_labels_and_shares(tmp_path):
    found = read_camvid(archive(tmp_path / "v.tar", scene("b", classes=8) | scene("a", classes=UNLABELLED)))
    assert found.names == ("a", "b")
    assert found.pixels.shape == (2, 6, 8, 3)
    assert (found.classes[1, :3] == 2).all()
    assert (found.classes[1, 3:] == 8).all()
    shares = found.shares()
    assert shares.shape == (2, len(camvid.CLASSES))
    assert shares[0, 2] == shares[1, 8] == 0.5
    assert shares[0].sum() == 0.5, "unlabelled pixels are of no class"
    assert found.resized((3, 4)).shape == (2, 3, 4, 3)


def test_damaged_scenes_are_named(tmp_path):
    pair = scene("a")
    with pytest.raises(InputError, match=r"v\.tar: a has no labels"):
        read_camvid(archive(tmp_path / "v.tar", {"val/a.jpg": pair["val/a.jpg"]}))
    with pytest.raises(InputError, match=r"v\.tar: b has no frame"):
        read_camvid(archive(tmp_path / "v.tar", pair | {"valannot/b.png": pair["valannot/a.png"]}))
    with pytest.raises(InputError, match=r"v\.tar: a pixel of a is of class 12; they are 0 to 11"):
        read_camvid(archive(tmp_path / "v.tar", scene("a", classes=12)))
    with pytest.raises(InputError, match=r"v\.tar: frame b or its labels do not have 8×6"):
        read_camvid(archive(tmp_path / "v.tar", pair | scene("b", size=(6, 9))))
    with pytest.raises(InputError, match=r"a\.png holds RGB pixels where one channel"):
        read_camvid(archive(tmp_path / "v.tar", pair | {"valannot/a.png": encoded(smooth((6, 8)))}))
    with pytest.raises(InputError, match=r"v\.tar holds no frame"):
        read_camvid(archive(tmp_path / "v.tar", {"a.txt": b""}))


def test_pixels_are_normalised_channels_first():
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3] = (255, 0, 51)
    found = normalised(pixels)
    assert found.shape == (2, 3, 4, 5)
    assert found[1, :, 2, 3].tolist() == pytest.approx([1, -1, -0.6], abs=1e-6)


def test_shrinking_a_picture_keeps_its_mean():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), dtype=np.uint8)
    small = resized(pixels, (5, 6))
    assert small.dtype == np.uint8
    assert small.mean() == pytest.approx(pixels.mean(), abs=1)
    assert small.std() < 0.2 * pixels.std(), "all of the 80 pixels are averaged, not the nearest four"


@pytest.mark.data
def test_the_real_sets_are_whole(data):
    test = read_cifar10(data / "vis_cifar10_jpg" / "cifar10_test_jpg.tar.xz")
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.classes == cifar10.CLASSES
    folder = data / "vis_mnist_t10k"
    digits, labels = read_mnist(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")
    assert len(digits) == 10000
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    scenes = read_camvid(data / "vis_camvid_small" / "camvid_val_240x180.tar")
    assert scenes.pixels.shape == (101, 180, 240, 3)
    assert scenes.shares().mean(axis=0).argmax() in (camvid.CLASSES.index("road"), camvid.CLASSES.index("building"))
