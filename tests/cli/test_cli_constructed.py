"""The command on models known by construction: what they are, what they read, and names and words that none has."""

import json

import pytest


def test_a_constructed_model_says_what_it_does_and_shows_a_text_to_explain(run):
    name = "constructed:induction-mamba"
    facts = json.loads(run("info", name, "--json")[1])
    assert facts["does"] == "gives what followed the last token where it stood before, in two layers"
    assert facts["words"] == "^ a b c d"
    code, out, _ = run("explain", facts["text"], "--model", name, "--method", "alti-logit", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["target"]["next_tokens"][0][0] == facts["text_answer"]
    best = max(range(len(result["tokens"])), key=lambda j: result["scores"][j])
    assert facts["text_sources"] == f"{best} {result['tokens'][best].strip()!r}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("info", "constructed:recal-mamba"), "near it are constructed:recall-mamba, "),
        (("explain", "a=1 a? what", "--model", "constructed:recall-mamba"), "(it has no token 'what')"),
        (
            ("explain", "a=1 a?", "--model", "constructed:gate-delta"),
            "near it are constructed:gate-mamba, constructed:gate-mamba2",
        ),
    ],
)
def test_names_and_words_that_no_constructed_model_has_are_one_sentence(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
