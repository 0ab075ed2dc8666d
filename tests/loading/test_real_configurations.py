"""The published configurations of each family, with fewer layers and narrower: saved in pieces, loaded, captured.

What makes these models differ, such as tied heads, rope, windows and biases, is as their authors published it; only
sizes are small.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.loading.load import load
from mambascope.trace import capture
from published import PUBLISHED, published
from published_hybrids import PATTERNS
from rounding import assert_equal_to_rounding, assert_same_weights

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = [
    pytest.mark.product,
    pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated"),  # which published files have
]

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])
#: Models that tie their heads to their embeddings, by their settings or by their family's custom.
TIED = {name for name, settings in PUBLISHED.items() if settings.get("tie_word_embeddings", True)}
#: One of each family whose layers, experts or names of tensors transformers converts while it reads.
CONVERTED = [
    "Qwen/Qwen3-Next-80B-A3B-Instruct", "Qwen/Qwen3.5-35B-A3B", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "ibm-granite/granite-4.0-h-tiny", "tiiuae/Falcon-H1-0.5B-Instruct", "Zyphra/Zamba2-1.2B", "ai21labs/Jamba-v0.1",
    "moonshotai/Kimi-Linear-48B-A3B-Instruct", "LiquidAI/LFM2-350M", "LiquidAI/LFM2-8B-A1B",
]  # fmt: skip


def is_tied(model):
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def loaded_from(folder, name, **options):
    """Load a model; the code that some were published with must be said not to have been run."""
    if "auto_map" not in PUBLISHED[name]:
        return load(folder, **options)[0]
    with pytest.warns(UserWarning, match="brings its own Python code, which was not run: transformers' own"):
        return load(folder, **options)[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_in_shards_is_loaded_and_captured(name, tmp_path):
    model = published(name, tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = loaded_from(tmp_path, name)
    assert type(loaded) is type(model)
    assert_same_weights(loaded, model)
    assert is_tied(loaded) == (name in TIED)
    trace = capture(loaded, input_ids=IDS)
    kinds = ["+".join(branch.kind for branch in block.branches) for block in trace.layers]
    assert kinds == (PATTERNS[name].split() if name in PATTERNS else kinds[:1] * 2)
    assert trace.missing == ()
    assert max(trace.reconstruction_error) < 1e-5  # float32 sums of a few hundred terms


@pytest.mark.parametrize("name", PUBLISHED)
def test_bfloat16_is_loaded_and_captured_in_it(name, tmp_path):
    model = published(name, tmp_path, torch.bfloat16)
    loaded = loaded_from(tmp_path, name, dtype=torch.bfloat16)
    stock = type(model).from_pretrained(tmp_path, config=model.config, dtype=torch.bfloat16)
    assert loaded.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {key: value.dtype for key, value in loaded.named_parameters()} == {
        key: value.dtype
        for key, value in stock.named_parameters()  # which keeps some gates and decays in float32
    }
    assert max(capture(loaded, input_ids=IDS).reconstruction_error) < 2e-2  # bfloat16 keeps 8 bits
    assert_same_weights(loaded.float(), model.float())
    assert_same_weights(loaded_from(tmp_path, name), model)


@pytest.mark.parametrize(
    "name", ["state-spaces/mamba-130m-hf", "mistralai/Mamba-Codestral-7B-v0.1", "Qwen/Qwen3-0.6B", *CONVERTED]
)
def test_a_model_that_accelerate_placed_is_captured(name, tmp_path):
    pytest.importorskip("accelerate")
    model = published(name, tmp_path, max_shard_size="8KB")
    ours = capture(loaded_from(tmp_path, name), input_ids=IDS)
    for where in ("auto", "cpu"):
        placed = type(model).from_pretrained(tmp_path, device_map=where, dtype=torch.float32).eval()
        theirs = capture(placed, input_ids=IDS)
        assert theirs.missing == ()
        for one, other in zip(ours.branches, theirs.branches, strict=True):
            assert (one.captured.y - other.captured.y).norm() < 1e-6 * one.captured.y.norm()


@pytest.mark.parametrize("name", CONVERTED)
def test_a_head_is_tied_or_not_as_its_settings_say(name, tmp_path):
    tied = name not in TIED  # the other way than as published
    changes = {"tie_word_embeddings": tied}
    if "text_config" in PUBLISHED[name]:
        changes["text_config"] = PUBLISHED[name]["text_config"] | {"tie_word_embeddings": tied}
    model = published(name, tmp_path, changes=changes)
    if is_tied(model) != tied:  # the class ties nothing, whatever it is told
        with pytest.raises(CheckpointError, match=r"ties the output weights .* holds two different tensors"):
            load(tmp_path)
        return
    loaded = loaded_from(tmp_path, name)
    assert is_tied(loaded) == tied
    assert_same_weights(loaded, model)
    with torch.no_grad():
        assert_equal_to_rounding(loaded(IDS, use_cache=False).logits, model(IDS, use_cache=False).logits)


# --- tensors as published, where transformers saves others ---


def rewrite(folder, change):
    """Give the tensors of a checkpoint other names, or others beside them."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "model."),
        ("Qwen/Qwen3.5-35B-A3B", "model.language_model."),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "backbone."),
    ],
)
def test_layers_that_predict_tokens_after_the_next_are_left_out(name, body, tmp_path):
    """Files hold them, with experts like the body's; transformers has no place for them."""
    model = published(name, tmp_path)
    first = f"{body}layers.0."
    rewrite(tmp_path, lambda held: held | {
        key.replace(first, "mtp.layers.0."): value.clone() for key, value in held.items() if key.startswith(first)
    })  # fmt: skip
    assert_same_weights(loaded_from(tmp_path, name), model)


def test_the_dense_layer_of_kimi_has_another_name_than_those_with_experts(tmp_path):
    name = "moonshotai/Kimi-Linear-48B-A3B-Instruct"
    model = published(name, tmp_path)
    dense = "model.layers.0.block_sparse_moe."
    rewrite(tmp_path, lambda held: {key.replace(dense, "model.layers.0.mlp."): held[key] for key in held})
    assert_same_weights(loaded_from(tmp_path, name), model)


# --- Mistral's own layout ---

CODESTRAL = {
    "dim": 64, "n_layers": 2, "vocab_size": 45, "n_groups": 2, "rms_norm": True, "residual_in_fp32": True,
    "fused_add_norm": True, "pad_vocab_size_multiple": 16, "tie_embeddings": False, "model_type": "mamba",
}  # fmt: skip


def mistral_checkpoint(folder, **settings):
    """Write a model with the names of `mamba_ssm` inside a part named model, as Mistral's program saves it."""
    config = transformers.Mamba2Config(
        hidden_size=64, num_hidden_layers=2, vocab_size=48, n_groups=2, num_heads=2, head_dim=64, state_size=128,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Mamba2ForCausalLM(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(1 if "norm" in key else 0, 0.1)
    names = {key: f"model.{key.replace('embeddings', 'embedding')}" for key in model.state_dict()}
    save_file(
        {names[key]: value.bfloat16() for key, value in model.state_dict().items()}, folder / "consolidated.safetensors"
    )
    written = {key: value for key, value in (CODESTRAL | settings).items() if value is not None}
    (folder / "params.json").write_text(json.dumps(written))
    return model


def test_codestral_mamba_in_mistrals_own_layout_is_loaded(tmp_path):
    model = mistral_checkpoint(tmp_path)
    loaded, tokenizer = load(tmp_path)
    assert tokenizer is None
    assert_same_weights(loaded, model.bfloat16().float())
    assert (loaded.config.n_groups, loaded.config.state_size, loaded.config.head_dim) == (2, 128, 64)
    assert max(capture(loaded, input_ids=IDS).reconstruction_error) < 1e-5


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model_type": None}, UnsupportedModelError, "is a transformer in Mistral's own layout .* has a config.json"),
        ({"model_type": "moe\n"}, UnsupportedModelError, "in Mistral's own layout"),
        ({"n_groups": None}, CheckpointError, "its params.json lacks n_groups"),
        ({"dim": None, "n_layers": None}, CheckpointError, "its params.json lacks dim, n_layers"),
        ({"dim": "wide"}, CheckpointError, "dim in its params.json must be a positive integer, found 'wide'"),
        ({"n_groups": 3}, CheckpointError, "does not divide into heads"),
        ({"lora": {"rank": 2}}, UnsupportedModelError, "settings in its params.json that are not known: lora"),
        ({"rms_norm": False}, UnsupportedModelError, "only RMSNorm"),
        ({"n_layers": 3}, CheckpointError, "asks for 3 layers, but the tensors of its file are numbered for 2"),
    ],
)
def test_other_models_in_that_layout_are_refused_by_name(settings, error, words, tmp_path):
    mistral_checkpoint(tmp_path, **settings)
    with pytest.raises(error, match=words) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)
