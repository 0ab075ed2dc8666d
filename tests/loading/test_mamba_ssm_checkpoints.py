"""Checkpoints in the layout of the original mamba_ssm package: settings, tensors, and what is refused."""

import inspect
import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.loading import mamba_ssm
from mambascope.loading.load import load
from mambascope.loading.mamba_ssm import is_mamba_ssm, to_transformers
from rounding import assert_equal_to_rounding, assert_same_weights

WIDTH, INNER, STATE, ROWS = 16, 32, 4, 48
#: Before transformers 5.23 the norm takes the whole width for one group.
GROUPS = 2 if "group_size" in inspect.signature(MambaRMSNormGated).parameters else 1
MAMBA1 = {
    "d_model": WIDTH, "n_layer": 2, "vocab_size": 45, "ssm_cfg": {"d_state": STATE}, "rms_norm": True,
    "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8,
}  # fmt: skip
MAMBA2 = MAMBA1 | {
    "ssm_cfg": {"layer": "Mamba2", "d_state": STATE, "headdim": 8, "ngroups": GROUPS, "chunk_size": 4},
    "pad_vocab_size_multiple": 16, "tie_embeddings": False, "attn_layer_idx": [], "attn_cfg": {}, "d_intermediate": 0,
}  # fmt: skip
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5]])


def mixer_shapes(version):
    if version == 1:
        return {
            "A_log": (INNER, STATE), "D": (INNER,), "conv1d.weight": (INNER, 1, 4), "conv1d.bias": (INNER,),
            "in_proj.weight": (2 * INNER, WIDTH), "x_proj.weight": (1 + 2 * STATE, INNER),
            "dt_proj.weight": (INNER, 1), "dt_proj.bias": (INNER,), "out_proj.weight": (WIDTH, INNER),
        }  # fmt: skip
    heads, conv = INNER // 8, INNER + 2 * GROUPS * STATE
    return {
        "A_log": (heads,), "D": (heads,), "dt_bias": (heads,), "conv1d.weight": (conv, 1, 4), "conv1d.bias": (conv,),
        "in_proj.weight": (INNER + conv + heads, WIDTH), "norm.weight": (INNER,), "out_proj.weight": (WIDTH, INNER),
    }  # fmt: skip


def make_tensors(version):
    shapes = {"backbone.embedding.weight": (ROWS, WIDTH), "backbone.norm_f.weight": (WIDTH,)}
    for layer in range(2):
        shapes[f"backbone.layers.{layer}.norm.weight"] = (WIDTH,)
        shapes |= {f"backbone.layers.{layer}.mixer.{key}": shape for key, shape in mixer_shapes(version).items()}
    generator = torch.Generator().manual_seed(version)
    tensors = {key: 0.4 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    tied = version == 1
    head = tensors["backbone.embedding.weight"] if tied else 0.4 * torch.randn(ROWS, WIDTH, generator=generator)
    return tensors | {"lm_head.weight": head}


def write(folder, config, tensors, file="pytorch_model.bin"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".safetensors"):
        save_file({key: value.clone() for key, value in tensors.items()}, folder / file)
    else:
        torch.save(tensors, folder / file)
    return folder


def rms(x, weight):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def causal_conv(u, p):
    """The depthwise convolution and SiLU of both mixers; u is (L, channels)."""
    padded = F.pad(u.t(), (3, 0))[None]
    return F.silu(F.conv1d(padded, p["conv1d.weight"], p["conv1d.bias"], groups=u.shape[1]))[0].t()


def scan(x, step, A, B, C):
    """h_k = exp(step A) h + step B x, o = C h; one A per channel and state."""
    h, out = torch.zeros_like(A), []
    for k in range(len(x)):
        h = torch.exp(step[k][:, None] * A) * h + (step[k] * x[k])[:, None] * B[k]
        out.append((h * C[k]).sum(-1))
    return torch.stack(out)


def mamba1_mixer(x, p):
    u, z = (x @ p["in_proj.weight"].t()).chunk(2, dim=-1)
    s = causal_conv(u, p)
    low, B, C = (s @ p["x_proj.weight"].t()).split([1, STATE, STATE], dim=-1)
    step = F.softplus(low @ p["dt_proj.weight"].t() + p["dt_proj.bias"])
    every = [M[:, None].expand(-1, INNER, -1) for M in (B, C)]
    o = scan(s, step, -p["A_log"].exp(), *every) + p["D"] * s
    return (o * F.silu(z)) @ p["out_proj.weight"].t()


def mamba2_mixer(x, p):
    heads = INNER // 8
    z, u, step = (x @ p["in_proj.weight"].t()).split([INNER, INNER + 2 * GROUPS * STATE, heads], dim=-1)
    s, B, C = causal_conv(u, p).split([INNER, GROUPS * STATE, GROUPS * STATE], dim=-1)
    step = F.softplus(step + p["dt_bias"]).repeat_interleave(8, dim=-1)
    A = -p["A_log"].exp().repeat_interleave(8)[:, None].expand(-1, STATE)
    every = [M.unflatten(-1, (GROUPS, STATE)).repeat_interleave(INNER // GROUPS, dim=1) for M in (B, C)]
    o = scan(s, step, A, *every) + p["D"].repeat_interleave(8) * s
    gated = (o * F.silu(z)).unflatten(-1, (GROUPS, INNER // GROUPS))
    return (p["norm.weight"] * rms(gated, 1.0).flatten(-2)) @ p["out_proj.weight"].t()


def reference_logits(tensors, version):
    """What mamba_ssm computes, written down from its source for one sequence."""
    x = tensors["backbone.embedding.weight"][IDS[0]]
    for layer in range(2):
        prefix = f"backbone.layers.{layer}."
        p = {key.removeprefix(prefix + "mixer."): value for key, value in tensors.items() if key.startswith(prefix)}
        mixer = mamba1_mixer if version == 1 else mamba2_mixer
        x = x + mixer(rms(x, tensors[prefix + "norm.weight"]), p)
    return rms(x, tensors["backbone.norm_f.weight"]) @ tensors["lm_head.weight"].t()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize(("version", "config"), [(1, MAMBA1), (2, MAMBA2)])
def test_computes_what_the_original_package_computes(tmp_path, version, config, file):
    tensors = make_tensors(version)
    model, tokenizer = load(write(tmp_path / "model", config, tensors, file))
    assert tokenizer is None
    assert model.config.model_type == ("mamba" if version == 1 else "mamba2")
    logits = model(IDS, use_cache=False).logits[0]
    # float32, a few hundred additions of numbers of order 1 to 100
    torch.testing.assert_close(logits, reference_logits(tensors, version), rtol=1e-4, atol=1e-4)


def test_tied_head_may_be_left_out(tmp_path):
    tensors = make_tensors(1)
    model, _ = load(write(tmp_path / "both", MAMBA1, tensors))
    del tensors["lm_head.weight"]
    alone, _ = load(write(tmp_path / "alone", MAMBA1, tensors))
    assert alone.lm_head.weight is alone.backbone.embeddings.weight
    assert_same_weights(alone, model)
    assert_equal_to_rounding(alone(IDS, use_cache=False).logits, model(IDS, use_cache=False).logits)


def test_settings_left_out_take_the_defaults_of_the_original():
    base = {"d_model": 768, "n_layer": 24, "vocab_size": 50277}
    _, one = to_transformers(base, name="m")
    assert (one.state_size, one.conv_kernel, one.expand, one.time_step_rank) == (16, 4, 2, 48)
    assert (one.vocab_size, one.tie_word_embeddings, one.residual_in_fp32) == (50280, True, True)
    assert (one.use_bias, one.use_conv_bias, one.layer_norm_epsilon) == (False, True, 1e-5)
    _, two = to_transformers(base | {"ssm_cfg": {"layer": "Mamba2"}, "pad_vocab_size_multiple": 16}, name="m")
    assert (two.state_size, two.head_dim, two.num_heads, two.n_groups, two.chunk_size) == (128, 64, 24, 1, 256)
    assert (two.vocab_size, two.tie_word_embeddings, two.layer_norm_epsilon) == (50288, True, 1e-5)


def test_settings_given_are_kept():
    mixer = {"d_state": 8, "d_conv": 3, "expand": 4, "dt_rank": 5, "bias": True, "conv_bias": False}
    _, config = to_transformers(MAMBA1 | {"ssm_cfg": mixer, "residual_in_fp32": False}, name="m")
    assert (config.state_size, config.conv_kernel, config.expand, config.time_step_rank) == (8, 3, 4, 5)
    assert (config.use_bias, config.use_conv_bias, config.residual_in_fp32) == (True, False, False)
    mixer = MAMBA2["ssm_cfg"] | {"dt_limit": [0.01, 0.2], "rmsnorm": True, "norm_before_gate": False, "d_ssm": INNER}
    _, config = to_transformers(MAMBA2 | {"ssm_cfg": mixer}, name="m")
    assert list(config.time_step_limit) == [0.01, 0.2]


def with_mixer(config, **settings):
    return config | {"ssm_cfg": config["ssm_cfg"] | settings}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (MAMBA2 | {"attn_layer_idx": [1, 3]}, r"attention layers \(attn_layer_idx: \[1, 3\]\)"),
        (MAMBA2 | {"d_intermediate": 64}, "MLP in each layer .d_intermediate: 64."),
        (MAMBA1 | {"rms_norm": False}, "LayerNorm"),
        (MAMBA1 | {"bidirectional": True}, "bidirectional"),
        (with_mixer(MAMBA1, bimamba_type="v2"), "ssm_cfg.bimamba_type"),
        (with_mixer(MAMBA1, layer="Mamba3"), "Mamba3 layers"),
        (with_mixer(MAMBA2, norm_before_gate=True), "ssm_cfg.norm_before_gate: True"),
        (with_mixer(MAMBA2, rmsnorm=False), "ssm_cfg.rmsnorm: False"),
        (with_mixer(MAMBA2, D_has_hdim=True), "ssm_cfg.D_has_hdim: True"),
        (with_mixer(MAMBA2, d_ssm=16), "16 of 32 channels"),
    ],
)
def test_parts_that_cannot_be_represented_are_refused_by_name(tmp_path, config, named):
    with pytest.raises(UnsupportedModelError, match=named) as raised:
        load(write(tmp_path / "model", config, {}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (MAMBA1 | {"d_model": "16"}, "d_model in its config.json must be a positive integer, found '16'"),
        (MAMBA1 | {"n_layer": 0}, "n_layer"),
        ({key: value for key, value in MAMBA1.items() if key != "vocab_size"}, "vocab_size .* found None"),
        (MAMBA1 | {"pad_vocab_size_multiple": 0}, "pad_vocab_size_multiple"),
        (MAMBA1 | {"ssm_cfg": "Mamba1"}, "ssm_cfg in its config.json must be an object"),
        (with_mixer(MAMBA1, d_state="many"), "does not describe a Mamba1 model"),
        (with_mixer(MAMBA2, headdim=7), "does not divide into heads of 7 channels"),
        (with_mixer(MAMBA2, headdim=0), "must be positive integers"),
        (with_mixer(MAMBA2, ngroups=3), "in 3 groups"),
        (MAMBA1 | {"vocab_size": 60}, r"has shape \(48, 16\) but its config.json asks for \(64, 16\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, config, named):
    with pytest.raises(CheckpointError, match=named) as raised:
        load(write(tmp_path / "model", config, make_tensors(1)))
    assert "\n" not in str(raised.value)


def test_groups_that_the_norm_cannot_tell_apart_are_refused(monkeypatch):
    """As with transformers before 5.23, whose norm takes the whole width for one group."""
    monkeypatch.setattr(mamba_ssm, "MambaRMSNormGated", lambda hidden_size, eps: None)
    with pytest.raises(UnsupportedModelError, match="m normalises its 2 groups separately"):
        to_transformers(with_mixer(MAMBA2, ngroups=2), name="m")


def test_a_mamba1_file_with_mamba2_settings_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has shape"):
        load(write(tmp_path / "model", MAMBA2, make_tensors(1)))


def test_two_tensors_where_the_settings_tie_one_are_refused(tmp_path):
    tensors = make_tensors(1)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    with pytest.raises(CheckpointError, match="ties the output weights"):
        load(write(tmp_path / "model", MAMBA1, tensors))
    load(write(tmp_path / "model", MAMBA1 | {"tie_embeddings": False}, tensors))


def test_tells_the_two_layouts_apart():
    assert is_mamba_ssm(MAMBA1)
    assert not is_mamba_ssm({"model_type": "mamba", "hidden_size": 16})
    assert not is_mamba_ssm({"model_type": "xlnet", "d_model": 16, "n_layer": 2})
