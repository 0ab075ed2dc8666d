"""A new token mixer in one file: minGRU (Feng et al., arXiv 2410.01201), its operator and the families that read it.

    h_i = (1 - z_i) ⊙ h_{i-1} + z_i ⊙ s_i,   z = σ(W_z x),   s = W_s x,   y = W_o h

so that alpha_ij = z_j Π_{k=j+1}^i (1 - z_k), channel by channel. The mixer is written in two ways, as one finds them:
with its recurrence in a function of the module, which is answered by the operator, and with its recurrence inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

import mambascope
from dense_reference import distance
from mambascope import families, readouts
from mambascope.errors import ReconstructionError, UnsupportedModelError
from mambascope.families import Family, PlainFamily, ScanCall
from mambascope.families.family import weights
from mambascope.methods import METHODS, gradient_x_input, knockout, latim, rollout, rollout_row, value_zeroing
from mambascope.methods.mamba_lrp import mamba_lrp
from mambascope.operators.affine import AffineMixer
from mambascope.operators.blocks import Block, Places, Workspace, future
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.per_head import PerHead
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import capture
from small_tokenizers import byte_level

#: float64 sums of a few hundred terms in another order.
BOUND = 1e-10
TEXT = "When Mary and John went to the store"


# --- what would be a file of operators/ ---


@dataclass(frozen=True, eq=False)
class GatedRecurrence(PerHead):
    """The matrices of one minGRU, frozen at the gates of a forward pass: a head for every channel.

    Attributes:
        z: How much of each token is written, from 0 to 1.
        skip: Zero: a token reaches its own output through the state alone.
    """

    z: Float[Tensor, "b L D"]
    skip: Float[Tensor, " D"]

    @property
    def maps(self) -> int:
        return self.z.shape[2]

    @property
    def length(self) -> int:
        return self.z.shape[1]

    @property
    def state_size(self) -> int:
        return 1

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        return gated_recurrence(v, self.z)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        flow, flows = torch.zeros_like(v[:, 0]), []
        for i in reversed(range(self.length)):
            flow = v[:, i] + flow * (1 - self.z[:, i + 1] if i + 1 < self.length else 0)
            flows.append(self.z[:, i] * flow)
        return torch.stack(flows[::-1], dim=1)

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        z = self.z if maps is None else self.z[..., list(maps)]
        kept = (1 - z).log().cumsum(dim=1).transpose(1, 2)
        fall = kept[..., rows, None] - kept[..., None, columns]
        masked = future(Block(rows, columns), z.device)
        fall = fall if masked is None else fall.masked_fill(masked, -torch.inf)
        return fall.exp() * z[:, columns].transpose(1, 2)[:, :, None]


def naive_matrix(z: Float[Tensor, "L D"]) -> Float[Tensor, "D L L"]:
    """alpha as its formula says it, one pair after the other."""
    length, channels = z.shape
    alpha = torch.zeros(channels, length, length, dtype=torch.float64)
    for i in range(length):
        for j in range(i + 1):
            product = z[j].double()
            for k in range(j + 1, i + 1):
                product = product * (1 - z[k].double())
            alpha[:, i, j] = product
    return alpha


# --- the model, as its authors wrote it ---


def gated_recurrence(s, z):
    h, states = torch.zeros_like(s[:, 0]), []
    for i in range(s.shape[1]):
        h = (1 - z[:, i]) * h + z[:, i] * s[:, i]
        states.append(h)
    return torch.stack(states, dim=1)


class MinGRU(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.to_gate, self.to_state = nn.Linear(width, inner), nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x):
        return self.out(gated_recurrence(self.to_state(x), self.to_gate(x).sigmoid()))


class InlineMinGRU(MinGRU):
    def forward(self, x):
        z, s = self.to_gate(x).sigmoid(), self.to_state(x)
        h, states = torch.zeros_like(s[:, 0]), []
        for i in range(x.shape[1]):
            h = h + z[:, i] * (s[:, i] - h)
            states.append(h)
        return self.out(torch.stack(states, dim=1))


class Layer(nn.Module):
    def __init__(self, mixer, config):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.mixer = mixer(config.hidden_size, 2 * config.hidden_size)

    def forward(self, hidden):
        return hidden + self.mixer(x=self.norm(hidden))


class MinGRUConfig(PreTrainedConfig):
    model_type = "min-gru"

    def __init__(self, hidden_size=10, vocab_size=300, layers=2, **options):
        self.hidden_size, self.vocab_size, self.layers = hidden_size, vocab_size, layers
        super().__init__(**options)


class MinGRULanguageModel(PreTrainedModel):
    config_class = MinGRUConfig
    mixer = MinGRU

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(self.mixer, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids=None, inputs_embeds=None):
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            hidden = layer(hidden)
        return CausalLMOutput(logits=self.head(self.norm(hidden)))


class InlineMinGRULanguageModel(MinGRULanguageModel):
    mixer = InlineMinGRU


# --- what would be a file of families/ ---


def affine(mixer, captured, dtype):
    """The gates follow from x, whether or not a call was captured."""
    x, one = captured.x.to(dtype), captured.x.new_ones((), dtype=dtype)
    W_z, b_z = weights(mixer.to_gate.weight, dtype), weights(mixer.to_gate.bias, dtype)
    z = (x @ W_z.t() + b_z).sigmoid()
    return AffineMixer(
        x=x,
        scan=GatedRecurrence(z, skip=torch.zeros_like(z[0, 0])),
        W_x=weights(mixer.to_state.weight, dtype),
        b_x=weights(mixer.to_state.bias, dtype),
        convolution=CausalConvolution(one.expand(z.shape[2], 1)),
        conv_bias=None,
        gate=torch.ones_like(z),
        W_o=weights(mixer.out.weight, dtype),
        b_o=weights(mixer.out.bias, dtype),
        silu=False,
    )


FAMILY = Family(
    model_type="min-gru",
    mixer_class="MinGRU",
    module=__name__,
    kind="recurrence",
    scan_function="gated_recurrence",
    token_axis=1,
    read=lambda s, z: ScanCall(
        s=s, coefficients={"write": z, "D": torch.zeros_like(z[0, 0])}, give=lambda o: o, take=lambda o: o
    ),
    scan=lambda consumed, dtype: GatedRecurrence(consumed["write"].to(dtype), consumed["D"].to(dtype)),
    affine=affine,
)

INLINE = PlainFamily(
    model_type="min-gru", mixer_class="InlineMinGRU", module=__name__, kind="recurrence", affine=affine
)


# --- its tests ---


@pytest.fixture(autouse=True)
def registered():
    for family in (FAMILY, INLINE):
        families.register(family)
    yield
    for family in (FAMILY, INLINE):
        del families.FAMILIES[family.name]


def language_model(kind, dtype=torch.float64):
    torch.manual_seed(0)
    model = kind(MinGRUConfig()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if "norm.weight" in name else 0, 0.4)
    return model.to(dtype)


@pytest.fixture(params=[MinGRULanguageModel, InlineMinGRULanguageModel])
def model(request):
    return language_model(request.param)


@pytest.fixture
def ids():
    return torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(0))


def naive_layers(model, ids):
    """alpha (D, L, L) and T (L, L, E) of each layer for one text, from the weights and the layers' inputs alone."""
    hidden, found = model.embeddings(ids), []
    for layer in model.layers:
        x = layer.norm(hidden)[0]
        alpha = naive_matrix(layer.mixer.to_gate(x).sigmoid())
        written = x @ layer.mixer.to_state.weight.t()
        found.append((alpha, torch.einsum("fd,dij,jd->ijf", layer.mixer.out.weight, alpha, written)))
        hidden = layer(hidden)
    return found


@pytest.mark.parametrize("length", [1, 7, 70])
def test_the_operator_is_what_the_loop_says(length):
    z = torch.rand(2, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    scan, v = GatedRecurrence(z, torch.zeros(3, dtype=torch.float64)), torch.randn(2, length, 3, dtype=torch.float64)
    alpha = torch.stack([naive_matrix(text) for text in z])
    assert isinstance(scan, TokenMixer)
    assert distance(scan.apply(v), torch.einsum("bdij,bjd->bid", alpha, v)) < BOUND
    assert distance(scan.apply_transposed(v), torch.einsum("bid,bdij->bjd", v, alpha)) < BOUND
    assert distance(scan.pull(v[..., 0]), torch.einsum("bi,bij->bj", v[..., 0], alpha.mean(dim=1))) < BOUND
    whole, mean = torch.zeros_like(alpha), torch.zeros_like(alpha[:, 0])
    for block in scan.blocks():
        whole[:, :, block.rows, block.columns] = scan.mix(block, None, None, Workspace())
        mean[:, block.rows, block.columns] = scan.mean(block, None, None, Workspace())
    assert distance(whole, alpha) < BOUND
    assert distance(mean, alpha.mean(dim=1)) < BOUND


def test_maps_and_rollout_are_those_of_the_loop(model, ids):
    trace = capture(model, input_ids=ids)
    assert max(trace.reconstruction_error) < BOUND
    assert {block.kind for block in trace.layers} == {"recurrence"}
    product = torch.eye(9, dtype=torch.float64)
    with torch.no_grad():
        layers = naive_layers(model, ids[:1])
    for number, (alpha, T) in enumerate(layers):
        assert distance(latim(trace, number)[0], T.norm(dim=-1)) < BOUND
        product = (torch.eye(9) + alpha.mean(dim=0)) @ product
    assert distance(rollout(trace)[0], product) < BOUND
    assert distance(rollout_row(trace, -1)[0], product[-1]) < BOUND


def test_every_method_that_reads_any_layer_explains_it_and_the_others_say_why_not(model):
    able = [name for name, method in METHODS.items() if method.reads({"recurrence"})]
    assert {"latim", "rollout", "latim-alti", "alti-logit", "gradient-x-input", "occlusion"} <= set(able)
    for name in METHODS:
        if name == "mamba-attribution":
            with pytest.raises(UnsupportedModelError, match="because LayerNorms follow, which remove means"):
                mambascope.explain(model, byte_level(), TEXT, method=name)
        elif name in able:
            result = mambascope.explain(model, byte_level(), TEXT, method=name)
            assert result.scores.isfinite().all(), name
            assert result.scores.any(), name
        else:
            with pytest.raises(UnsupportedModelError, match=f"{name} reads .* this model mixes tokens by recurrence"):
                mambascope.explain(model, byte_level(), TEXT, method=name)


def test_without_a_name_the_first_method_that_can_explains_it(model):
    result = mambascope.explain(model, byte_level(), TEXT)
    assert result.method == "mamba-lrp"
    assert result.diagnostics["conservation_error"] < 1e-5  # scores are float32
    assert "min-gru" in result.to_html()


def test_gradients_through_the_operator_are_those_through_the_models_own_loop(ids):
    answered, inline = (language_model(kind) for kind in (MinGRULanguageModel, InlineMinGRULanguageModel))
    readout = readouts.token(-1, 3)
    found = [gradient_x_input(capture(model, input_ids=ids), readout) for model in (answered, inline)]
    assert found[0].scores.abs().max() > 1e-3
    assert distance(found[0].scores, found[1].scores) < BOUND


def test_relevance_is_that_of_its_map_however_it_is_written(ids):
    """Gates constant, so that states alone carry tokens; the model written with its recurrence inside has the same."""
    answered, inline = (language_model(kind) for kind in (MinGRULanguageModel, InlineMinGRULanguageModel))
    readout = readouts.token(-1, 3)
    found = [mamba_lrp(capture(model, input_ids=ids), readout) for model in (answered, inline)]
    assert max(float(one.conservation_error.max()) for one in found) < BOUND
    assert distance(found[0].scores, found[1].scores) < BOUND
    assert distance(found[0].biases, found[1].biases) < BOUND
    hidden, kept = answered.embeddings(ids[:1]), []
    with torch.no_grad():
        for layer, (alpha, _) in zip(answered.layers, naive_layers(answered, ids[:1]), strict=True):
            kept.append((layer, alpha, hidden[0].var(dim=-1, unbiased=False, keepdim=True) + layer.norm.eps))
            hidden = layer(hidden)
        final = answered.norm
        c = torch.zeros_like(hidden[0])
        c[-1] = answered.head.weight[3]
        c = centred(c * final.weight * (hidden[0].var(dim=-1, unbiased=False, keepdim=True) + final.eps).rsqrt())
        for layer, alpha, variance in reversed(kept):
            back = torch.einsum("dij,id->jd", alpha, c @ layer.mixer.out.weight) @ layer.mixer.to_state.weight
            c = c + centred(back * layer.norm.weight * variance.rsqrt())
        expected = (answered.embeddings(ids[:1])[0] * c).sum(dim=-1)
    assert distance(found[0].scores[0], expected) < BOUND


def centred(c):
    return c - c.mean(dim=-1, keepdim=True)


def test_a_knockout_is_the_loop_without_a_source(model, ids):
    """In the calls of its function, or from the output of the mixer that calls none: the same is cut."""
    trace, readout, rows = capture(model, input_ids=ids[:1]), readouts.token(-1, 3), [4, 8]

    def value(source):
        hidden = model.embeddings(ids[:1])
        for layer in model.layers:
            x = layer.norm(hidden)[0]
            alpha = naive_matrix(layer.mixer.to_gate(x).sigmoid())
            for j in source:
                alpha[:, rows, j] = 0
            hidden = hidden + layer.mixer.out(torch.einsum("dij,jd->id", alpha, layer.mixer.to_state(x)))
        return readout(model.head(model.norm(hidden)))[0]

    with torch.no_grad():
        expected = torch.stack([value([]) - value([j]) for j in range(9)])
    assert distance(knockout(trace, readout, targets=rows).scores, expected) < BOUND
    assert expected.abs().max() > 1e-3


def test_a_value_is_zero_in_one_layer(model, ids):
    trace = capture(model, input_ids=ids[:1])
    x, before = trace.layers[1].x[0], trace.layers[1].stream_in[0]

    def output(source):
        layer = model.layers[1]
        alpha = naive_matrix(layer.mixer.to_gate(x).sigmoid())
        alpha[:, :, source] = 0
        return before + layer.mixer.out(torch.einsum("dij,jd->id", alpha, layer.mixer.to_state(x)))

    with torch.no_grad():
        intact, without = output([]), [output([k]) for k in range(9)]
    turns = torch.stack([1 - torch.nn.functional.cosine_similarity(one, intact, dim=-1) for one in without], dim=1)
    assert torch.allclose(value_zeroing(trace, 1)[0], turns, rtol=1e-10, atol=1e-12)


def test_a_recurrence_that_is_not_the_models_is_caught(monkeypatch, ids):
    """Once where the first tokens are held against the model's own function, once where the output is rebuilt."""

    class Forgetful(GatedRecurrence):
        def apply(self, v):
            return gated_recurrence(v, self.z * 0.9)

    wrong = {
        FAMILY: {"scan": lambda consumed, dtype: Forgetful(consumed["write"].to(dtype), consumed["D"].to(dtype))},
        INLINE: {"affine": lambda *args: replace(affine(*args), scan=Forgetful(affine(*args).scan.z, torch.zeros(20)))},
    }
    for family, model in ((FAMILY, MinGRULanguageModel), (INLINE, InlineMinGRULanguageModel)):
        monkeypatch.setitem(families.FAMILIES, family.name, replace(family, **wrong[family]))
        with pytest.raises(ReconstructionError, match="cannot be rebuilt"):
            capture(language_model(model, torch.float32), input_ids=ids)
