"""Loading Transformers: every layout that public checkpoints have gives the model they came from, or is refused."""

import json
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, GPT2Config, GPT2Model

import mambascope
from hybrids import hybrid_model
from mambascope.errors import CheckpointError, UnsupportedModelError
from mambascope.families import kinds_of_type, model_types
from mambascope.loading import hub
from mambascope.loading.load import load
from models import TRANSFORMERS, stock_transformer, transformer_inputs
from rounding import assert_equal_to_rounding, assert_same_weights

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

BERT = {"vocab_size": 50, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 16}


def random_weights(model):
    """Return the model with every weight drawn from N(0, 0.4), ready to compute."""
    generator = torch.Generator().manual_seed(0)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.tie_weights()
    return model


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def edit_tensors(folder, edit):
    """Rewrite the weights file with what `edit` returns, or with what it leaves of the tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edited = edit(tensors)
    save_file({key: value.contiguous() for key, value in (tensors if edited is None else edited).items()}, path)


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def refused(error, match, folder):
    with pytest.raises(error, match=match) as raised:
        load(folder)
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    return str(raised.value)


def assert_same(folder, model, inputs):
    """Hold the loaded model against its origin: its class, its tensors to the bit, its outputs to rounding."""
    loaded, _ = load(folder)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert_same_weights(loaded, model)
    with torch.no_grad():
        found, expected = loaded(**inputs).to_tuple(), model(**inputs).to_tuple()
    tensors = [k for k, value in enumerate(expected) if isinstance(value, torch.Tensor)]
    assert tensors
    for k in tensors:
        assert_equal_to_rounding(found[k], expected[k], f"output {k} of the two")
    return loaded


# --- public layouts ---


def without_body_prefix(prefix):
    return lambda tensors: {key.removeprefix(prefix): value for key, value in tensors.items()}


def gpt2_masks(tensors):
    """Masks as GPT-2 held them: a triangle of bytes, and for a time the number that fills masked scores."""
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(256, 256, dtype=torch.uint8).tril()[None, None]
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def pythia_buffers(tensors):
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{attention}.bias"] = torch.ones(1, 1, 2048, 2048, dtype=torch.bool).tril()
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{attention}.rotary_emb.inv_freq"] = torch.tensor([1.0])


def old_bert(tensors):
    """The names that the first BERTs gave to norms, the numbers of their positions, and heads of pretraining."""
    tensors["bert.embeddings.position_ids"] = torch.arange(512)[None]
    tensors["cls.seq_relationship.weight"] = torch.randn(2, 12)
    tensors["cls.predictions.bias"] = torch.randn(50)
    gamma = {key: key.replace("LayerNorm.weight", "LayerNorm.gamma") for key in tensors}
    return {gamma[key].replace("LayerNorm.bias", "LayerNorm.beta"): value for key, value in tensors.items()}


def llama_buffers(tensors):
    for layer in range(2):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(3)


LAYOUTS = {
    "gpt2-without-prefix": ("gpt2", without_body_prefix("transformer.")),
    "gpt2-with-masks": ("gpt2", lambda tensors: (t := without_body_prefix("transformer.")(tensors), gpt2_masks(t))[0]),
    "gpt2-with-a-copy-of-tied": (
        "gpt2",
        lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"].clone()}),
    ),
    "pythia-with-buffers": ("gpt_neox", pythia_buffers),
    "bert-old": ("bert", old_bert),
    "bert-without-prefix": ("bert", without_body_prefix("bert.")),
    "llama-with-buffers": ("llama", llama_buffers),
    **{family: (family, lambda tensors: None) for family in TRANSFORMERS},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
def test_public_layouts(layout, pickled, tmp_path):
    family, edit = LAYOUTS[layout]
    model = stock_transformer(family)
    edit_tensors(saved(model, tmp_path), edit)
    if pickled:
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    inputs = transformer_inputs(family)
    loaded = assert_same(tmp_path, model, inputs)
    trace = mambascope.capture(loaded, **inputs)
    assert len(trace.layers) == 2
    assert all(layer.reconstruction_error < 1e-4 for layer in trace.layers)


def test_layouts_name_what_they_say(tmp_path):
    """Files as saved hold what public files hold; a change in transformers would hollow out the tests unseen."""
    keys = load_file(saved(stock_transformer("gpt2"), tmp_path / "gpt2") / "model.safetensors")
    assert "lm_head.weight" not in keys
    keys = load_file(saved(stock_transformer("gpt_neox"), tmp_path / "gpt_neox") / "model.safetensors")
    assert "embed_out.weight" in keys
    keys = load_file(saved(stock_transformer("vit"), tmp_path / "vit") / "model.safetensors")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in keys


def test_a_language_model_without_its_tied_head_in_shards(tmp_path):
    model = stock_transformer("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" not in index["weight_map"]
    assert_same(tmp_path, model, transformer_inputs("llama"))


def test_a_body_of_a_pretrained_bert(tmp_path):
    """bert-base-uncased: saved with both heads of pretraining, and its config.json names the class with one of them."""
    whole = random_weights(BertForPreTraining(BertConfig(**BERT)))
    saved(whole, tmp_path)
    body = whole.bert
    inputs = transformer_inputs("bert")
    edit_config(tmp_path, architectures=["BertModel"])
    assert_same(tmp_path, body, inputs)
    edit_config(tmp_path, architectures=["BertForMaskedLM"])
    loaded, _ = load(tmp_path)
    assert type(loaded) is BertForMaskedLM
    with torch.no_grad():
        assert_equal_to_rounding(loaded(**inputs).logits, whole(**inputs).prediction_logits)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_body_without_a_pooler_is_built_without_one(family, tmp_path):
    """DINO's vision transformers and bodies of masked language models have none; a random one would be no better."""
    name = {"bert": "BertModel", "vit": "ViTModel"}[family]
    model = random_weights(getattr(transformers, name)(TRANSFORMERS[family][1](), add_pooling_layer=False))
    saved(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name]
    assert assert_same(tmp_path, model, transformer_inputs(family)).pooler is None


@pytest.mark.parametrize(
    ("family", "usual"),
    [("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("bert", "BertModel"), ("vit", "ViTModel")],
)
def test_the_class_where_none_is_named(family, usual, tmp_path):
    saved(stock_transformer(family), tmp_path)
    for nothing in (None, []):
        edit_config(tmp_path, architectures=nothing)
        assert type(load(tmp_path)[0]).__name__ == usual


@pytest.mark.parametrize("architecture", ["GPT2ForSequenceClassification", "GPT2ForTokenClassification", "GPT2Model"])
def test_other_heads_of_the_same_body(architecture, tmp_path):
    model = random_weights(getattr(transformers, architecture)(GPT2Config(**GPT2_SIZES)))
    assert_same(saved(model, tmp_path), model, transformer_inputs("gpt2", side="none"))


GPT2_SIZES = {"vocab_size": 50, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 32, "pad_token_id": 0}


def test_halves_are_widened_and_the_asked_precision_is_given(tmp_path):
    model = stock_transformer("gpt2", dtype=torch.float16)
    assert_same(saved(model, tmp_path), model.float(), transformer_inputs("gpt2"))
    assert {p.dtype for p in load(tmp_path, dtype=torch.float64)[0].parameters()} == {torch.float64}


def test_nothing_is_printed(tmp_path, capfd):
    folder = saved(stock_transformer("bert"), tmp_path)
    edit_tensors(folder, old_bert)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)
    assert capfd.readouterr() == ("", "")


def test_from_the_hub(tmp_path, monkeypatch):
    model = stock_transformer("gpt2")
    edit_tensors(saved(model, tmp_path), without_body_prefix("transformer."))
    monkeypatch.setattr(hub, "snapshot_download", lambda repository, *, allow_patterns: str(tmp_path))
    loaded, tokenizer = load("openai-community/gpt2")
    assert loaded.name_or_path == "openai-community/gpt2"
    assert tokenizer is None


# --- what is refused ---


@pytest.fixture
def folder(tmp_path):
    return saved(stock_transformer("bert"), tmp_path)


@pytest.fixture
def gpt2(tmp_path):
    edit_tensors(saved(stock_transformer("gpt2"), tmp_path), without_body_prefix("transformer."))
    return tmp_path


def drop(*names):
    return lambda tensors: {key: value for key, value in tensors.items() if key not in names}


def test_random_head(tmp_path):
    saved(random_weights(BertModel(BertConfig(**BERT))), tmp_path)
    edit_config(tmp_path, architectures=["BertForSequenceClassification"])
    message = refused(CheckpointError, "holds no head for a BertForSequenceClassification", tmp_path)
    assert "(classifier.bias, classifier.weight)" in message
    edit_config(tmp_path, architectures=["BertForMaskedLM"])
    refused(CheckpointError, "holds no head for a BertForMaskedLM", tmp_path)


def test_random_head_of_a_language_model(tmp_path):
    saved(random_weights(GPT2Model(GPT2Config(**GPT2_SIZES))), tmp_path)
    edit_config(tmp_path, architectures=["GPT2LMHeadModel"], tie_word_embeddings=False)
    refused(CheckpointError, "holds no head for a GPT2LMHeadModel.*lm_head.weight", tmp_path)


def test_half_of_a_head(folder):
    edit_tensors(folder, drop("classifier.bias"))
    refused(CheckpointError, "lacks 1 tensor that a BertForSequenceClassification needs: classifier.bias$", folder)


def test_random_pooler(folder):
    edit_tensors(folder, drop("bert.pooler.dense.weight", "bert.pooler.dense.bias"))
    refused(CheckpointError, "lacks 2 tensors .*: bert.pooler.dense.bias, bert.pooler.dense.weight$", folder)


def test_half_of_a_pooler(tmp_path):
    saved(random_weights(BertModel(BertConfig(**BERT))), tmp_path)
    edit_tensors(tmp_path, drop("pooler.dense.bias"))
    refused(CheckpointError, "lacks 1 tensor that a BertModel needs: pooler.dense.bias", tmp_path)


def test_missing_tensor(gpt2):
    edit_tensors(gpt2, drop("h.1.attn.c_attn.bias"))
    refused(CheckpointError, "lacks 1 tensor that a GPT2LMHeadModel needs: transformer.h.1.attn.c_attn.bias", gpt2)


def test_missing_embedding_and_head(gpt2):
    edit_tensors(gpt2, drop("wte.weight"))
    refused(CheckpointError, "lacks .*transformer.wte.weight", gpt2)


def test_a_body_that_the_config_does_not_describe(gpt2):
    edit_config(gpt2, n_layer=1)
    refused(CheckpointError, "tensors for which a GPT2LMHeadModel has no place, so it is another model: h.1.", gpt2)


def test_biases_that_the_config_does_not_describe(tmp_path):
    saved(stock_transformer("llama"), tmp_path)
    edit_config(tmp_path, attention_bias=False)
    refused(CheckpointError, "has no place, so it is another model: model.layers.0.self_attn", tmp_path)


def test_wrong_shape(gpt2):
    edit_config(gpt2, n_positions=255)
    refused(
        CheckpointError,
        r"transformer.wpe.weight has shape \(256, 12\) but its config.json asks for \(255, 12\)$",
        gpt2,
    )


@pytest.mark.parametrize("with_head", [False, True])
def test_wrong_shape_of_tied_tensors(gpt2, with_head):
    if with_head:
        edit_tensors(gpt2, lambda tensors: tensors.update({"lm_head.weight": tensors["wte.weight"].clone()}))
    edit_config(gpt2, vocab_size=51)
    refused(CheckpointError, r"(lm_head|transformer.wte).weight has shape \(50, 12\) .* asks for \(51, 12\)$", gpt2)


def test_wrong_shape_under_an_old_name(folder):
    edit_tensors(folder, old_bert)
    edit_tensors(folder, lambda tensors: tensors.update({"bert.embeddings.LayerNorm.gamma": torch.ones(13)}))
    refused(CheckpointError, r"bert.embeddings.LayerNorm.weight has shape \(13,\) .* \(12,\)$", folder)


def test_tied_by_the_config_but_different(gpt2):
    edit_tensors(gpt2, lambda tensors: tensors.update({"lm_head.weight": tensors["wte.weight"] + 1}))
    refused(CheckpointError, "ties the output weights", gpt2)


def test_values_that_are_no_numbers(gpt2):
    edit_tensors(gpt2, lambda tensors: tensors.update({"h.0.ln_1.weight": torch.full((12,), float("nan"))}))
    refused(CheckpointError, "transformer.h.0.ln_1.weight holds values that are NaN", gpt2)


def test_integer_weights(gpt2):
    edit_tensors(gpt2, lambda tensors: tensors.update({"ln_f.weight": torch.ones(12, dtype=torch.int8)}))
    refused(CheckpointError, "ln_f.weight holds int8 values, not floating-point weights", gpt2)


def test_two_tensors_for_one_place(gpt2):
    edit_tensors(gpt2, lambda tensors: tensors.update({"transformer.wpe.weight": 2 * tensors["wpe.weight"]}))
    refused(CheckpointError, "holds both transformer.wpe.weight and wpe.weight, which name the same tensor", gpt2)


@pytest.mark.parametrize("kept", [0, 5, 200, -7])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
def test_half_written(gpt2, kept, pickled):
    path = gpt2 / ("pytorch_model.bin" if pickled else "model.safetensors")
    if pickled:
        torch.save(load_file(gpt2 / "model.safetensors"), path)
        (gpt2 / "model.safetensors").unlink()
    path.write_bytes(path.read_bytes()[:kept])
    refused(CheckpointError, "is damaged" if pickled else "is not a complete safetensors file", gpt2)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_cannot_run_code(gpt2):
    mark = gpt2 / "was-here"
    torch.save(load_file(gpt2 / "model.safetensors") | {"extra": Payload(mark)}, gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").unlink()
    refused(CheckpointError, "never unpickles", gpt2)
    assert not mark.exists()


def test_quantized(gpt2):
    edit_config(gpt2, quantization_config={"quant_method": "gptq", "bits": 4})
    refused(UnsupportedModelError, "quantised", gpt2)


def test_code_of_its_own(gpt2):
    edit_config(gpt2, auto_map={"AutoModelForCausalLM": "theirs.TheirModel"})
    refused(CheckpointError, "brings its own Python code", gpt2)


@pytest.mark.parametrize("asked", ["TheirModel", "LlamaForCausalLM", "GPT2PreTrainedModel", "GPT2Config", "pipeline"])
def test_a_class_that_is_not_of_transformers_for_it(gpt2, asked):
    edit_config(gpt2, architectures=[asked])
    refused(UnsupportedModelError, f"is a {asked}, which transformers does not have for models of type gpt2", gpt2)


def test_a_model_without_layers(tmp_path):
    saved(stock_transformer("gpt2", n_layer=0), tmp_path)
    refused(UnsupportedModelError, "cannot be explained: .*holds no token mixer", tmp_path)


def test_a_config_that_no_model_can_have(gpt2):
    edit_config(gpt2, n_head=5)
    refused(CheckpointError, "a GPT2LMHeadModel cannot be built from it: .*divisible", gpt2)


def test_every_family_that_is_captured_is_loaded():
    assert set(TRANSFORMERS) == {name for name in model_types() if kinds_of_type(name) == {"attention"}}


# --- tokenizers ---


@pytest.mark.parametrize("settings", [None, {"do_lower_case": True, "model_max_length": 512}])
def test_a_tokenizer_whose_class_is_not_named_knows_its_special_tokens(folder, settings):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "Cat"]
    inner = BertWordPieceTokenizer({word: k for k, word in enumerate(words)}, lowercase=False)
    inner.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = load(folder)
    assert tokenizer("the Cat [MASK]")["input_ids"] == [2, 5, 7, 4, 3]  # the file's own rules: capitals are kept
    assert (tokenizer.mask_token, tokenizer.cls_token, tokenizer.pad_token) == ("[MASK]", "[CLS]", "[PAD]")


def test_a_vision_model_has_no_tokenizer(tmp_path):
    saved(stock_transformer("vit"), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    assert load(tmp_path)[1] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_decays_that_follow_from_the_configuration_may_be_missing(tmp_path, dtype):
    """MiniMax stores them; its class computes them anew if they are not in the file. Nothing else may be missing."""
    lost = "model.layers.0.self_attn.qkv_proj.weight"
    folder = saved(hybrid_model("minimax", num_hidden_layers=3), tmp_path)
    names = {name for name in load_file(folder / "model.safetensors") if name.endswith(("_decay", "slope_rate"))}
    assert names
    whole = load(folder, dtype=dtype)[0]
    edit_tensors(folder, lambda tensors: {name: value for name, value in tensors.items() if name not in names})
    given, found = whole.state_dict(), load(folder, dtype=dtype)[0].state_dict()
    assert given.keys() == found.keys()
    for name in given:
        assert found[name].dtype == given[name].dtype, name
        torch.testing.assert_close(found[name], given[name], rtol=1e-6, atol=0, msg=name)  # float32 decays
    edit_tensors(folder, lambda tensors: {name: value for name, value in tensors.items() if name != lost})
    refused(CheckpointError, f"lacks 1 tensor that a MiniMaxForCausalLM needs: {lost}", folder)


#: What the docstring of `load` says of half precision, besides the frequencies of rotary embeddings.
KEPT = {
    "zamba": {"A_log"},
    "olmo_hybrid": {"A_log"},
    "kimi_linear": {"dt_bias", "gate.weight", "e_score_correction_bias"},
    "nemotron_h": {"gate.weight", "e_score_correction_bias"},
    "lfm2_moe": {"expert_bias"},
    "jamba": set(),
    "qwen3_next": set(),
}


@pytest.mark.parametrize("family", KEPT)
def test_what_stays_in_float32_in_half_precision_is_what_the_docstring_says(tmp_path, family):
    model = load(saved(hybrid_model(family), tmp_path), dtype=torch.bfloat16)[0]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wider = {name for name, value in tensors.items() if value.is_floating_point() and value.dtype != torch.bfloat16}
    kept = {name for name in wider if not name.endswith("inv_freq")}
    assert {name for name in kept if not name.endswith(tuple(KEPT[family]) or "none")} == set()
    assert {end for end in KEPT[family] if any(name.endswith(end) for name in kept)} == KEPT[family]
