"""Tensor files that grow band by band: the same file as one written at once, continued after any interruption."""

import shutil

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open

from mambascope import growing_files
from mambascope.errors import InputError, OutputError
from mambascope.growing_files import Band, bands_of, grow

SHAPE = (2, 7, 5)
VALUES = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
TEXTS = {"format": "a form", "attribution": '{"tokens": ["好", "\\"quoted\\""]}' * 100}


def of(band: Band):
    return VALUES[band.maps, band.rows]


def read(path):
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("scores"), file.metadata()


def stopping(after):
    """Return a `compute` that is interrupted after so many bands, and the bands that it computed."""
    computed = []

    def compute(band):
        if len(computed) == after:
            raise KeyboardInterrupt
        computed.append(band)
        return of(band)

    return compute, computed


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("together", [False, True])
def test_bands_hold_every_number_once(rows, together):
    counted = torch.zeros(SHAPE)
    for band in bands_of(SHAPE, rows, together=together):
        counted[band.maps, band.rows] += 1
    assert torch.equal(counted, torch.ones(SHAPE))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_file_is_one_that_safetensors_reads(tmp_path, rows, together):
    path = tmp_path / "maps.safetensors"
    steps = []
    bands = bands_of(SHAPE, rows, together=together)
    grow(path, "scores", SHAPE, "this", bands, of, lambda: TEXTS, said=lambda *step: steps.append(step))
    found, texts = read(path)
    assert torch.equal(found, VALUES)
    assert texts == TEXTS
    assert steps == [(done, len(bands)) for done in range(len(bands) + 1)]
    assert [one.name for one in tmp_path.iterdir()] == ["maps.safetensors"], "nothing else is left"


@pytest.mark.parametrize("after", range(6))
def test_an_interrupted_file_is_continued(tmp_path, after):
    path, bands = tmp_path / "maps.safetensors", bands_of(SHAPE, 3)
    path.write_text("an older file")
    compute, before = stopping(after)
    with pytest.raises(KeyboardInterrupt):
        grow(path, "scores", SHAPE, "this", bands, compute, lambda: TEXTS)
    assert path.read_text() == "an older file", "it is untouched until the new one is complete"
    compute, computed = stopping(-1)
    later = TEXTS | {"format": "another form"}
    begun = grow(path, "scores", SHAPE, "this", bands, compute, lambda: later)
    assert begun == after == len(before)
    assert computed == bands[max(0, after - 1) :], "the last complete band once more, as a check, and the rest"
    found, texts = read(path)
    assert torch.equal(found, VALUES)
    assert texts == later
    assert [one.name for one in tmp_path.iterdir()] == ["maps.safetensors"]


def test_what_is_left_of_something_else_is_refused(tmp_path):
    path, bands = tmp_path / "maps.safetensors", bands_of(SHAPE, 3)
    with pytest.raises(KeyboardInterrupt):
        grow(path, "scores", SHAPE, "this", bands, stopping(2)[0], lambda: TEXTS)
    left = (tmp_path / "maps.partial.safetensors").read_bytes()
    for shape, identity, given in (
        (SHAPE, "that", bands),
        ((2, 5, 7), "this", bands),
        (SHAPE, "this", bands_of(SHAPE, 2)),
    ):
        with pytest.raises(InputError, match="what an interruption left of something else"):
            grow(path, "scores", shape, identity, given, of, lambda: TEXTS)
    with pytest.raises(InputError, match="of a model with other weights"):
        grow(path, "scores", SHAPE, "this", bands, lambda band: of(band) * 1.01, lambda: TEXTS)
    with pytest.raises(InputError, match="of a model with other weights"):
        grow(path, "scores", SHAPE, "this", bands, lambda band: of(band) * torch.nan, lambda: TEXTS)
    assert (tmp_path / "maps.partial.safetensors").read_bytes() == left, "and kept"


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "maps.safetensors"
    with (
        FileLock(tmp_path / "maps.partial.lock"),
        pytest.raises(InputError, match=r"another process is writing .*maps\.safetensors"),
    ):
        grow(path, "scores", SHAPE, "this", bands_of(SHAPE, 3), of, lambda: TEXTS)


def test_a_full_disk_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(growing_files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(OutputError, match="the disk has only"):
        grow(tmp_path / "maps.safetensors", "scores", SHAPE, "this", bands_of(SHAPE, 3), of, lambda: TEXTS)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_keeps_what_is_complete(tmp_path, monkeypatch):
    path, bands, written = tmp_path / "maps.safetensors", bands_of(SHAPE, 3), growing_files._Growing.write

    def full(self, band, values):
        if band == bands[3]:
            raise OSError(28, "No space left on device")
        written(self, band, values)

    monkeypatch.setattr(growing_files._Growing, "write", full)
    with pytest.raises(OutputError, match=r"No space left on device; what is complete is kept in .*partial"):
        grow(path, "scores", SHAPE, "this", bands, of, lambda: TEXTS)
    monkeypatch.undo()
    assert grow(path, "scores", SHAPE, "this", bands, of, lambda: TEXTS) == 3
    assert torch.equal(read(path)[0], VALUES)
