"""Damaged data of tasks: tables, links, archives, pictures."""

from __future__ import annotations

from pathlib import Path

from mambascope.evaluate.data import (
    alignment_gold,
    camvid,
    cifar10,
    haystacks,
    labelled_texts,
    mnist,
    pharaoh_gold,
    records,
)

from .. import originals
from ..findings import Case
from .files import target


def _use(folder: Path, name: str, case: Case) -> None:
    if name == "hansards":
        alignment_gold.read_hansards(folder / "gold")
        pharaoh_gold.read_linked_pairs(folder / "gold")
    elif name == "pharaoh":
        pharaoh_gold.read_linked_pairs(folder / "own")
    elif name == "bicici":
        pharaoh_gold.read_bicici(folder / "bicici.zip")
    elif name == "sentences":
        labelled_texts.test_sentences(folder / "sentences.zip")
    elif name == "reviews":
        labelled_texts.test_reviews(folder / "reviews.zip")
    elif name == "mnist":
        mnist.read_mnist(folder / "images.gz", folder / "labels.gz")
    elif name == "cifar":
        cifar10.read_cifar10(folder / "cifar.tar")
    elif name == "camvid":
        camvid.read_camvid(folder / "camvid.tar")
    elif name == "novels":
        haystacks.held_out_novels(folder / "novels.tar")
    elif name == "texts":
        haystacks.text_files(str(folder / "own"))
    else:
        (file,) = folder.iterdir()
        records.records(str(file))
        labelled_texts.labelled_texts(str(file))


TARGETS = [target("task data", originals.data_files, lambda name: True, _use)]
