"""Theorem 1 measured: what α depends on, of modules, of layers within stock models, and of negative controls."""

import pytest
import torch
from torch import nn

import mambascope
from hybrids import hybrid_model
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.theory.classification import classify
from mambascope.theory.probes import Places
from models import stock_model, stock_transformer
from small_staged_models import small
from vision_models import pictures, vision_mamba

IDS = torch.randint(1, 50, (1, 12), generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """y_i = out(Σ_j α_ij v_j) for a rule that gives α, (b, D or 1, L, L)."""

    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.width = width
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False).double() for _ in range(4))
        self.decay = nn.Parameter(torch.rand(width, dtype=torch.float64) * 0.3 + 0.6)

    def forward(self, x):
        return self.out(torch.einsum("bdij,bjd->bid", self.alpha(x).expand(-1, self.width, -1, -1), self.v(x)))

    def kernel(self, x):
        lags = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        return torch.where(lags >= 0, self.decay[:, None, None] ** lags.clamp(min=0), 0.0)[None]


class Fixed(Plain):
    def alpha(self, x):
        return self.kernel(x)


class Gated(Plain):
    """As Hyena: a factor of each end, the source's after a short convolution."""

    def alpha(self, x):
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        g, w = 1.5 + torch.tanh(self.q(x)), 1.5 + torch.tanh(self.k(x) + self.q(before))
        return g.transpose(1, 2)[..., None] * self.kernel(x) * w.transpose(1, 2)[:, :, None]


class ConstantGates(Gated):
    def alpha(self, x):
        return super().alpha(torch.ones_like(x))


class LinearAttention(Plain):
    def alpha(self, x):
        return (self.q(x).exp() @ self.k(x).exp().transpose(1, 2)).tril()[:, None]


class SoftmaxAttention(Plain):
    def alpha(self, x):
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return (self.q(x) @ self.k(x).transpose(1, 2)).masked_fill(future, -torch.inf).softmax(-1)[:, None]


class Selective(Plain):
    """Decays that depend on the token, one number of state: only what lies between tells it from a gated mixer."""

    def alpha(self, x):
        fall = -nn.functional.softplus(self.k(x)).cumsum(dim=1).transpose(1, 2)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return (fall[..., None] - fall[:, :, None]).masked_fill(future, -torch.inf).exp()


KINDS = {
    Fixed: "fixed",
    ConstantGates: "fixed",
    Gated: "diagonal data control",
    LinearAttention: "data-controlled",
    SoftmaxAttention: "data-controlled",
    Selective: "data-controlled",
}


@pytest.mark.parametrize("layer", KINDS)
def test_a_module_is_sorted_by_its_jacobian(layer):
    found = classify(layer(), length=18)
    assert found.kind == KINDS[layer], found.evidence
    assert found.causal
    assert found.maps == 16
    assert found.toeplitz == (layer is Fixed)


def test_the_evidence_says_what_changed():
    gated, linear, selective = (classify(layer(), length=18).evidence for layer in (Gated, LinearAttention, Selective))
    assert gated.input > 1e-2
    assert max(gated.far, gated.separable) < 1e-9
    assert linear.far < 1e-9
    assert linear.separable > 1e-2
    assert selective.far > 1e-2


class TokenWise(Plain):
    """Gates that read their own token, and nothing is mixed."""

    def forward(self, x):
        return self.out(torch.tanh(self.q(x)) * self.v(x))


def test_a_layer_in_which_nothing_decides_stays_undecided():
    found = classify(TokenWise(), length=18)
    assert found.kind is None
    assert str(found).startswith("undecided")
    silent = TokenWise()
    with torch.no_grad():
        silent.out.weight.zero_()
    assert classify(silent, length=18).kind is None


def test_factors_that_cannot_be_told_apart_are_not_called_data_controlled():
    """A gated mixer whose values are cut to one direction: its Jacobians have no inverse."""
    layer = Gated()
    with torch.no_grad():
        layer.v.weight[1:] = layer.v.weight[:1]
        layer.out.weight[1:] = layer.out.weight[:1]
    found = classify(layer, length=18)
    assert found.evidence.input > 1e-2
    assert found.kind is None, found.evidence


def test_an_operator_alone_shows_its_form_but_not_its_kind():
    draw = torch.Generator().manual_seed(0)
    dt = torch.rand(1, 20, 4, generator=draw, dtype=torch.float64)
    B, C = (torch.randn(1, 20, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    scan = SelectiveScan(dt, -torch.rand(4, 3, generator=draw, dtype=torch.float64), B, C, torch.zeros(4).double())
    found = classify(scan)
    assert found.kind is None
    assert not found.toeplitz
    assert found.maps == 4
    assert found.ranks == (3, 3, 3), "the state size"
    same = SelectiveScan(torch.ones_like(dt), scan.A, B[:, :1].expand_as(B), C[:, :1].expand_as(C), scan.skip)
    assert classify(same).toeplitz


@pytest.mark.parametrize("family", ["mamba", "mamba2", "gpt2", "recurrent_gemma", "qwen3_next"])
def test_a_layer_of_a_stock_model_is_data_controlled(family):
    make = {"gpt2": stock_transformer}.get(family, hybrid_model if "_" in family else stock_model)
    trace = mambascope.capture(make(family), input_ids=IDS)
    found = classify(trace, number=0, tolerance=1e-3)
    assert found.kind == "data-controlled", found.evidence
    assert found.causal
    assert min(found.evidence.input, found.evidence.scale) > 1e-2


def test_a_mamba_whose_coefficients_are_constant_is_fixed():
    model = stock_model("mamba")
    projection = model.backbone.layers[0].mixer.x_proj
    constant = torch.randn(projection.out_features, generator=torch.Generator().manual_seed(0))
    handle = projection.register_forward_hook(lambda _, __, out: constant.expand_as(out))
    found = classify(mambascope.capture(model, input_ids=IDS), number=0, tolerance=1e-3)
    handle.remove()
    assert found.kind == "fixed", found.evidence
    assert found.toeplitz


def test_layers_of_a_model_that_reads_pictures_are_classified_within_it():
    model = vision_mamba(image_size=(20, 20))
    pixels = pictures(model)
    found = classify(mambascope.capture(model, pixel_values=pixels), number=1, tolerance=1e-3)
    assert found.kind == "data-controlled", found.evidence
    assert not found.causal
    drawn = torch.randn(100, generator=torch.Generator().manual_seed(0))
    handles = [
        part.register_forward_hook(lambda part, _, out: drawn[: part.out_features].expand_as(out))
        for name, part in model.named_modules()
        if "x_proj" in name
    ]
    found = classify(mambascope.capture(model, pixel_values=pixels), number=1, tolerance=1e-3)
    for handle in handles:
        handle.remove()
    assert handles
    assert found.kind == "fixed", found.evidence


@pytest.mark.parametrize(
    ("kind", "side", "kept"),
    [("vmamba", 64, {0, 1, 2}), ("mambavision", 160, {0, 1, 2})],
    ids=["vmamba", "mambavision"],
)
def test_layers_of_models_with_stages_are_classified_by_their_own_patches(kind, side, kept):
    """Of MambaVision the windows of one stage have enough tokens; of each, every window reads the same."""
    model = small(kind, windows=(8, 8, 5, 2)) if kind == "mambavision" else small(kind)
    pixels = torch.randn(1, 2, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trace = mambascope.capture(model, pixel_values=pixels)
    kept = {0, 1, 2}
    for number in kept:
        found = classify(trace, number=number)
        assert found.kind == "data-controlled", found.evidence
        assert found.causal == (kind == "mambavision" and trace.layers[number].kind == "scan")
    for number in set(range(len(trace.layers))) - kept:
        with pytest.raises(InputError, match="4 tokens leave none far"):
            classify(trace, number=number)


def test_a_scan_of_windows_with_constant_coefficients_is_fixed():
    model = small("mambavision", windows=(8, 8, 5, 2))
    projection = model.get_submodule("levels.2.blocks.0.mixer.x_proj")
    drawn = torch.randn(projection.out_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projection.register_forward_hook(lambda _, __, out: drawn.expand_as(out))
    pixels = torch.randn(1, 2, 160, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trace = mambascope.capture(model, pixel_values=pixels)
    assert len(trace.layers[0].branch.captured.x) == 4, "several windows"
    found = classify(trace, number=0)
    assert (found.kind, found.toeplitz, found.causal) == ("fixed", True, True)
    assert classify(trace, number=1).kind == "data-controlled"


def test_tokens_on_a_grid_are_near_on_all_sides():
    places = Places(rows=9, columns=7, reach=1)
    around = places.near(3 * 7 + 2, 1).unflatten(0, (9, 7))
    assert around.nonzero().tolist() == [[r, c] for r in (2, 3, 4) for c in (1, 2, 3)]
    for i, j in places.pairs(1):
        assert 0 <= j < i < 63
        assert not (places.near(i, 1) & places.near(j, 1)).any()
        assert not (places.near(i, 2) & places.near(j, 1)).any()
    with pytest.raises(InputError, match="5 rows of tokens leave none far from both i and j; 6 or more would"):
        Places(rows=5, columns=30, reach=1).require_room()
    line = Places(1, 30)
    assert [i - j for i, j in line.pairs(4)] == [10, 10, 10]


def test_what_cannot_be_classified_is_refused_by_name():
    with pytest.raises(InputError, match="ask for 18 or more"):
        classify(Fixed(), length=10)
    with pytest.raises(InputError, match="pass width=D"):
        classify(nn.Linear(4, 4))
    with pytest.raises(InputError, match=r"Linear must map \(b, L, D\) to \(b, L, D\)"):
        classify(nn.Linear(4, 5).double(), width=4)
    with pytest.raises(InputError, match="has 6400 rows, more than 4096"):
        classify(nn.Linear(200, 200), width=200)
    with pytest.raises(InputError, match="cannot classify a str"):
        classify("mamba")
    trace = mambascope.capture(hybrid_model("falcon_h1"), input_ids=IDS)
    with pytest.raises(UnsupportedModelError, match="side by side"):
        classify(trace, number=0)
