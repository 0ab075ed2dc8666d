"""Knockout and value zeroing in attention and in hybrids, against stock models edited by hand.

The references run transformers' own code. Either a hook sets what leaves the value projection to zero, or the function
that mixes the values is replaced by one that subtracts a source's share with loops over heads and targets.
"""

import contextlib
import dataclasses
import importlib
import types

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.mamba import modeling_mamba

from mambascope import readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import FAMILIES, find_mixers
from mambascope.methods.interventions import knockout
from mambascope.methods.value_zeroing import value_zeroing
from mambascope.models.mambavision import mixer as mamba_vision
from mambascope.trace import capture
from models import stock_transformer, transformer_inputs, without_downcasts
from small_staged_models import small

#: Both sides are float64 throughout and differ in the order of sums of a few hundred terms.
BOUND = {"rtol": 1e-10, "atol": 1e-10}
#: The value projection of an attention layer, and where its values stand in what it returns.
VALUES = {
    "gpt2": ("c_attn", slice(24, 36)),
    "llama": ("v_proj", slice(None)),
    "bert": ("self.value", slice(None)),
    "vit": ("v_proj", slice(None)),
}
LENGTH = 7


@pytest.fixture(params=VALUES)
def case(request):
    """A model in float64, its inputs, a readout, and a target."""
    family = request.param
    given = transformer_inputs(family, torch.float64, length=LENGTH, side="none")
    inputs = {key: value[:1] for key, value in given.items()}
    causal = family in ("gpt2", "llama")
    readout = readouts.token(LENGTH - 1, 7, 3) if causal else readouts.class_(1, 0)
    with without_downcasts(family):
        yield family, stock_transformer(family, torch.float64), inputs, readout, LENGTH - 1 if causal else 0


@contextlib.contextmanager
def eagerly(model):
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        model.set_attn_implementation("sdpa")


def subtracting(stock, rows, source, layers):
    """Stand in for an attention function: Σ_h p_ij v_j is subtracted in the calls with these numbers."""
    calls = iter(range(100))

    def attend(module, query, key, value, mask, **options):
        output, p = stock(module, query, key, value, mask, **options)
        if next(calls) not in layers or source is None:
            return output, p
        output, sharing = output.clone(), p.shape[1] // value.shape[1]
        for text in range(len(p)):
            for head in range(p.shape[1]):
                for i in rows:
                    output[text, i, head] -= p[text, head, i, source] * value[text, head // sharing, source]
        return output, p

    return attend


def by_hand(family, model, inputs, readout, rows, layers, count):
    """The fall of a readout for each of `count` sources."""
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    stock = module.eager_attention_forward

    def value(source):
        with pytest.MonkeyPatch.context() as patch, eagerly(model):
            patch.setattr(module, "eager_attention_forward", subtracting(stock, rows, source, layers))
            return readout(model(**inputs))[0]

    return torch.stack([value(None) - value(j) for j in range(count)])


@pytest.mark.parametrize("layers", [None, (1, 1)])
@pytest.mark.parametrize("several", [False, True])
def test_knockout_of_a_transformer_leaves_out_the_values_share(case, layers, several):
    family, model, inputs, readout, place = case
    rows = [1, place] if several else [place]
    trace = capture(model, **inputs)
    length = trace.shape[1]
    expected = by_hand(family, model, inputs, readout, rows, range(2) if layers is None else [1], length)
    effect = knockout(trace, readout, targets=rows, layers=layers)
    assert torch.allclose(effect.scores, expected, **BOUND)
    assert effect.scores.abs().max() > 1e-3
    assert torch.allclose(knockout(trace, readout, targets=rows, layers=layers, batch=2).scores, expected, **BOUND)


def test_a_value_is_zero_as_if_its_projection_had_returned_zero(case):
    """Of every target, in one layer, whose whole output is compared: with its norms and its MLP, as in the paper."""
    family, model, inputs, _, _ = case
    trace = capture(model, **inputs)
    name, where = VALUES[family]
    for layer, block in enumerate(trace.layers):
        value = model.get_submodule(block.branch.name).get_submodule(name)

        def output(source, place=block.name, value=value):
            seen = []

            def without(_, __, values):
                values = values.clone()
                values[:, [] if source is None else source, where] = 0
                return values

            handles = [
                value.register_forward_hook(without),
                model.get_submodule(place).register_forward_hook(
                    lambda *args: seen.append(args[-1][0] if isinstance(args[-1], tuple) else args[-1])
                ),
            ]
            with eagerly(model):
                model(**inputs)
            for handle in handles:
                handle.remove()
            return seen[0][0]

        intact = output(None)
        distances = [1 - F.cosine_similarity(output(k), intact, dim=-1) for k in range(len(intact))]
        zeroed = value_zeroing(trace, layer)[0]
        # a cosine near 1 is known to 1e-16 only, so distances of 1e-12 to 4 digits
        assert torch.allclose(zeroed, torch.stack(distances, dim=1), **BOUND)
        assert torch.allclose(value_zeroing(trace, layer, batch=3)[0], zeroed, rtol=1e-10, atol=1e-13)
        assert zeroed.max() > 1e-3
        assert bool(zeroed.triu(1).any()) == (family in ("bert", "vit"))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_source_and_changes_nothing(side):
    """In float32: in float64 transformers' eager attention returns NaN for rows that padding masks as a whole."""
    model = stock_transformer("llama")
    ids = torch.randint(1, 50, (1, 5), generator=torch.Generator().manual_seed(1))
    pad = (2, 0) if side == "left" else (0, 2)
    padded, mask = F.pad(ids, pad), F.pad(torch.ones_like(ids), pad)
    alone = capture(model, input_ids=ids)
    trace = capture(model, input_ids=padded, attention_mask=mask)
    expected, found = (knockout(one, readouts.token(-1, 7, 3)).scores for one in (alone, trace))
    real = mask[0].bool()
    # float32: differences of logits of size 1
    assert torch.allclose(found[real], expected, atol=1e-5)
    assert not found[~real].any()
    zeroed = value_zeroing(trace, 1)[0]
    assert torch.allclose(zeroed[real][:, real], value_zeroing(alone, 1)[0], atol=1e-5)
    assert not zeroed[~real].any()
    assert not zeroed[:, ~real].any()
    assert not zeroed.triu(1).any()


# --- hybrids: a Mamba block, a block of a Transformer, and one that has both side by side ---


class SideBySide(nn.Module):
    def __init__(self, mamba, llama):
        super().__init__()
        self.norm = modeling_llama.LlamaRMSNorm(llama.hidden_size)
        self.mixer = modeling_mamba.MambaMixer(mamba, 0)
        self.self_attn = modeling_llama.LlamaAttention(llama, 1)

    def forward(self, hidden, embeddings, mask):
        normed = self.norm(hidden)
        attended, _ = self.self_attn(normed, position_embeddings=embeddings, attention_mask=mask)
        return hidden + self.mixer(normed) + attended


class Hybrid(nn.Module):
    def __init__(self):
        super().__init__()
        mamba = transformers.MambaConfig(hidden_size=12, state_size=3, residual_in_fp32=False, vocab_size=30)
        llama = transformers.LlamaConfig(
            hidden_size=12, intermediate_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
            attention_bias=True, attn_implementation="eager",
        )  # fmt: skip
        self.embeddings = nn.Embedding(30, 12)
        self.rotary = modeling_llama.LlamaRotaryEmbedding(llama)
        self.layers = nn.ModuleList(
            [
                modeling_mamba.MambaBlock(mamba, 0),
                modeling_llama.LlamaDecoderLayer(llama, 1),
                SideBySide(mamba, llama),
                modeling_mamba.MambaBlock(mamba, 3),
            ]
        )
        self.norm = modeling_llama.LlamaRMSNorm(12)
        self.head = nn.Linear(12, 30, bias=False)

    def forward(self, input_ids):
        hidden, length = self.embeddings(input_ids), input_ids.shape[1]
        embeddings = self.rotary(hidden, torch.arange(length)[None])
        mask = torch.full((length, length), -1e9, dtype=hidden.dtype).triu(1)[None, None]
        for layer in self.layers:
            if isinstance(layer, modeling_mamba.MambaBlock):
                hidden = layer(hidden)
            elif isinstance(layer, SideBySide):
                hidden = layer(hidden, embeddings, mask)
            else:
                hidden = layer(hidden, position_embeddings=embeddings, attention_mask=mask)
        return types.SimpleNamespace(logits=self.head(self.norm(hidden)))


def drawn(kind):
    torch.manual_seed(0)
    model = kind().double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.4)
    return model


@pytest.fixture
def hybrid():
    with without_downcasts("mamba"), without_downcasts("llama"):
        yield drawn(Hybrid)


IDS = torch.randint(30, (1, LENGTH), generator=torch.Generator().manual_seed(0))
READOUT = readouts.token(LENGTH - 1, 7, 11)
#: The number of each layer's calls of the scan and of attention.
SCANS, ATTENTIONS = {0: 0, 2: 1, 3: 2}, {1: 0, 2: 1}


def rescanning(stock, rows, source, calls_cut):
    """Stand in for the scan: the rows of the targets are those of a second stock scan without the source."""
    calls = iter(range(100))

    def scan(s, *args, **options):
        o = stock(s, *args, **options)
        if next(calls) in calls_cut and source is not None:
            without = s.clone()
            without[:, :, source] = 0
            o = o.clone()
            o[:, :, rows] = stock(without, *args, **options)[:, :, rows]
        return o

    return scan


def edited(model, rows, source, layers, kinds, run):
    """Return what `run` returns while sources are cut by hand in some layers' mixers of some kinds."""
    cut = [[calls[layer] for layer in layers if layer in calls] for calls in (SCANS, ATTENTIONS)]
    scans, attentions = (one if kind in kinds else [] for one, kind in zip(cut, ("scan", "attention"), strict=True))
    stock = modeling_llama.eager_attention_forward
    scan = modeling_mamba.mamba_selective_scan
    while hasattr(scan, "__wrapped__"):
        scan = scan.__wrapped__
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(modeling_llama, "eager_attention_forward", subtracting(stock, rows, source, attentions))
        patch.setattr(modeling_mamba, "mamba_selective_scan", rescanning(scan, rows, source, scans))
        return run()


@pytest.mark.parametrize("kinds", [None, {"scan"}, {"attention"}])
@pytest.mark.parametrize("layers", [None, (1, 2), (2, 2)])
def test_a_window_of_a_hybrid_holds_any_kinds(hybrid, kinds, layers):
    inside = range(4) if layers is None else range(layers[0], layers[1] + 1)
    rows = [3, LENGTH - 1]

    def value(source):
        cut = kinds or {"scan", "attention"}
        return edited(hybrid, rows, source, inside, cut, lambda: READOUT(hybrid(IDS)))[0]

    expected = torch.stack([value(None) - value(j) for j in range(LENGTH)])
    effect = knockout(capture(hybrid, input_ids=IDS), READOUT, targets=rows, layers=layers, kinds=kinds)
    assert torch.allclose(effect.scores, expected, **BOUND)
    assert effect.scores.abs().max() > 1e-3


@pytest.mark.parametrize("layer", range(4))
def test_a_value_is_zero_in_every_branch_of_a_hybrids_layer(hybrid, layer):
    def output(source):
        seen = []
        handle = hybrid.layers[layer].register_forward_hook(lambda *args: seen.append(args[-1]))
        edited(hybrid, range(LENGTH), source, [layer], {"scan", "attention"}, lambda: hybrid(IDS))
        handle.remove()
        return (seen[0][0] if isinstance(seen[0], tuple) else seen[0])[0]

    intact = output(None)
    expected = torch.stack([1 - F.cosine_similarity(output(k), intact, dim=-1) for k in range(LENGTH)], dim=1)
    zeroed = value_zeroing(capture(hybrid, input_ids=IDS), layer)[0]
    assert torch.allclose(zeroed, expected, **BOUND)
    assert not zeroed.triu(1).any()
    assert zeroed.max() > 1e-3


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_of_a_picture_model_is_cut_by_itself(stage):
    """MambaVision's mixers and its attention: what leaves the scan's convolution, and the value projection, is zero."""
    model = small("mambavision")
    inputs = {"pixel_values": torch.randn(1, 2, 48, 48, generator=torch.Generator().manual_seed(0)).double()}
    trace = capture(model, **inputs).stages[stage]
    length = trace.shape[1]
    scans = mamba_vision.mamba_selective_scan
    attention, number = next((block, k) for k, block in enumerate(trace.layers) if block.kind == "attention")
    qkv = model.get_submodule(attention.branch.name).qkv

    def run(source, kinds):
        def zero(_, __, output):
            output = output.clone()
            output[:, source, 2 * output.shape[-1] // 3 :] = 0
            return output

        def scan(s, *args, **options):
            if s.shape[-1] == length:
                s = s.clone()
                s[..., source] = 0
            return scans(s, *args, **options)

        seen, place = [], model.get_submodule(attention.name)
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack, torch.no_grad():
            stack.callback(place.register_forward_hook(lambda *args: seen.append(args[-1])).remove)
            for name, part in model.named_modules():
                if name.endswith(".qkv") and (part is qkv or "attention" in kinds):
                    inside = name.removesuffix(".qkv") in {branch.name for branch in trace.branches}
                    stack.callback(part.register_forward_hook(zero).remove) if inside else None
            if "scan" in kinds:
                patch.setattr(mamba_vision, "mamba_selective_scan", scan)
            return readouts.class_(1, 0)(model(**inputs))[0], seen[0]

    everything = {"scan", "attention"}
    expected = torch.stack([run([], everything)[0] - run([j], everything)[0] for j in range(length)])
    effect = knockout(trace, readouts.class_(1, 0), targets=range(length))
    assert torch.allclose(effect.scores, expected, **BOUND)
    assert effect.scores.abs().max() > 1e-6
    intact = run([], ())[1][0]
    turns = [1 - F.cosine_similarity(run([k], ())[1][0], intact, dim=-1) for k in range(length)]
    assert torch.allclose(value_zeroing(trace, number)[0], torch.stack(turns, dim=1), **BOUND)


def test_the_kinds_of_a_window_must_be_in_it(hybrid):
    trace = capture(hybrid, input_ids=IDS)
    with pytest.raises(InputError, match="no mixer of the kinds attention to cut in layers 0 to 0: they are scan"):
        knockout(trace, READOUT, layers=(0, 0), kinds={"attention"})
    with pytest.raises(InputError, match=r"kinds must be a collection such as \{'attention'\}, found 'attention'"):
        knockout(trace, READOUT, kinds="attention")


def test_a_mixer_that_runs_in_several_layers_is_cut_in_all_of_them_or_in_none():
    class Twice(Hybrid):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([self.layers[0]])

        def forward(self, input_ids):
            hidden = self.layers[0](self.layers[0](self.embeddings(input_ids)))
            return types.SimpleNamespace(logits=self.head(self.norm(hidden)))

    trace = capture(drawn(Twice), input_ids=IDS)
    assert [block.name for block in trace.layers] == ["layers.0"] * 2
    with pytest.raises(UnsupportedModelError, match=r"layers.0.mixer runs in several layers, also outside the window"):
        knockout(trace, READOUT, layers=(1, 1))
    assert knockout(trace, READOUT).scores.any()
    first, second = (value_zeroing(trace, layer) for layer in (0, 1))
    assert (first - second).abs().max() > 1e-6, "each layer has an input of its own"


def test_a_layer_that_does_not_call_its_function_is_refused(monkeypatch):
    """Or else nothing would be cut in it, in silence."""
    model = stock_transformer("llama")
    trace = capture(model, input_ids=IDS)
    (_, _, family), *_ = find_mixers(model)
    elsewhere = dataclasses.replace(family, attention_function="use_kernelized_func")
    monkeypatch.setitem(FAMILIES, family.name, elsewhere)
    with pytest.raises(
        UnsupportedModelError, match=r"model.layers.0.self_attn \(LlamaAttention\) called use_kernelized_func 0 times"
    ):
        knockout(trace, READOUT)
