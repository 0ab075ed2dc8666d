"""A new model family in one file: Phi (Li et al., arXiv 2309.05463), whose attention and MLP stand side by side."""

from dataclasses import replace

import pytest
import torch
import transformers
from transformers.models.phi.modeling_phi import PhiAttention

import mambascope
from dense_reference import distance
from mambascope import families, readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families.attention import AttentionFamily, Projections
from mambascope.methods import METHODS, alti_logit, hidden_attention, latim, rollout
from mambascope.operators.naive import attention_vectors
from mambascope.trace import capture
from small_tokenizers import byte_level

#: float64 sums of a few hundred terms in another order; transformers takes the softmax in float32.
BOUND, SOFTMAX = 1e-10, 1e-6
TEXT = "When Mary and John went to the store"

FAMILY = AttentionFamily(
    model_type="phi",
    mixer_class="PhiAttention",
    module="transformers.models.phi.modeling_phi",
    projections=lambda mixer, heads: Projections(
        mixer.v_proj.weight, mixer.v_proj.bias, mixer.dense.weight, mixer.dense.bias
    ),
    beside=lambda block: (block.mlp,),
)


@pytest.fixture
def registered():
    yield families.register(FAMILY)
    del families.FAMILIES[FAMILY.name]


@pytest.fixture
def model():
    config = transformers.PhiConfig(
        vocab_size=300,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=16,
        bos_token_id=1,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    found = transformers.PhiForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.normal_(1 if "layernorm.weight" in name else 0, 0.4)
    return found.double()


@pytest.fixture
def ids():
    return torch.randint(1, 300, (1, 9), generator=torch.Generator().manual_seed(0))


def test_before_it_is_registered_the_model_is_refused(model, ids):
    with pytest.raises(UnsupportedModelError, match="holds no token mixer that mambascope can read"):
        capture(model, input_ids=ids)


def test_maps_and_rollout_are_those_of_the_naive_operator(registered, model, ids):
    trace = capture(model, input_ids=ids)
    assert max(trace.reconstruction_error) < SOFTMAX
    assert all(block.trusted and block.stream_error < SOFTMAX for block in trace.layers)
    product = torch.eye(9, dtype=torch.float64)
    for number, layer in enumerate(model.model.layers):
        p = trace.branches[number].captured.scan["p"][0]
        x, attention = trace.layers[number].x[0], layer.self_attn
        T = attention_vectors(p, x, attention.v_proj.weight, attention.dense.weight)
        assert distance(latim(trace, number)[0], T.norm(dim=-1)) < BOUND
        assert distance(hidden_attention(trace, number)[0], p) < BOUND
        product = (torch.eye(9) + p.mean(dim=0)) @ product
    assert distance(rollout(trace)[0], product) < BOUND
    assert float(alti_logit(trace, readouts.token(-1, 3)).conservation_error) < SOFTMAX, "the MLP beside is known"


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.reads({"attention"})])
def test_every_method_of_attention_explains_it(registered, model, name):
    result = mambascope.explain(model, byte_level(), TEXT, method=name)
    assert result.model.family == "phi"
    assert result.scores.isfinite().all()
    assert result.scores.any()


def test_its_checkpoints_are_loaded(registered, model, tmp_path):
    model.float().save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    loaded, tokenizer = mambascope.load(tmp_path)
    assert isinstance(loaded, transformers.PhiForCausalLM)
    assert mambascope.explain(loaded, tokenizer, TEXT).method == "alti-logit"


def test_without_it_checkpoints_are_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="is a model of type phi; supported are mamba, "):
        mambascope.load(tmp_path)


def test_a_class_has_one_family(registered):
    assert families.register(FAMILY) is FAMILY
    with pytest.raises(InputError, match=r"there is a family named .*\.PhiAttention already"):
        families.register(replace(FAMILY))
    with pytest.raises(InputError, match="only a family can be registered here, found 'phi'"):
        families.register("phi")
    assert list(families.FAMILIES.values()).count(FAMILY) == 1


class OwnAttention(PhiAttention):
    """A class derived from one that is known, for which another file speaks."""


def test_a_derived_class_is_read_by_the_family_registered_last(registered, model):
    own = replace(FAMILY, mixer_class="OwnAttention", module=__name__)
    model.model.layers[0].self_attn.__class__ = OwnAttention
    assert [family for _, _, family in families.find_mixers(model)] == [FAMILY, FAMILY]
    families.register(own)
    try:
        assert [family for _, _, family in families.find_mixers(model)] == [own, FAMILY]
    finally:
        del families.FAMILIES[own.name]
