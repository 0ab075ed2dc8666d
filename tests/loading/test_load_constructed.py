"""Constructed models are loaded like others: a reader types a mechanism's words, and sees where the answer is from."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import mambascope
from mambascope.errors import InputError
from mambascope.models.constructed import constructed_models, mechanism_of


@pytest.mark.product
@pytest.mark.parametrize("name", constructed_models())
def test_the_words_of_a_text_are_the_tokens_of_its_case(name):
    model, tokenizer = mambascope.load(name)
    assert type(tokenizer) is PreTrainedTokenizerFast
    mechanism = mechanism_of(name)
    case = mechanism.draw(8, torch.Generator().manual_seed(1))
    typed = " ".join(case.tokens[1:] if mechanism.opens else case.tokens)
    ids = tokenizer(typed, return_tensors="pt")["input_ids"]
    assert ids.tolist() == [mechanism.ids(case)]
    with torch.no_grad():
        answer = int(model(ids).logits[0, -1].argmax())
    assert tokenizer.convert_ids_to_tokens(answer) == case.answer


@pytest.mark.parametrize("name", ["recall-mamba", "difference-delta", "induction-mamba2", "induction-softmax"])
def test_an_explained_text_shows_its_sources(name):
    model, tokenizer = mambascope.load(f"constructed:{name}")
    mechanism = mechanism_of(f"constructed:{name}")
    case = mechanism.draw(7, torch.Generator().manual_seed(0))
    typed = " ".join(case.tokens[1:] if mechanism.opens else case.tokens)
    result = mambascope.explain(model, tokenizer, typed, method="alti-logit", target=case.answer)
    assert tuple(piece.strip() for piece in result.tokens) == case.tokens
    assert result.target.next_tokens[0][0] == case.answer
    ranked = [source.position for source in result.top(len(case.tokens)) if source.position not in case.guides]
    assert set(ranked[: len(case.signs)]) == set(case.signs)


def test_words_that_a_mechanism_does_not_have_are_refused_by_name():
    model, tokenizer = mambascope.load("constructed:recall-mamba")
    said = r"cannot read 'a=1 hello a\?' \(it has no token 'hello'\); it knows 17 tokens, such as ',', '.', '1', "
    with pytest.raises(InputError, match=said):
        mambascope.explain(model, tokenizer, "a=1 hello a?")
    with pytest.raises(InputError, match="it has no token '4'"):
        mambascope.explain(model, tokenizer, "a=1 a?", target="4")
    with pytest.raises(InputError, match="yields no token"):
        mambascope.explain(model, tokenizer, "  ")


def test_precision_place_and_names():
    model, _ = mambascope.load("constructed:copy-mamba", dtype=torch.float64)
    assert model.dtype == torch.float64
    assert model.name_or_path == "constructed:copy-mamba"
    with pytest.raises(InputError, match="device nowhere cannot be used here: "):
        mambascope.load("constructed:copy-mamba", device="nowhere")
    with pytest.raises(InputError, match="constructed:copy-mamba reads its own words alone; leave tokenizer='tiny"):
        mambascope.load("constructed:copy-mamba", tokenizer="tiny-mamba")
    with pytest.raises(InputError, match="'constructed:copi-mamba'; near it are constructed:copy-mamba, "):
        mambascope.load("constructed:copi-mamba")
