"""A map with a frozen norm after it, LayerNorm or RMS norm: every view against the norm of the map's own views."""

import pytest
import torch
from torch import nn

from dense_reference import distance
from mambascope.operators.affine import AffineMixer
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.normed_map import normed_map
from random_scans import make_scan

#: float64 sums of a few hundred terms in another order.
BOUND = 1e-12


@pytest.fixture(params=["layer norm", "rms norm"])
def both(request):
    """A mixer with biases, and the same with a norm of its output."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scan = make_scan("mamba2", 70)
    mixer = AffineMixer(
        x=normal(2, 70, 6),
        scan=scan,
        W_x=normal(8, 6),
        b_x=normal(8),
        convolution=CausalConvolution(normal(8, 4)),
        conv_bias=normal(8),
        gate=normal(2, 70, 8),
        W_o=normal(5, 8),
        b_o=normal(5),
    )
    norm = nn.LayerNorm(5, dtype=torch.float64) if request.param == "layer norm" else nn.RMSNorm(5, eps=1e-5).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(normal(5))
        y = mixer.output()
        expected = norm(y)
    bias = getattr(norm, "bias", None)
    bias = None if bias is None else bias.detach()
    after = normed_map(mixer, y, norm.weight.detach(), bias, 1e-5, centred=request.param == "layer norm")
    return mixer, after, expected


def test_its_output_is_that_of_the_norm_and_its_parts_add_up_to_it(both):
    _, after, expected = both
    assert isinstance(after, AffineMap)
    assert distance(after.output(), expected) < BOUND
    assert distance(after.explained(), expected) < BOUND
    for target in (0, 69):
        vectors, bias = after.contributions(target)
        assert distance(vectors.sum(dim=1) + bias, expected[:, target]) < BOUND
        assert distance(bias, after.bias()[:, target]) < BOUND


def test_tiles_rows_and_pulls_are_one_map(both):
    mixer, after, _ = both
    whole = torch.zeros(2, 5, 70, 70, dtype=torch.float64)
    for block, tile in after.contribution_tiles():
        whole[:, :, block.rows, block.columns] = tile
    assert distance(whole[:, :, 41].transpose(1, 2), after.contributions(41)[0]) < BOUND
    q = torch.randn(2, 70, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert distance(after.pull(q), torch.einsum("bif,bfij->bj", q, whole)) < BOUND
    assert distance(after.implicit_mean(), mixer.implicit_mean()) < BOUND
    assert (after.causal, after.inner_width, after.taps) == (True, 8, 4)
