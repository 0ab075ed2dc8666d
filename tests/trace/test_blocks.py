"""Blocks: what entered, plus what the mixers gave, is what left; mixers side by side are one layer, scaled and added.

The block with a scan and an attention side by side is held to dense loops in float64, as whatever walks blocks is.
"""

import dataclasses
import functools
import types

import pytest
import torch
import transformers
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.mamba import modeling_mamba

from dense_reference import distance
from mambascope import families, readouts
from mambascope.errors import UnsupportedModelError
from mambascope.methods.alti import alti, alti_rollout_row
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.hidden_attention import hidden_attention
from mambascope.methods.implicit_attention import implicit_rollout_row
from mambascope.methods.latim import latim
from mambascope.methods.mamba_attribution import mamba_attribution
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.methods.raw_attention import raw_attention_row
from mambascope.methods.rollout import rollout, rollout_row
from mambascope.methods.transformer_attribution import transformer_attribution
from mambascope.methods.value_bias import with_value_bias
from mambascope.trace import capture
from mambascope.trace.rules import GRADIENT
from models import FAMILIES, padded_batch, stock_model, stock_transformer, transformer_inputs, without_downcasts
from small_staged_models import small
from vision_models import pictures, vision_mamba

LENGTH, WIDTH = 9, 12
#: float64 sums of a few hundred terms in another order.
BOUND = 1e-10
#: What the two mixers' outputs are multiplied by where they are added to the stream.
SCAN_SCALE, ATTENTION_SCALE = 0.7, -1.3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_stream_of_every_mamba_is_what_entered_plus_what_the_mixer_gave(family, dtype):
    ids, mask = padded_batch(12, 2, "left")
    trace = capture(stock_model(family, dtype), input_ids=ids, attention_mask=mask)
    held(trace, {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 2e-2}[dtype])
    for before, after in zip(trace.layers, trace.layers[1:], strict=False):
        assert distance(before.stream_out, after.stream_in) < 1e-6, "nothing stands between two layers"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "bert", "vit", "llama"])
def test_the_stream_of_every_transformer_is_too(family):
    held(capture(stock_transformer(family), **transformer_inputs(family)), 1e-6)


def test_a_sequential_gpt_neox_is_walked_as_it_runs():
    model = stock_transformer("gpt_neox", use_parallel_residual=False)
    held(capture(model, **transformer_inputs("gpt_neox")), 1e-6)


@pytest.mark.parametrize("kind", ["vmamba", "mambavision"])
def test_the_stream_of_every_staged_model_is_too(kind):
    model = small(kind)
    pixels = torch.randn(1, model.config.num_channels, 64, 64, dtype=torch.float64)
    held(capture(model, pixel_values=pixels), 1e-12)


def test_the_stream_of_a_vision_mamba_is_too():
    model = vision_mamba(torch.float64)
    held(capture(model, pixel_values=pictures(model, 2)), 1e-12)


def held(trace, bound):
    for block in trace.layers:
        assert block.trusted
        assert block.stream_error < bound, block
        assert block.stream_in.shape == block.stream_out.shape == block.y.shape


class SideBySide(nn.Module):
    """A layer whose mixers read the same normalised stream and are added to it side by side, then an MLP."""

    def __init__(self, mamba, llama, layer):
        super().__init__()
        self.norm = modeling_mamba.MambaRMSNorm(WIDTH)
        self.mamba = modeling_mamba.MambaMixer(mamba, layer_idx=layer)
        self.attn = modeling_llama.LlamaAttention(llama, layer_idx=layer)
        self.norm2 = modeling_mamba.MambaRMSNorm(WIDTH)
        self.mlp = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states, embeddings):
        x = self.norm(hidden_states)
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1)[None, None]
        scanned = self.mamba(x)
        attended, _ = self.attn(x, position_embeddings=embeddings, attention_mask=mask)
        stream = hidden_states + SCAN_SCALE * scanned + ATTENTION_SCALE * attended
        return stream + self.mlp(self.norm2(stream))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        mamba = transformers.MambaConfig(hidden_size=WIDTH, state_size=3)
        llama = transformers.LlamaConfig(
            hidden_size=WIDTH, num_attention_heads=3, attention_bias=True, attn_implementation="eager"
        )
        self.layers = nn.ModuleList([SideBySide(mamba, llama, layer) for layer in range(2)])
        self.rotary = modeling_llama.LlamaRotaryEmbedding(llama)
        self.norm_f = modeling_mamba.MambaRMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, hidden):
        embeddings = self.rotary(hidden, torch.arange(hidden.shape[1], dtype=torch.float32)[None])
        for layer in self.layers:
            hidden = layer(hidden, embeddings)
        return types.SimpleNamespace(logits=self.head(self.norm_f(hidden)))


@pytest.fixture
def hybrid(monkeypatch):
    """A run of the two-layer hybrid, whose families say how their outputs are scaled."""
    for family, scale in ((families.mamba.FAMILY, SCAN_SCALE), (families.llama.FAMILIES[0], ATTENTION_SCALE)):
        scaled = dataclasses.replace(family, scale=lambda block, scale=scale: scale)
        monkeypatch.setitem(families.FAMILIES, family.name, scaled)
    torch.manual_seed(0)
    model = Model().double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    hidden = torch.randn(1, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with without_downcasts("mamba"):
        return capture(model, hidden=hidden)


def dense(trace, layer):
    """Return T (L, L, E) and β (L, E) of both branches, scaled and added, from each branch's rows one by one."""
    total, bias = 0, 0
    for branch, scale in zip(trace.layers[layer].branches, (SCAN_SCALE, ATTENTION_SCALE), strict=True):
        operator = branch.operator()
        rows = [operator.contributions(target) for target in range(LENGTH)]
        total = total + scale * torch.stack([vectors[0] for vectors, _ in rows])
        bias = bias + scale * torch.stack([beta[0] for _, beta in rows])
    return total, bias


def dense_alti(trace, layer):
    block, (T, _) = trace.layers[layer], dense(trace, layer)
    after = (block.stream_in + block.y)[0]
    T = T.clone()
    T[range(LENGTH), range(LENGTH)] += block.stream_in[0]
    closeness = (after.abs().sum(-1)[:, None] - (after[:, None] - T).abs().sum(-1)).clamp(min=0)
    return closeness / closeness.sum(dim=-1, keepdim=True)


def test_mixers_side_by_side_are_one_layer(hybrid):
    assert [block.kind for block in hybrid.layers] == ["scan + attention"] * 2
    assert [block.name for block in hybrid.layers] == ["layers.0", "layers.1"]
    assert len(hybrid.branches) == 4
    held(hybrid, 1e-7)  # the stock norms compute in float32 here and there
    for layer in range(2):
        T, bias = dense(hybrid, layer)
        assert distance(T.sum(dim=1) + bias, hybrid.layers[layer].y[0]) < 1e-6


def test_norms_are_taken_of_vectors_that_were_added(hybrid):
    for layer in range(2):
        T, _ = dense(hybrid, layer)
        assert distance(latim(hybrid, layer)[0], T.norm(dim=-1)) < BOUND
        assert distance(alti(hybrid, layer)[0], dense_alti(hybrid, layer)) < BOUND
    rolled = dense_alti(hybrid, 1) @ dense_alti(hybrid, 0)
    assert distance(alti_rollout_row(hybrid, -1)[0], rolled[-1]) < BOUND
    apart = sum(
        scale * latim_of(branch).abs()
        for branch, scale in zip(hybrid.layers[0].branches, (SCAN_SCALE, ATTENTION_SCALE), strict=True)
    )
    assert distance(latim(hybrid, 0)[0], apart) > 1e-2, "norms added would be another thing"


def latim_of(branch):
    rows = [branch.operator().contributions(target)[0][0] for target in range(LENGTH)]
    return torch.stack(rows).norm(dim=-1)


def test_rollout_multiplies_layers_and_adds_what_stands_side_by_side(hybrid):
    rho = normalised = torch.eye(LENGTH, dtype=torch.float64)[-1]
    for block in reversed(hybrid.layers):
        mean = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
        for branch, scale in zip(block.branches, (SCAN_SCALE, ATTENTION_SCALE), strict=True):
            one = dataclasses.replace(block, branches=(dataclasses.replace(branch, scale=1.0),))
            alone = dataclasses.replace(hybrid, layers=(one,))
            mean += scale * hidden_attention(alone, 0)[0].mean(dim=0)
        rho = rho + rho @ mean
        rows = torch.eye(LENGTH, dtype=torch.float64) + mean
        normalised = normalised @ (rows / rows.sum(dim=1, keepdim=True))
    assert distance(rollout_row(hybrid, -1)[0], rho) < BOUND
    assert distance(rollout_row(hybrid, -1, normalise=True)[0], normalised) < BOUND


def test_alti_logits_terms_are_found_apart_and_add_up(hybrid):
    """Tokens and biases from the maps, the embedding and what lies between layers from the stream, the rest from the
    head: a block whose sum is another one shows in the conservation error."""
    readout = readouts.token(LENGTH - 1, 3)
    with without_downcasts("mamba"):
        found = alti_logit(hybrid, readout)
    assert float(found.conservation_error) < 1e-6
    assert all(float(term.abs()) > 1e-3 for term in found.terms.values())
    q = hybrid.logit_direction(readout).at_embeddings[0]
    first, last = (torch.einsum("ie,ije->j", q, dense(hybrid, layer)[0]) for layer in (0, 1))
    assert distance(found.scores[0], torch.stack([first, last @ dense_alti(hybrid, 0)])) < BOUND
    wrong = dataclasses.replace(hybrid.layers[0], branches=scaled_wrongly(hybrid.layers[0].branches))
    with without_downcasts("mamba"):
        off = alti_logit(dataclasses.replace(hybrid, layers=(wrong, hybrid.layers[1]), _passes={}), readout)
    assert float(off.conservation_error) > 1e-3


def test_what_each_kind_of_mixer_adds_to_the_readout_adds_up(hybrid):
    """d_b = q · w_b (Σ_j T_ij + β_i), from each branch's own rows."""
    readout = readouts.token(LENGTH - 1, 3)
    with without_downcasts("mamba"):
        found = alti_logit(hybrid, readout)
    q = hybrid.logit_direction(readout).at_embeddings[0]
    expected = {"scan": [], "attention": []}
    for block in hybrid.layers:
        for branch, scale in zip(block.branches, (SCAN_SCALE, ATTENTION_SCALE), strict=True):
            rows = [branch.operator().contributions(target) for target in range(LENGTH)]
            y = torch.stack([vectors[0].sum(dim=0) + beta[0] for vectors, beta in rows])
            expected[branch.kind].append(float((q * scale * y).sum()))
    size = sum(abs(one) for each in expected.values() for one in each)
    assert list(found.by_kind) == ["scan", "attention"]
    for kind, each in expected.items():
        # the stock model computes some of y in float32
        assert float(found.by_kind[kind]) == pytest.approx(sum(each), abs=1e-6)
        assert float(found.shares[kind]) == pytest.approx(sum(map(abs, each)) / size, abs=1e-6)
    updates = found.scores.sum(dim=(1, 2)) + found.terms["bias"]
    assert distance(sum(found.by_kind.values()), updates) < 1e-6
    assert float(sum(found.shares.values())) == pytest.approx(1, abs=1e-12)


def scaled_wrongly(branches):
    return (branches[0], dataclasses.replace(branches[1], scale=1.0))


def test_a_block_that_adds_in_another_way_is_not_walked(monkeypatch):
    """The families say nothing of the scales here: the maps of the mixers stay exact, the stream is refused by name."""
    model = Model().double().eval()
    trace = capture(model, hidden=torch.randn(1, LENGTH, WIDTH, dtype=torch.float64))
    assert not any(block.trusted for block in trace.layers)
    assert max(trace.reconstruction_error) < 1e-6
    readout = readouts.token(-1, 3)
    for method in (
        functools.partial(alti, trace, 0),
        functools.partial(alti_logit, trace, readout),
        functools.partial(rollout, trace),
        functools.partial(rollout_row, trace, -1),
        functools.partial(implicit_rollout_row, trace, -1),
        functools.partial(mamba_attribution, trace, readout),
    ):
        with pytest.raises(UnsupportedModelError, match=r"layers\.0 changes it in a way that mambascope does not know"):
            method()
    assert latim(trace, 0).shape == (1, LENGTH, LENGTH)


def test_mamba_attribution_adds_the_terms_of_what_stands_side_by_side(hybrid):
    """(mean ∇y' ⊙ mean alpha)⁺ of the scan, E_h (∇p ⊙ p)⁺ of attention; the factors are in the gradients."""
    readout = readouts.token(LENGTH - 1, 3)
    with without_downcasts("mamba"):
        gradients = hybrid.gradients(readout)
        found = mamba_attribution(hybrid, readout)
    rho = torch.eye(LENGTH, dtype=torch.float64)[-1]
    for layer in reversed(range(2)):
        scan, attention = hybrid.layers[layer].branches
        alpha = hidden_attention(dataclasses.replace(hybrid, layers=(alone(hybrid, layer, 0),)), 0)[0].mean(dim=0)
        slope, (p, flow) = gradients.mixers[scan.name][1][0].mean(dim=-1), gradients.attention[attention.name]
        terms = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
        for i in range(LENGTH):
            for j in range(LENGTH):
                terms[i, j] += max(0.0, float(slope[i] * alpha[i, j]))
                terms[i, j] += sum(max(0.0, float(p[0, h, i, j] * flow[0, h, i, j])) for h in range(3)) / 3
        rho = rho + rho @ terms
    assert distance(found[0], rho) < BOUND
    assert float((rho - torch.eye(LENGTH)[-1]).abs().max()) > 1e-3


def alone(trace, layer, branch):
    block = trace.layers[layer]
    return dataclasses.replace(block, branches=(dataclasses.replace(block.branches[branch], scale=1.0),))


def test_methods_that_read_one_mixer_a_layer_refuse_two(hybrid):
    with pytest.raises(UnsupportedModelError, match=r"layer \d \(layers\.\d\) adds the outputs of .* side by side"):
        raw_attention_row(hybrid, 0, -1)
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.\w+ is a MambaMixer, .* mamba-attribution reads both"):
        transformer_attribution(hybrid, readouts.token(LENGTH - 1, 3))


def test_the_bias_of_values_is_moved_to_the_sources_inside_a_sum(hybrid):
    """Each part of a sum is a map of its own: attention's has such a bias, here of a scaled branch beside a scan."""
    branch, (T, _) = hybrid.layers[0].branches[1], dense(hybrid, 0)
    b_V, W_O = branch.mixer.v_proj.bias.unflatten(0, (3, -1)), branch.mixer.o_proj.weight
    p = branch.captured.scan["p"][0]
    given = torch.einsum("hij,hp,ehp->ije", p, b_V, W_O.unflatten(-1, (3, -1)))
    found = with_value_bias(hybrid.operator(0), "source")
    rows = torch.stack([found.contributions(target)[0][0] for target in range(LENGTH)])
    assert distance(rows, T + ATTENTION_SCALE * given) < BOUND
    assert float(given.abs().max()) > 1e-3


def test_relevance_is_conserved_through_mixers_side_by_side(hybrid):
    readout = readouts.token(LENGTH - 1, 3)
    with without_downcasts("mamba"):
        found = mamba_lrp(hybrid, readout)
        assert float(found.conservation_error.max()) < 1e-10
        assert found.scores.any()
        assert mamba_lrp(hybrid, readout, rules=GRADIENT).scores.shape == (1, LENGTH)
