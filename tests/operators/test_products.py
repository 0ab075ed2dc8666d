"""Products in half precision: by float32 where the device would emulate them, with the same numbers."""

import pytest
import torch

from hybrids import hybrid_model
from mambascope import capture
from mambascope.methods import latim
from mambascope.operators import products
from models import stock_model

CPU = torch.device("cpu")


def factors(dtype):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(*size, generator=generator).to(dtype) for size in ((3, 20, 300), (3, 300, 30)))


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_either_way_gives_the_product_rounded_once(dtype, itself, monkeypatch):
    monkeypatch.setattr(products, "multiplies", lambda *_: itself)
    a, b = factors(dtype)
    out = torch.empty(3, 20, 30, dtype=dtype)
    assert products.multiply(a, b, out) is out
    exact = a.double() @ b.double()
    rounding = torch.finfo(dtype).eps
    assert ((out.double() - exact).abs() <= rounding * exact.abs() + 1e-4).all()


def test_a_slow_dtype_is_found_by_its_time(monkeypatch):
    monkeypatch.setattr(products, "_seconds", lambda dtype, device: 1.0 if dtype == torch.float32 else 70.0)
    monkeypatch.setattr(products, "multiplies", products.multiplies.__wrapped__)
    assert not products.multiplies(torch.bfloat16, CPU)
    assert products.multiplies(torch.float32, CPU)
    assert products.multiplies(torch.float64, CPU)


@pytest.mark.parametrize("model", [stock_model("mamba"), hybrid_model("jamba")], ids=["scans", "with attention"])
def test_maps_in_bfloat16_are_the_same_on_every_processor(model, monkeypatch):
    trace = capture(model, input_ids=torch.arange(1, 40)[None] % 32)
    found = []
    for itself in (True, False):
        monkeypatch.setattr(products, "multiplies", lambda *_, itself=itself: itself)
        found.append(latim(trace, precision="bfloat16"))
    exact = latim(trace)
    assert (found[0] - exact).norm() / exact.norm() > 1e-4
    assert (found[0] - found[1]).norm() / exact.norm() < 2**-8  # two roundings to 8 bits
