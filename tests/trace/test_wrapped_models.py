"""Models in wrappers of PyTorch, and models adapted by PEFT: explained as what runs, and left as they were."""

import copy
import warnings

import peft
import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import prune

from mambascope import UnsupportedModelError, capture, explain, readouts
from mambascope.errors import InputError
from mambascope.families import kinds_of
from mambascope.methods.latim import latim
from mambascope.methods.registry import METHODS
from mambascope.methods.value_zeroing import value_zeroing
from mambascope.trace.differentiate import differentiate
from models import padded_batch, stock_model, stock_transformer
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

IDS = padded_batch(7, 1, "left")[0]
#: The layers that are adapted: projections of every kind and the embeddings. PEFT itself refuses out_proj in Mambas.
TARGETS = {
    "mamba": ["in_proj", "x_proj", "embeddings"],
    "mamba2": ["in_proj", "embeddings"],
    "gpt2": ["c_attn", "c_proj", "c_fc", "wte"],
    "llama": ["q_proj", "v_proj", "o_proj", "down_proj", "embed_tokens"],
}


def untied(family):
    make = stock_model if family.startswith("mamba") else stock_transformer
    return make(family, tie_word_embeddings=False)


def adapted(model, configuration, **options):
    """Return a PeftModel whose adapters do something; quietly, since PEFT remarks on what it finds."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = peft.get_peft_model(model, configuration, **options)
    with torch.no_grad():
        for weight in found.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape))
    return found.eval()


def lora(family, **options):
    settings = {"r": 2, "target_modules": TARGETS[family], "fan_in_fan_out": family == "gpt2"} | options
    return adapted(untied(family), peft.LoraConfig(**settings))


def merged(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(model).merge_and_unload()


def weights(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("family", TARGETS)
def test_every_method_on_an_adapted_model_gives_what_it_gives_on_the_merged_one(family):
    model = lora(family)
    right, kinds = merged(model), kinds_of(model)
    names = [name for name, method in METHODS.items() if method.reads(kinds) and name != "random"]
    found, expected = (explain(one, None, {"input_ids": IDS}, method=names, progress=False) for one in (model, right))
    for one, other in zip(found, expected, strict=True):
        assert_equal_to_rounding(one.scores, other.scores, one.method)
    assert found[0].model.class_name == expected[0].model.class_name
    with torch.no_grad():
        bare = explain(untied(family), None, {"input_ids": IDS}, method="latim", progress=False)
    assert (bare.scores - found[0].scores).abs().max() > 0.01, "the adapters did nothing"


@pytest.mark.parametrize("family", TARGETS)
def test_an_adapted_model_is_left_as_it_was(family):
    model = lora(family).train()
    before, flags = weights(model), [weight.requires_grad for weight in model.parameters()]
    trace = capture(model, input_ids=IDS)
    trace.gradients(readouts.token(-1, 3))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(module.training for module in model.modules())
    layers = [module for module in model.modules() if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)]
    assert layers
    assert not any(layer.merged for layer in layers)


@pytest.mark.parametrize("family", TARGETS)
def test_a_trace_of_an_adapted_model_is_of_the_weights_that_ran(family):
    model = lora(family)
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
    trace = capture(model, input_ids=IDS)
    assert_equal_to_rounding(trace.logits, expected)
    before = latim(trace)
    assert type(trace.model) is type(model.get_base_model())
    assert not any(type(part).__module__.startswith("peft.") for part in trace.model.modules())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(1.0)
    assert_equal_to_rounding(latim(trace), before, "before and after adapters were trained on")


@pytest.mark.parametrize("family", ["mamba", "llama"])
def test_tied_embeddings_are_adapted_where_the_adapter_is(family):
    """In the adapted model the head reads the bare table, so the logits are its own, and not the merged model's."""
    make = stock_model if family == "mamba" else stock_transformer
    model = adapted(make(family, tie_word_embeddings=True), peft.LoraConfig(r=2, target_modules=TARGETS[family][-1:]))
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
    assert_equal_to_rounding(capture(model, input_ids=IDS).logits, expected)


CONFIGURATIONS = {
    "dora": lambda targets: peft.LoraConfig(r=2, target_modules=targets, use_dora=True),
    "loha": lambda targets: peft.LoHaConfig(r=2, target_modules=targets),
    "ia3": lambda targets: peft.IA3Config(target_modules=targets, feedforward_modules=[]),
    "oft": lambda targets: peft.OFTConfig(target_modules=targets, oft_block_size=4),
    "norms": lambda targets: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "saved": lambda targets: peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["lm_head"]),
    "tokens": lambda targets: peft.LoraConfig(r=2, target_modules=targets, trainable_token_indices=[3, 5]),
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_adapters_of_other_kinds(kind):
    model = adapted(untied("llama"), CONFIGURATIONS[kind](["q_proj", "v_proj"]))
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        bare = untied("llama")(input_ids=IDS, use_cache=False).logits
    trace = capture(model, input_ids=IDS)
    assert_equal_to_rounding(trace.logits, expected)
    assert (expected - bare).abs().max() > 0.01, "the adapter did nothing"
    assert not any(type(part).__module__.startswith("peft.") for part in trace.model.modules())


def test_the_adapters_that_are_active_are_explained():
    model = lora("llama")
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    readout = readouts.token(-1, 3)

    def agrees():
        trace, value = capture(model, input_ids=IDS), differentiate(model, readout, input_ids=IDS).value
        with torch.no_grad():
            expected = model(input_ids=IDS).logits
        assert_equal_to_rounding(trace.logits, expected)
        assert_equal_to_rounding(value, expected[:, -1, 3])
        return expected

    first = agrees()
    model.set_adapter("other")
    second = agrees()
    model.base_model.set_adapter(["default", "other"])
    both = agrees()
    model.merge_adapter()
    agrees()
    with model.disable_adapter():
        without = agrees()  # PEFT unmerges in this pass
    with model.disable_adapter():
        agrees()
    for one, other in ((first, second), (second, both), (both, without)):
        assert (one - other).abs().max() > 0.01


def test_adapters_in_a_model_that_is_no_peft_model():
    """As transformers' own `add_adapter` leaves them."""
    torch.manual_seed(1)
    configuration = peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)
    model = peft.inject_adapter_in_model(configuration, untied("llama")).eval()
    assert isinstance(model, transformers.LlamaForCausalLM)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
    assert_equal_to_rounding(capture(model, input_ids=IDS).logits, expected)


PROMPTS = {
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "P_TUNING": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_that_were_learnt_are_refused_by_name(kind):
    model = adapted(untied("llama"), PROMPTS[kind]())
    for call in (lambda: capture(model, input_ids=IDS), lambda: explain(model, None, {"input_ids": IDS})):
        with pytest.raises(
            UnsupportedModelError, match=rf"adapter 'default' .* is of kind {kind}, .* merge_and_unload\(\)"
        ) as e:
            call()
        assert "\n" not in str(e.value)


def test_adapters_that_cannot_be_merged_are_refused_by_name():
    model = lora("llama")
    layer = model.get_base_model().model.layers[1].self_attn.v_proj
    layer.base_layer.register_forward_hook(lambda _, __, output: 2 * output)
    with pytest.raises(
        UnsupportedModelError, match=r"layers\.1\.self_attn\.v_proj.*hooks of its own; call merge_and_unload"
    ):
        capture(model, input_ids=IDS)


def test_adapters_chosen_row_by_row_are_refused():
    model = lora("llama")
    with pytest.raises(InputError, match="adapter_names"):
        capture(model, input_ids=IDS, adapter_names=["__base__"])


def test_hooks_on_an_adapted_layer_act():
    model = lora("llama")
    model.get_base_model().model.layers[0].mlp.down_proj.register_forward_hook(lambda _, __, output: 3 * output)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
    assert_equal_to_rounding(capture(model, input_ids=IDS).logits, expected)


WRAPPERS = {
    "compiled": torch.compile,
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "adapted and compiled": lambda model: torch.compile(
        adapted(model, peft.LoraConfig(r=2, target_modules=["in_proj"]))
    ),
}


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_are_taken_off(wrap):
    model = stock_model("mamba")
    wrapped = WRAPPERS[wrap](model)
    seen = torch._dynamo.utils.counters["frames"]["total"]
    names = ["latim", "gradient-x-input", "knockout", "alti-logit"]
    right = model if "adapted" not in wrap else merged(wrapped._orig_mod)
    found, expected = (explain(one, None, {"input_ids": IDS}, method=names, progress=False) for one in (wrapped, right))
    for one, other in zip(found, expected, strict=True):
        assert_equal_to_rounding(one.scores, other.scores, one.method)
    assert torch._dynamo.utils.counters["frames"]["total"] == seen
    if wrap == "compiled":
        assert capture(wrapped, input_ids=IDS).model is model


class Own(nn.Module):
    """Somebody's own module around a model, which passes on no word about caches."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **inputs):
        return self.inner(**inputs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba2"])
def test_a_model_in_a_module_of_ones_own_runs_without_a_cache(family):
    model = untied(family)
    assert model.config.use_cache, "by itself it makes one"
    inside, plain = (value_zeroing(capture(one, input_ids=IDS), 1) for one in (Own(model), model))
    assert_equal_to_rounding(inside, plain)
    assert model.config.use_cache


def test_wrappers_inside_a_model_are_taken_off():
    model, right = stock_model("mamba"), stock_model("mamba")
    model.backbone.layers[0] = torch.compile(model.backbone.layers[0])
    model.backbone.layers[1].mixer = torch.compile(model.backbone.layers[1].mixer)
    trace = capture(model, input_ids=IDS)
    assert [branch.name for branch in trace.branches] == ["backbone.layers.0.mixer", "backbone.layers.1.mixer"]
    assert_equal_to_rounding(latim(trace), latim(capture(right, input_ids=IDS)))


def test_hooks_on_a_wrapper_act():
    model = stock_model("mamba")
    wrapped = nn.DataParallel(model)
    wrapped.register_forward_hook(lambda _, __, output: output.logits)
    assert_equal_to_rounding(capture(wrapped, input_ids=IDS).outputs, capture(model, input_ids=IDS).logits)


def weight_norm(layer):
    return nn.utils.parametrizations.weight_norm(layer)


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=0.5)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def doubled(layer):
    return nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())


REPARAMETRISED = [
    weight_norm,
    old_weight_norm,
    nn.utils.parametrizations.spectral_norm,
    nn.utils.spectral_norm,
    nn.utils.parametrizations.orthogonal,
    pruned,
    doubled,
]


@pytest.mark.parametrize("change", REPARAMETRISED, ids=lambda change: f"{change.__module__}.{change.__name__}")
@pytest.mark.parametrize("family", ["mamba", "llama"])
def test_the_operator_sees_the_weight_that_ran(change, family):
    model = untied(family)
    block = model.backbone.layers[1].mixer if family == "mamba" else model.model.layers[1].self_attn
    for name in ("in_proj", "out_proj") if family == "mamba" else ("v_proj", "o_proj"):
        change(getattr(block, name))
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
    before, model = weights(model), model.train()
    trace = capture(model, input_ids=IDS)
    assert_equal_to_rounding(trace.logits, expected)
    assert max(trace.reconstruction_error) < 1e-4
    readout = readouts.token(-1, 3)
    assert_equal_to_rounding(trace.gradients(readout).value, expected[:, -1, 3])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_mixed_precision_of_accelerate():
    """`prepare` replaces forward by a function under autocast whose outputs are float32."""
    accelerate = pytest.importorskip("accelerate")
    model = stock_model("mamba")
    expected = capture(model, input_ids=IDS).logits
    prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    trace = capture(prepared, input_ids=IDS)
    assert trace.logits.dtype == torch.float32
    assert len(trace.layers) == 2
    assert (trace.logits - expected).norm() < 0.1 * expected.norm()


def test_hooks_of_accelerate():
    accelerate = pytest.importorskip("accelerate")
    model = stock_model("mamba")
    expected = capture(model, input_ids=IDS).logits
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    trace = capture(model, input_ids=IDS)
    assert_equal_to_rounding(trace.logits, expected)
    assert len(trace.layers) == 2
