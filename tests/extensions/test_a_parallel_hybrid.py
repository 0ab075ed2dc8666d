"""A hybrid with two mixers side by side in one file: FalconH1 (Zuo et al., arXiv 2507.22448), Mamba-2 beside attention.

What enters and leaves each mixer is multiplied by constants of the configuration, which the families take up: those of
the outputs are the branches' scales, those of the scan's input and projections belong to its map. The package has
families for FalconH1; here it is as if somebody else's classes had none, which derive from FalconH1's.
"""

import importlib
import inspect
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.models.falcon_h1 import modeling_falcon_h1

import mambascope
from dense_reference import distance
from mambascope import Attribution, families, readouts
from mambascope.errors import ReconstructionError, UnsupportedModelError
from mambascope.families import Family, llama, mamba2
from mambascope.families.attention import AttentionFamily
from mambascope.methods import METHODS, alti_logit, hidden_attention, hidden_attention_row, knockout, latim, rollout
from mambascope.operators.naive import attention_vectors, contribution_vectors, state_space_dual_matrix
from mambascope.trace import capture
from small_tokenizers import byte_level

#: float64 sums of a few hundred terms in another order; transformers computes softmax, scan and norms in float32.
BOUND, SINGLE = 1e-10, 1e-5
MODULE = "transformers.models.falcon_h1.modeling_falcon_h1"
TEXT = "When Mary and John went to the store"


class ScanOfAnother(modeling_falcon_h1.FalconH1Mixer):
    """A mixer of a class that the package does not know; it calls the functions of the module that it belongs to."""

    __module__ = MODULE


class AttentionOfAnother(modeling_falcon_h1.FalconH1Attention):
    """The attention beside it."""

    __module__ = MODULE


def affine(mixer, captured, dtype):
    """Mamba-2's, its input and its projections multiplied by constants; SiLU(z) alone is the gate, with no norm."""
    factor = mixer.mup_vector[0, 0]
    return mamba2.affine(mixer, captured, dtype, x_factor=mixer.ssm_in_multiplier, factor=factor)


SCAN = Family(
    model_type="falcon_h1",
    mixer_class="ScanOfAnother",
    module=MODULE,
    scan_function="mamba2_chunk_scan",
    token_axis=1,
    read=mamba2.read,
    scan=mamba2.state_space_dual,
    affine=affine,
    scale=lambda block: block.ssm_out_multiplier,
)

ATTENTION = AttentionFamily(
    model_type="falcon_h1",
    mixer_class="AttentionOfAnother",
    module=MODULE,
    projections=llama.projections,
    scale=lambda block: block.attn_out_multiplier,
)


@pytest.fixture
def registered():
    for family in (SCAN, ATTENTION):
        families.register(family)
    yield
    for family in (SCAN, ATTENTION):
        del families.FAMILIES[family.name]


@pytest.fixture
def model():
    config = transformers.FalconH1Config(
        vocab_size=300,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=16,
        mamba_d_ssm=24,
        mamba_n_heads=4,
        mamba_d_head=6,
        mamba_n_groups=2,
        mamba_d_state=5,
        mamba_chunk_size=16,
        mamba_rms_norm=False,
        ssm_in_multiplier=0.9,
        ssm_out_multiplier=0.7,
        attention_in_multiplier=1.2,
        attention_out_multiplier=-1.3,
        ssm_multipliers=[0.5, 1.5, 0.8, 1.1, 0.9],
        pad_token_id=0,
    )
    torch.manual_seed(0)
    found = transformers.FalconH1ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.normal_(1 if "norm" in name else 0, 0.4)
    for layer in found.model.layers:
        layer.mamba.__class__, layer.self_attn.__class__ = ScanOfAnother, AttentionOfAnother
    return found.double()


@pytest.fixture
def ids():
    return torch.randint(1, 300, (1, 9), generator=torch.Generator().manual_seed(0))


def naive_layer(block, layer):
    """Each branch's matrices and T, scaled, from what was captured and the weights, by the loops."""
    (scan, attention), mixer = block.branches, layer.mamba
    consumed = {name: value if name in "AD" else value[0] for name, value in scan.captured.scan.items()}
    alpha = state_space_dual_matrix(*(consumed[name] for name in ("dt", "A", "B", "C")))
    W = mixer.in_proj.weight * mixer.mup_vector[0, 0][:, None]
    x = scan.captured.x[0] * mixer.ssm_in_multiplier
    u, w = x @ W[24:48].t(), mixer.conv1d.weight[:24, 0].flip(1)
    a = F.conv1d(F.pad(u.t()[None], (w.shape[1] - 1, 0)), w.flip(1)[:, None], mixer.conv1d.bias[:24], groups=24)[0].t()
    per_channel = alpha.repeat_interleave(6, dim=0)
    T = contribution_vectors(
        per_channel, consumed["D"], u, w, a, F.silu(x @ W[:24].t()), mixer.out_proj.weight, "secant"
    )
    p, values = attention.captured.scan["p"][0], layer.self_attn.v_proj.weight.repeat(3, 1)
    attended = attention_vectors(p, attention.captured.x[0], values, layer.self_attn.o_proj.weight)
    mean = 0.7 * alpha.mean(dim=0) - 1.3 * p.mean(dim=0)
    return mean, 0.7 * T - 1.3 * attended


def test_the_map_of_a_layer_is_the_scaled_sum_of_both_mixers(registered, model, ids):
    trace = capture(model, input_ids=ids)
    assert [block.kind for block in trace.layers] == ["scan + attention"] * 2
    assert all(block.trusted and block.stream_error < SINGLE for block in trace.layers)
    product = torch.eye(9, dtype=torch.float64)
    for number, layer in enumerate(model.model.layers):
        with torch.no_grad():
            mean, T = naive_layer(trace.layers[number], layer)
        assert distance(latim(trace, number)[0], T.norm(dim=-1)) < BOUND
        product = (torch.eye(9) + mean) @ product
        assert distance(hidden_attention(trace, number, "mean")[0], mean) < BOUND
        assert distance(hidden_attention_row(trace, number, 5)[0], mean[5]) < BOUND
    assert distance(rollout(trace)[0], product) < BOUND
    assert float(alti_logit(trace, readouts.token(-1, 3)).conservation_error) < SINGLE


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.reads({"scan", "attention"})])
def test_every_method_that_reads_both_explains_it_or_refuses_by_name(registered, model, name):
    if name == "raw-attention":
        with pytest.raises(UnsupportedModelError, match="side by side, but this method reads one mixer in each layer"):
            mambascope.explain(model, byte_level(), TEXT, method=name)
        return
    result = mambascope.explain(model, byte_level(), TEXT, method=name)
    assert result.model.family == "falcon_h1"
    assert result.scores.isfinite().all()
    assert result.scores.any()


def test_a_result_says_how_much_each_kind_carried(registered, model, tmp_path):
    result = mambascope.explain(model, byte_level(), TEXT, method="alti-logit")
    assert result.model.kinds == result.layer_kinds == ("scan + attention",) * 2
    shares = result.kind_shares()
    assert set(shares) == {"scan", "attention"}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)
    direct, terms = result.diagnostics["direct_by_kind"], result.diagnostics["terms"]
    # float32 scores, summed over tokens and layers
    assert sum(direct.values()) == pytest.approx(terms["tokens"] + terms["bias"], rel=1e-5)
    assert Attribution.load(result.save(tmp_path / "result.safetensors")).kind_shares() == shares
    by_default = mambascope.explain(model, byte_level(), TEXT)
    assert by_default.method == "mamba-lrp"
    assert by_default.kind_shares() == pytest.approx(shares, rel=1e-6)
    several = mambascope.explain(model, byte_level(), TEXT, generate=2)
    first, last = (several.kind_shares(one.position) for one in several.targets)
    assert first != last == several.kind_shares()


def test_a_values_share_is_cut_in_both_mixers(registered, model, ids, monkeypatch):
    """As if both functions of the model's file were run a second time, without the source."""
    module, readout, rows = importlib.import_module(MODULE), readouts.token(-1, 3), [4, 8]
    cut = {"mamba2_chunk_scan": (0, 1), "eager_attention_forward": (3, 2)}  # which argument, and its axis of tokens

    def without(stock, argument, axis, source):
        def run(*args, **options):
            found = stock(*args, **options)
            args = [value.clone() if place == argument else value for place, value in enumerate(args)]
            args[argument].index_fill_(axis, torch.tensor(source, dtype=torch.long), 0)
            left = stock(*args, **options)
            pair = isinstance(found, tuple) and found[1] is not None
            whole, part = (one[0] if isinstance(one, tuple) else one for one in (found, left))
            whole = whole.clone()
            whole[:, rows] = part[:, rows]
            return (whole, found[1]) if pair else whole

        return run

    def value(source):
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            for name, (argument, axis) in cut.items():
                stock = inspect.unwrap(getattr(module, name))
                patch.setattr(module, name, without(stock, argument, axis, source))
            return readout(model(input_ids=ids, use_cache=False))[0]

    model.set_attn_implementation("eager")
    trace = capture(model, input_ids=ids)
    expected = torch.stack([value([]) - value([j]) for j in range(9)])
    # the stock scan and softmax compute in float32
    assert torch.allclose(knockout(trace, readout, targets=rows).scores, expected, atol=1e-6)
    assert expected.abs().max() > 1e-2
    apart = [knockout(trace, readout, targets=rows, kinds={kind}).scores for kind in ("scan", "attention")]
    assert all(float((one - expected).abs().max()) > 1e-3 for one in apart)


def test_a_wrong_constant_is_caught(registered, model, ids, monkeypatch):
    monkeypatch.setitem(families.FAMILIES, SCAN.name, replace(SCAN, affine=mamba2.affine))
    with pytest.raises(ReconstructionError, match=r"layer 0 \(model.layers.0.mamba"):
        capture(model, input_ids=ids)
    unscaled = replace(ATTENTION, scale=lambda block: 1.0)
    monkeypatch.setitem(families.FAMILIES, SCAN.name, SCAN)
    monkeypatch.setitem(families.FAMILIES, ATTENTION.name, unscaled)
    with pytest.raises(UnsupportedModelError, match="changes it in a way that mambascope does not know"):
        alti_logit(capture(model, input_ids=ids), readouts.token(-1, 3))
