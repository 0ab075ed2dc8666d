"""Constructed models return exactly what their rule says for every text of small lengths, and it tells the sources."""

import dataclasses

import pytest
import torch

from mambascope.errors import InputError
from mambascope.models.constructed import MECHANISMS, build, constructed_models, mechanism_of
from mambascope.models.constructed.adding import COUNT
from mambascope.models.constructed.expected import expected_logits
from mambascope.models.constructed.in_delta_net import in_delta_net
from mambascope.models.constructed.in_softmax import in_softmax
from mambascope.models.constructed.mechanisms import OVERWRITE, RECALL

#: The longest texts of which all are enumerated, each time and by `make test-slow`.
LONGEST = {
    "copy": (5, 7), "relay": (5, 7), "first": (4, 7), "recall": (3, 5), "overwrite": (3, 5), "gate": (3, 5),
    "difference": (4, 6), "sum": (4, 7), "induction": (6, 8), "count": (7, 15),
}  # fmt: skip
#: float32 rounds each number of a logit to 6e-8 of its size; a model does this a few times.
ROUNDING = 1e-6


def all_cases(mechanism, longest):
    for length in range(2, longest + 1):
        if cases := list(mechanism.cases(length)):
            yield cases


def logits(model, mechanism, cases):
    ids = torch.tensor([mechanism.ids(case) for case in cases])
    with torch.no_grad():
        return torch.cat([model(part).logits[:, -1] for part in ids.split(4096)]).double()


def assert_exact(name, longest, every=1):
    """Assert that every text gets its answer, and one in `every` of them all the logits that arithmetic gives."""
    mechanism, architecture = constructed_models()[name]
    model = build(name)
    for cases in all_cases(mechanism, longest):
        found = logits(model, mechanism, cases)
        answers = torch.tensor([mechanism.machine.ids[case.answer] for case in cases])
        assert torch.equal(found.argmax(dim=-1), answers)
        some = list(range(0, len(cases), every))
        due = torch.stack([expected_logits(mechanism, cases[k], architecture, model.config) for k in some])
        size = due.abs().amax(dim=-1, keepdim=True)
        assert ((found[some] - due).abs() <= ROUNDING * size).all()


@pytest.mark.product
@pytest.mark.parametrize("name", constructed_models())
def test_every_text_gets_exactly_the_logits_of_the_rule(name):
    assert_exact(name, LONGEST[mechanism_of(name).name][0], every=7)


@pytest.mark.slow
@pytest.mark.parametrize("name", constructed_models())
def test_every_longer_text_too(name):
    assert_exact(name, LONGEST[mechanism_of(name).name][1], every=97)


@pytest.mark.parametrize(
    "name", ["recall-mamba", "overwrite-mamba2", "induction-delta", "count-mamba", "count-delta", "sum-mamba2"]
)
def test_long_random_texts_too(name):
    mechanism, architecture = constructed_models()[f"constructed:{name}"]
    model = build(f"constructed:{name}")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        case = mechanism.draw(10 if mechanism.name != "induction" else 8, generator)
        due = expected_logits(mechanism, case, architecture, model.config)
        found = logits(model, mechanism, [case])[0]
        assert ((found - due).abs() <= ROUNDING * due.abs().max()).all()


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
def test_idle_tokens_change_nothing_and_sources_do(mechanism):
    """By the rule alone: the models follow it, see above."""
    seen = {"idle": 0, "source": 0}
    for cases in all_cases(mechanism, LONGEST[mechanism.name][0]):
        for case in cases[:: 1 + len(cases) // 200]:
            for place in range(1 if mechanism.opens else 0, case.target):
                for token in mechanism.body:
                    changed = mechanism.rule((*case.tokens[:place], token, *case.tokens[place + 1 :]))
                    if token == case.tokens[place] or changed is None:
                        continue
                    same = (changed.answer, changed.held[-1]) == (case.answer, case.held[-1])  # what is answered from
                    if place in case.idle and changed.signs == case.signs:
                        assert same
                        seen["idle"] += 1
                    elif place in case.signs:
                        # another key may have been assigned the same value before
                        assert not same or changed.signs != case.signs
                        seen["source"] += 1
    assert all(seen.values())


def test_a_sign_says_whether_a_source_speaks_for_the_answer():
    """Take each source's number up by one: the answer's logit follows its sign."""
    mechanism = MECHANISMS["difference"]
    model = build("constructed:difference-mamba")
    case = mechanism.rule(("+2", ".", "-1", "?"))
    assert (case.answer, dict(case.signs)) == ("yes", {0: 1, 2: -1})
    yes = mechanism.machine.ids["yes"]
    with torch.no_grad():
        ids = [[mechanism.machine.ids[token] for token in text] for text in (case.tokens, ("+3", ".", "-1", "?"))]
        base, more = (model(torch.tensor([one])).logits[0, -1, yes] for one in ids)
    assert more > base > 0


def test_what_the_texts_of_overwriting_are_about():
    case = OVERWRITE.rule(("a=1", "b=3", ".", "a=2", "a?"))
    assert (case.answer, dict(case.signs), set(case.idle)) == ("2", {3: 1}, {0, 1, 2})
    assert RECALL.rule(case.tokens) is None, "without overwriting, a key may be assigned once"
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        drawn = OVERWRITE.draw(8, generator)
        assert sum(token.startswith(f"{drawn.tokens[-1][0]}=") for token in drawn.tokens) > 1


def test_a_memory_that_does_not_forget_would_be_noticed():
    """The bound is not so wide that a broken construction passes: recall's weights fail on overwritten keys."""
    model = build("constructed:recall-mamba")
    case = OVERWRITE.rule(("a=1", "a=2", "a?"))
    due = expected_logits(OVERWRITE, case, "mamba", model.config)
    assert (logits(model, OVERWRITE, [case])[0] - due).abs().max() > 0.5


def test_softmax_cannot_count():
    """A head takes means: the machine of counting, set into softmax attention, cannot tell 1 from 11."""
    model = in_softmax(dataclasses.replace(COUNT.machine))
    cases = [COUNT.rule(("0", *"1" * ones, "?")) for ones in range(1, 6)]
    answers = [COUNT.machine.ids[case.answer] for case in cases]
    found = [int(logits(model, COUNT, [case])[0].argmax()) for case in cases]
    assert found != answers
    assert len(set(found)) == 1


def test_a_delta_net_counts_by_steps_and_not_by_adding_up():
    """Ones that are written whole replace each other: the machine without steps cannot tell 1 from 11."""
    machine = COUNT.machine_in("delta")
    assert machine.tokens == COUNT.machine.tokens, "one tokenizer reads for all"
    (layer,) = machine.layers
    whole = dataclasses.replace(layer, addresses=tuple(dataclasses.replace(one, step=1.0) for one in layer.addresses))
    cases = [COUNT.rule(("0", *"1" * ones, "?")) for ones in range(1, 15)]
    answers = [COUNT.machine.ids[case.answer] for case in cases]
    for made, due in ((machine, True), (dataclasses.replace(machine, layers=(whole,)), False)):
        model = in_delta_net(made)
        assert ([int(logits(model, COUNT, [case])[0].argmax()) for case in cases] == answers) is due


def test_what_does_not_exist_is_refused(monkeypatch):
    with pytest.raises(
        InputError, match="'constructed:sum-softmax'; near it are constructed:sum-mamba, constructed:sum-mamba2"
    ):
        build("constructed:sum-softmax")
    named = "they are named constructed:MECHANISM-ARCHITECTURE, with the mechanisms copy, relay, .*, softmax$"
    with pytest.raises(InputError, match=named):
        build("constructed:")
    with pytest.raises(InputError, match="sum reads up to 11 tokens, and 12 were asked for"):
        MECHANISMS["sum"].draw(12, torch.Generator())
    monkeypatch.setattr("mambascope.models.constructed.mechanism.TRIES", 100)
    with pytest.raises(InputError, match="no text of 2 tokens that tells something of recall was found"):
        RECALL.draw(2, torch.Generator())


def test_models_are_stock_classes_of_transformers_and_the_same_every_time():
    for name in list(constructed_models())[::3]:
        first, second = build(name), build(name)
        assert type(first).__module__.startswith("transformers.models.")
        weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)
