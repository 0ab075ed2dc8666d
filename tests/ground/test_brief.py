"""Objects that hold tensors are written in one line."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
import torch

import mambascope
from mambascope.brief import LONGEST, brief, one_line
from show_results import picture_result, result

HOLDS_MUCH = re.compile(r"Tensor|ndarray|\bTrace\b|Attribution|nn\.Module|outputs")
# Outputs of models print as those of transformers do; these are not handed to anyone.
NOT_OURS = {"PictureOutput", "VisionMambaOutput"}


def holders():
    """Every dataclass of the package that holds tensors, a model or another such object."""
    for found in pkgutil.walk_packages(mambascope.__path__, "mambascope."):
        for name, kind in vars(importlib.import_module(found.name)).items():
            if inspect.isclass(kind) and kind.__module__ == found.name and dataclasses.is_dataclass(kind):
                fields = "; ".join(f"{field.name}: {field.type}" for field in dataclasses.fields(kind))
                if HOLDS_MUCH.search(fields) and name not in NOT_OURS:
                    yield kind


def test_whatever_holds_tensors_says_how_it_is_written():
    """The text that dataclasses make of themselves holds every number of every tensor."""
    kinds = list(holders())
    assert {"Trace", "Captured", "Gradients", "AffineMixer", "Attribution"} <= {kind.__name__ for kind in kinds}
    made = [kind.__name__ for kind in kinds if inspect.unwrap(kind.__repr__).__code__.co_filename == "<string>"]
    assert made == []


@dataclasses.dataclass
class Inner:
    size: int


@dataclasses.dataclass
class Held:
    x: torch.Tensor
    value: torch.Tensor
    image: np.ndarray
    inner: Inner
    layers: tuple
    named: dict
    nothing: object = None
    share: float = 1 / 3
    label: str = "one\ntwo"
    read: object = one_line
    several: tuple = (1, 2)

    __repr__ = brief


def test_a_line_tells_shapes_and_plain_values():
    held = Held(
        torch.zeros(2, 3), torch.tensor([1.5]), np.zeros((4, 5)), Inner(1), (Inner(1), Inner(2)), {"dt": 1, "A": 2}
    )
    assert repr(held) == (
        "Held(x 2 × 3, value=1.5, image 4 × 5, inner=Inner, layers=2 × Inner, named={dt, A}, share=0.3333, "
        "label='one\\ntwo', several=(1, 2))"
    )


def test_a_line_is_cut():
    text = one_line("Name", ["word"] * 100)
    assert len(text) == LONGEST
    assert text.endswith("…)")
    assert "\n" not in one_line("Name", ["one\ntwo"])


@pytest.mark.parametrize(
    ("attribution", "says"),
    [
        (
            result(single=True),
            "hidden_attention of made-up/mamba-tiny: 14 tokens → position 13, 3 layers",
        ),
        (
            result(layers=1),
            "hidden_attention of made-up/mamba-tiny: 14 tokens → every position, in focus 13",
        ),
        (
            picture_result(single=True),
            "latim of made-up/vision-tiny: 25 tokens of 4 × 6 patches → position 12, 3 layers",
        ),
    ],
    ids=["position", "map", "picture"],
)
def test_a_result_names_method_model_target_and_top_source(attribution, says):
    top = attribution.top(1)[0]
    assert repr(attribution) == f"Attribution({says}, top {top.token!r} {100 * top.share:.0f} %)"


def test_a_result_that_holds_no_row_of_its_focus_is_written_too():
    held = result(single=True)
    astray = dataclasses.replace(held, target=dataclasses.replace(held.target, position=3))
    assert repr(astray) == "Attribution(hidden_attention of made-up/mamba-tiny: 14 tokens → position 3, 3 layers)"
