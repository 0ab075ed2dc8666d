"""Every cell of the table of families in docs/families.md is within its bound, and every family has its rows."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks.families import BOUNDS, COLUMNS, FAMILIES, LOOSER, NOT_HALF, UNPADDED, in_bfloat16, measure
from mambascope.families import model_types

pytestmark = pytest.mark.product

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
#: What a family's small model is called where it is not its model type: the text part of a wrapper.
PARTS = {"qwen3_5_text"}
#: Models of pictures, whose figures are elsewhere.
PICTURES = {"vision-mamba", "vmamba", "mambavision", "vit"}
#: Cells without a number: what is refused by name.
REFUSED = {("bert", "ALTI-Logit"), *((family, "padding") for family in UNPADDED)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_error_is_within_its_bound(family, dtype):
    found = measure(family, dtype)
    refused = {name for name, error in found.items() if error is None}
    assert refused == {name for one, name in REFUSED if one == family}
    bounds = {name: BOUNDS[dtype] * LOOSER.get(name, 1.0) for name in found}
    beyond = {name: error for name, error in found.items() if error is not None and not error <= bounds[name]}
    assert not beyond


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NOT_HALF])
def test_outputs_are_rebuilt_in_bfloat16(family):
    assert in_bfloat16(family) <= BOUNDS[torch.bfloat16]


def test_the_page_has_every_family_and_column():
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \|", page, flags=re.MULTILINE)
    assert set(rows) == set(FAMILIES)
    assert set(model_types()) - PICTURES == set(FAMILIES) - PARTS
    assert f"| | {' | '.join(COLUMNS)} |" in page
