"""The hybrids of Mamba and attention, captured exactly and walked by every method, against dense float64 references."""

import functools
import warnings

import pytest
import torch
import transformers

import hybrid_reference
import hybrid_walks
import mambascope
from dense_reference import distance
from hybrids import HYBRIDS, hybrid_model
from mambascope import readouts
from mambascope.errors import UnsupportedModelError
from mambascope.methods import METHODS
from mambascope.methods.alti import alti_rollout, alti_rollout_row
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.hidden_attention import hidden_attention
from mambascope.methods.latim import latim
from mambascope.methods.rollout import rollout, rollout_row
from mambascope.trace import capture
from models import padded_batch, without_downcasts
from small_tokenizers import byte_level

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

MAMBA_HYBRIDS = ("bamba", "granitemoehybrid", "falcon_h1", "nemotron_h", "jamba", "zamba2", "zamba")
FULL = {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2}
#: Each family as `hybrid_model` builds it, and what else its configuration may say.
VARIANTS = {name: (name, {}) for name in MAMBA_HYBRIDS} | {
    "bamba, one group": (
        "bamba",
        {"mamba_n_groups": 1, "mamba_conv_bias": False, "time_step_limit": (0.0, float("inf"))},
    ),
    "granite without mamba": ("granitemoehybrid", FULL),
    "granite without rope, dense": ("granitemoehybrid", {"position_embedding_type": None, "num_local_experts": 0}),
    "falcon without norm": ("falcon_h1", {"mamba_rms_norm": False}),
    "falcon, norm before gate": ("falcon_h1", {"mamba_norm_before_gate": True}),
    "zamba2 without adapters": (
        "zamba2",
        {"use_shared_attention_adapter": False, "num_key_value_heads": 2, "use_mem_rope": False},
    ),
    "zamba2, one shared block": ("zamba2", {"num_mem_blocks": 1}),
    "zamba2 that begins with a hybrid": (
        "zamba2",
        {"layers_block_type": ["hybrid", "linear_attention", "hybrid"], "num_hidden_layers": 3},
    ),
}
#: How a family calls the bias of the mixers' projections, if not `mamba_proj_bias`.
WITHOUT_BIAS = {"nemotron_h": "use_bias", "zamba2": "add_bias_linear"}
LENGTH, TARGET, TOKEN = 9, 6, 3
#: float64 sums of a few hundred terms in another order, through up to seven layers.
BOUND = 1e-10
#: Relative errors that rounding explains in each precision: float32 through a mixer, bfloat16's 8 bits.
ROUNDING = {torch.float32: 1e-5, torch.float64: BOUND, torch.bfloat16: 2e-2}


def some_ids(batch=1, length=LENGTH):
    return torch.randint(1, 50, (batch, length), generator=torch.Generator().manual_seed(0))


@functools.cache
def held_to(variant):
    """A run of a variant in float64, the same by its family's equations, and ALTI-Logit of one token."""
    name, options = VARIANTS[variant]
    with without_downcasts(name):
        model = hybrid_model(name, torch.float64, **options)
        trace = capture(model, input_ids=some_ids())
        reference = hybrid_reference.run(model, some_ids()[0])
        return trace, reference, alti_logit(trace, readouts.token(TARGET, TOKEN))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_every_mixer_is_rebuilt_and_the_stream_adds_up(variant, dtype):
    name, options = VARIANTS[variant]
    if dtype == torch.float64:
        trace = held_to(variant)[0]
    else:
        trace = capture(hybrid_model(name, dtype, **options), input_ids=some_ids(2))
    assert max(trace.reconstruction_error) < ROUNDING[dtype]
    assert all(block.trusted for block in trace.layers)
    assert all(block.stream_error < ROUNDING[dtype] for block in trace.updates)


@pytest.mark.parametrize("variant", VARIANTS)
def test_contributions_biases_and_mean_maps_are_the_equations(variant):
    trace, reference, _ = held_to(variant)
    assert distance(trace.logits[0], reference.logits) < BOUND, "the reference is the model"
    assert len(trace.updates) == len(reference.updates)
    for block, update in zip(trace.updates, reference.updates, strict=True):
        layers = [(block, update.mixing)] + ([] if update.shared is None else [(block.fed_by, update.shared)])
        for layer, mixing in layers:
            operator, number = layer.operator(), trace.number_of(layer)
            T = torch.stack([operator.contributions(target)[0][0] for target in range(LENGTH)])
            assert distance(T, mixing.T) < BOUND
            assert float((operator.bias()[0] - mixing.beta).abs().max()) < BOUND
            assert distance(hidden_attention(trace, number, "mean")[0], mixing.mean) < BOUND
            assert distance(latim(trace, number)[0], mixing.T.norm(dim=-1)) < BOUND


@pytest.mark.parametrize("variant", VARIANTS)
def test_methods_walk_the_layers_as_the_equations_do(variant):
    trace, reference, logit = held_to(variant)
    expected = hybrid_walks.rollout(reference)
    assert distance(rollout(trace)[0], expected) < BOUND
    assert distance(rollout_row(trace, TARGET)[0], expected[TARGET]) < BOUND
    expected = hybrid_walks.rollout_normalised(reference)
    assert distance(rollout(trace, normalise=True)[0], expected) < BOUND
    assert distance(rollout_row(trace, TARGET, normalise=True)[0], expected[TARGET]) < BOUND
    expected = hybrid_walks.alti_rollout(reference)
    assert distance(alti_rollout(trace)[0], expected) < BOUND
    assert distance(alti_rollout_row(trace, TARGET)[0], expected[TARGET]) < BOUND
    assert distance(logit.scores[0], hybrid_walks.alti_logit(reference, TARGET, TOKEN)) < BOUND
    assert float(logit.conservation_error) < BOUND


@pytest.mark.parametrize("variant", VARIANTS)
def test_alti_logits_terms_sum_to_the_logit_in_single_precision(variant):
    name, options = VARIANTS[variant]
    trace = capture(hybrid_model(name, **options), input_ids=some_ids(2))
    found = alti_logit(trace, readouts.token(TARGET, TOKEN))
    assert float(found.conservation_error.max()) < 1e-6
    assert found.scores.shape == (2, len(trace.layers), LENGTH)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MAMBA_HYBRIDS)
def test_padding_gets_nothing_and_changes_nothing(name, side):
    """In float32: in float64 the eager attention of transformers returns NaN for rows that padding masks whole.

    Without a bias of in_proj, which stock models let the convolution read at padding on the left.
    """
    model = hybrid_model(name, **{WITHOUT_BIAS.get(name, "mamba_proj_bias"): False})
    ids, mask = padded_batch(LENGTH, 3, side)
    together = walked(capture(model, input_ids=ids, attention_mask=mask), -1)
    for text in range(3):
        real = mask[text].bool()
        alone = walked(capture(model, input_ids=ids[text, real][None]), -1)
        for method, scores in together.items():
            found, padded = scores[text], ~real
            assert not found[..., padded].any(), f"{method} gives to padding"
            if found.ndim == 2 and method != "alti-logit":
                assert not found[padded].any(), f"{method} gives padding a row"
                found = found[real]
            # rounding of float32 through up to seven layers, and of softmaxes over rows of another length
            assert distance(found[:, real] if found.ndim == 2 else found[real], alone[method][0]) < 2e-4, method


@pytest.mark.parametrize("name", MAMBA_HYBRIDS)
def test_a_batch_is_its_texts_one_by_one(name):
    with without_downcasts(name):
        model = hybrid_model(name, torch.float64)
        together = walked(capture(model, input_ids=some_ids(3)), TARGET)
        for text in range(3):
            alone = walked(capture(model, input_ids=some_ids(3)[text : text + 1]), TARGET)
            for method, scores in together.items():
                assert distance(scores[text], alone[method][0]) < BOUND, method


def walked(trace, target):
    found = {
        "rollout": rollout(trace),
        "rollout-row": rollout_row(trace, target),
        "alti": alti_rollout(trace),
        "alti-row": alti_rollout_row(trace, target),
        "alti-logit": alti_logit(trace, readouts.token(target, TOKEN)).scores,
    }
    return found | {f"latim {number}": latim(trace, number) for number in range(len(trace.layers))}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_true_gradient_is_the_stock_models_own(variant):
    name, options = VARIANTS[variant]
    with without_downcasts(name):
        model, readout = hybrid_model(name, torch.float64, **options), readouts.token(TARGET, TOKEN)
        found = capture(model, input_ids=some_ids()).gradients(readout)
        embedded = model.get_input_embeddings()(some_ids()).detach().requires_grad_()
        # FalconH1 multiplies what its embedding layer returns, but not embeddings that it is given
        model.get_input_embeddings().register_forward_hook(lambda *_: embedded)
        readout(model(input_ids=some_ids(), use_cache=False)).sum().backward()
    assert distance(found.at_embeddings, embedded.grad) < BOUND


@functools.cache
def speaker(name):
    return hybrid_model(name, vocab_size=300)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MAMBA_HYBRIDS)
def test_every_method_explains_it_or_refuses_by_name(name, method):
    model, refusal = speaker(name), None
    try:
        result = mambascope.explain(model, byte_level(), "When Mary", method=method)
    except UnsupportedModelError as error:
        refusal = str(error)
    if refusal is not None:
        assert method in refusal or "side by side" in refusal
        return
    assert result.model.family == name
    assert result.scores.isfinite().all()
    assert result.scores.any()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", ["granitemoehybrid", "nemotron_h", "jamba"])
def test_experts_run_in_every_precision(name, dtype):
    """Stock models multiply them as a group, which has no float64 form and, in half precision, none for odd widths."""
    model = hybrid_model(name, dtype)
    model.set_experts_implementation("grouped_mm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace = capture(model, input_ids=some_ids())
    assert max(trace.reconstruction_error) < max(ROUNDING[dtype], 1e-6)  # stock scans compute in float32
    assert model.get_experts_implementation()[""] == "grouped_mm", "the model itself is left alone"


TASKS = {
    "JambaForSequenceClassification": "jamba",
    "ZambaForSequenceClassification": "zamba",
    "Zamba2ForSequenceClassification": "zamba2",
    "Zamba2Model": "zamba2",
    "BambaModel": "bamba",
}


@pytest.mark.parametrize("task", TASKS)
def test_hybrids_are_found_inside_models_for_tasks(task):
    trace = capture(drawn(task, HYBRIDS[TASKS[task]][1]()), input_ids=some_ids())
    assert max(trace.reconstruction_error) < ROUNDING[torch.float32]
    assert all(block.trusted for block in trace.layers)
    if trace.logits is not None:
        assert float(alti_logit(trace, readouts.class_(1)).conservation_error) < 1e-6


@pytest.mark.skipif(not hasattr(transformers, "NemotronH_Omni_Reasoning_V3"), reason="transformers is older")
def test_nemotron_h_is_found_inside_its_multimodal_wrapper():
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision |= {"model_type": "radio", "patch_size": 4, "image_size": 16, "video_temporal_patch_size": 2}
    config = transformers.AutoConfig.for_model(
        "nemotron_h_omni",
        text_config=HYBRIDS["nemotron_h"][1](),
        vision_config=vision,
        projector_hidden_size=8,
        vision_hidden_size=16,
        image_token_id=3,
        video_token_id=4,
    )
    trace = capture(drawn("NemotronH_Omni_Reasoning_V3", config), input_ids=some_ids() + 5 - some_ids().clamp(max=5))
    assert [block.name for block in trace.layers] == [f"language_model.model.layers.{number}" for number in (0, 2, 4)]
    assert max(trace.reconstruction_error) < ROUNDING[torch.float32]
    assert float(alti_logit(trace, readouts.token(TARGET, TOKEN)).conservation_error) < 1e-6


def drawn(name, config):
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.normal_(1 if "norm" in parameter else 0, 0.4)
    return model


def test_a_shared_attention_without_an_adapter_is_refused_by_name():
    """As older releases of transformers build it, whose own pass fails in the MLP that follows."""
    model = hybrid_model("zamba2")
    attention = model.model.layers[2].shared_transformer.self_attn
    attention.linear_v_adapter_list[attention.layer_dic[2]] = torch.nn.Identity()
    with pytest.raises(UnsupportedModelError, match="layer 2 of this Zamba2 has no adapter for its shared attention"):
        capture(model, input_ids=some_ids())
