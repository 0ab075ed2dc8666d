"""The causal convolution as a sum over taps: its values, and its gradients of first and second order."""

import pytest
import torch
import torch.nn.functional as F

from mambascope.models.convolutions import causal_convolution
from mambascope.operators.convolution import FEW, CausalConvolution


def drawn(length, taps):
    generator = torch.Generator().manual_seed(length)
    return (torch.randn(*size, generator=generator).double().requires_grad_() for size in ((2, length, 3), (3, taps)))


@pytest.mark.parametrize("taps", [1, 4, FEW, FEW + 1])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_values_and_gradients(length, taps):
    u, w = drawn(length, taps)

    def convolve(u, w):
        return CausalConvolution(w).apply(u)

    padded = F.pad(u.transpose(1, 2), (taps - 1, 0))
    torch.testing.assert_close(convolve(u, w), F.conv1d(padded, w.flip(1)[:, None], groups=3).transpose(1, 2))
    assert torch.autograd.gradcheck(convolve, (u, w))
    assert torch.autograd.gradgradcheck(convolve, (u, w))
    assert torch.autograd.gradcheck(lambda u: convolve(u, w.detach()), (u,))
    assert torch.autograd.gradcheck(lambda w: convolve(u.detach(), w), (w,))


def test_a_text_of_no_tokens_has_no_values():
    assert CausalConvolution(torch.ones(3, 4)).apply(torch.ones(2, 0, 3)).shape == (2, 0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*size, generator=generator).to(dtype) for size in ((2, 3, 50), (3, 4), (3,)))
    exact = causal_convolution(x.double(), w.double(), b.double())
    found = causal_convolution(x, w, b)
    assert found.dtype == dtype
    assert ((found.double() - exact).abs() <= torch.finfo(dtype).eps * (exact.abs() + 1)).all()  # one rounding
