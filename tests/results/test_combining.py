"""Sums and means of results."""

import dataclasses

import pytest
import torch

from made_results import make
from mambascope import Attribution
from mambascope.attribution import Model, Target
from mambascope.errors import InputError


def test_sum_and_mean():
    one, other = make(), dataclasses.replace(make(), scores=make().scores * 3)
    torch.testing.assert_close((one + other).scores, 4 * one.scores)
    torch.testing.assert_close(sum([one, other]).scores, 4 * one.scores)
    mean = Attribution.mean([one, other])
    torch.testing.assert_close(mean.scores, 2 * one.scores)
    assert mean.tokens == one.tokens
    assert mean.diagnostics["combined"] == {"results": 2, "by": "mean"}


def test_texts_of_a_template():
    one, other = make(), dataclasses.replace(make(), tokens=("x", " b", "<c>", "\n"))
    mean = Attribution.mean([one, other])
    assert mean.tokens == ("‹varies›", " b", "<c>", "\n")
    assert mean.target.next_tokens == ()


def test_evidence_is_the_worst_of_all():
    one, other = make(), make()
    one.diagnostics["conservation_error"] = 1e-3
    other.diagnostics.update(reconstruction_error=1e-2, caution="do not rely on it")
    found = (one + other).diagnostics
    assert found["reconstruction_error"] == 1e-2
    assert found["conservation_error"] == 1e-3
    assert found["caution"] == "do not rely on it"


def test_the_numbers_explained_add_up():
    asked = [Target(3, "\n", asked="logit of ' x'", value=value) for value in (1.0, 4.0)]
    results = [dataclasses.replace(make(), target=one) for one in asked]
    assert Attribution.mean(results).target.value == 2.5
    assert Attribution.mean(results).target.asked == "the mean over 2 results of logit of ' x'"
    assert sum(results).target.value == 5.0


WRONG = {
    "nothing": ([], "there are no results to add"),
    "method": ([make(), dataclasses.replace(make(), method="rollout")], "its method is rollout, not latim"),
    "signs": ([make(), make(signed=False)], "its signed is False, not True"),
    "model": (
        [make(), dataclasses.replace(make(), model=Model("other", "mamba", "MambaForCausalLM", 7, 224))],
        "result 1 is of other, the first of tiny",
    ),
    "layers": ([make(), make(layers=(1, 5))], "result 1 has other layers"),
    "targets": ([make(), make(targets=(0, 1))], "result 1 has 2 targets, the first 4"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    results, said = WRONG[name]
    with pytest.raises(InputError, match=f"^[^\n]*{said}"):
        Attribution.mean(results)


def test_other_things_are_not_added():
    with pytest.raises(TypeError):
        3 + make()
