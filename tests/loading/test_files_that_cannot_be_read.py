"""Whatever is wrong with a file or a name is told in one sentence: no error of the system comes through."""

import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from models import stock_model
from refusals import refused

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product


@pytest.fixture
def folder(tmp_path):
    stock_model("mamba").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


NAMES = {
    "too long": "a" * 300,
    "too long a path": "/".join(["a" * 200] * 30),
    "zero letter": "a\0b",
    "control letters": "a\x1b[31m\n/b",
    "another user's home": "~nobody-of-this-name/model",
    "nothing above": "../../../../../../../../../../nowhere",
    "dots": "a/..",
    "empty": "",
    "a surrogate": "a\udc80",
    "an adapter of two": "../..x",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["", ".safetensors", ".pth"])
def test_names_of_nothing(name, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(NAMES[name] + suffix, "there is no folder|holds no config.json")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_no_tokenizer(name, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    refused(folder, "holds no tokenizer", tokenizer=NAMES[name])


def obstacle(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "long":
        path.symlink_to("/" + "b" * 255 + "/c")
    else:
        path.write_bytes({"empty": b"", "one byte": b"\x80", "pickle": b"\x80\x02.", "zip": b"PK\x03\x04"}[kind])


KINDS = ["pipe", "endless", "loop", "folder", "dangling", "long", "empty", "one byte", "pickle", "zip"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin"])
def test_something_else_where_a_file_should_be(folder, kind, file):
    if file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    if file == "tokenizer.json":
        (folder / "tokenizer_config.json").write_text("{}")
    obstacle(folder / file, kind)
    refused(folder, "holds no|is not valid JSON|is not a complete|damaged|cannot be read")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["vim.pth", "vim.safetensors", "model.ckpt"])
def test_something_else_where_a_released_file_should_be(tmp_path, kind, file):
    obstacle(tmp_path / file, kind)
    refused(
        tmp_path / file, "neither a folder nor|holds no config.json|not a complete|damaged|is a file|cannot be read"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read(folder):
    for file in ("config.json", "model.safetensors"):
        (folder / file).chmod(0)
        refused(folder, "cannot be read: Permission denied")
        (folder / file).chmod(0o600)


@pytest.mark.parametrize("claimed", [10 * 2**30, 2**63, 90_000_000, 8, 0])
def test_a_header_longer_than_its_file(folder, claimed):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", claimed) + b'{"a"')
    refused(folder, "model.safetensors is not a complete safetensors file", mebibytes=50)


def test_a_header_of_other_values(folder):
    for header in (
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b"[" * 10**6,
    ):
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        refused(folder, "model.safetensors is not a complete safetensors file", mebibytes=50)


def test_shapes_without_values(folder, tmp_path):
    save_file({"backbone.norm_f.weight": torch.empty(10**12, 0)}, folder / "model.safetensors")
    refused(folder, "without any values", mebibytes=50)
