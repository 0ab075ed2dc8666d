"""Several targets in one result: named positions, all of them, and the tokens that the model generates."""

import json

import pytest
import torch
import transformers

import mambascope
import mambascope.models.vim
from mambascope import memory
from mambascope.errors import InputError, MapTooLargeError, ReconstructionError
from mambascope.explanation import question, views
from mambascope.explanation.question import Question
from mambascope.explanation.subject import Following, Subject
from mambascope.methods.reference_code import check_variant
from mambascope.methods.registry import METHODS
from mambascope.show.terminal import print_attribution
from mambascope.trace import footprint
from mambascope.trace.generate import greedy_continuation
from models import stock_model, stock_transformer
from page_contents import data_of
from rounding import assert_equal_to_rounding
from small_checkpoint import make_checkpoint

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

TEXT = "When Mary and John went to the store"
#: One of each kind: it scores layers, explains a number alone, many at once, in copies, or by interventions.
SCORED = [
    "latim",
    "rollout",
    "alti-logit",
    "mamba-lrp",
    "gradient-x-input",
    "occlusion",
    "knockout",
    "mamba-attribution",
]


@pytest.fixture(scope="module", params=["mamba", "mamba2"])
def loaded(request, tmp_path_factory):
    return mambascope.load(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param))


def greedy(model, ids, count):
    """The likeliest token, again and again, of the whole text each time."""
    for _ in range(count):
        with torch.no_grad():
            best = model(ids, use_cache=False).logits[0, -1].argmax()
        ids = torch.cat([ids, best[None, None]], dim=1)
    return ids[0].tolist()


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("method", SCORED)
def test_each_generated_token_is_explained_as_it_would_be_alone(loaded, method):
    model, tokenizer = loaded
    ids = tokenizer(TEXT)["input_ids"]
    result = mambascope.explain(*loaded, TEXT, method=method, generate=4)
    whole = greedy(model, torch.tensor([ids]), 4)
    places = tuple(range(len(ids) - 1, len(ids) + 3))
    assert result.axes["target"] == places
    assert [one.position for one in result.targets] == list(places)
    assert [one.generated for one in result.targets] == [place + 1 for place in places]
    assert result.target == result.targets[-1]
    assert "".join(result.tokens).startswith(TEXT)
    for row, (place, target) in enumerate(zip(places, result.targets, strict=True)):
        options = {"target": whole[place + 1]} if METHODS[method].asks else {}
        inputs = {"input_ids": torch.tensor([whole])}
        alone = mambascope.explain(model, tokenizer, inputs, method=method, position=place, **options)
        assert close(result.scores[:, row], alone.scores[:, 0]), f"token {row}"
        assert target.next_tokens == alone.target.next_tokens
        assert target.asked == alone.target.asked
        assert target.value == alone.target.value


@pytest.mark.parametrize("method", SCORED)
@pytest.mark.parametrize("asked", [[1, 6], "1:8", "all"])
def test_positions_have_the_rows_that_each_has_alone(loaded, method, asked):
    result = mambascope.explain(*loaded, TEXT, method=method, positions=asked)
    length = len(result.tokens)
    expected = {"all": range(length), "1:8": range(1, 8)}.get(asked if isinstance(asked, str) else "", asked)
    assert result.axes["target"] == tuple(expected)
    for place in (1, 6):
        alone = mambascope.explain(*loaded, TEXT, method=method, position=place)
        row = list(result.axes["target"]).index(place)
        assert close(result.scores[:, row], alone.scores[:, 0]), place
        if result.targets:
            assert result.targets[row] == alone.target
    assert bool(result.targets) == (METHODS[method].asks or asked != "all"), "maps of all positions are about no number"


def test_negative_positions_count_from_the_end(loaded):
    result = mambascope.explain(*loaded, TEXT, positions=[0, -2])
    assert result.axes["target"] == (0, len(result.tokens) - 2)
    assert result.method == "mamba-lrp"


@pytest.mark.parametrize("method", ["mamba-lrp", "alti-logit", "gradient-x-input"])
def test_every_row_has_its_evidence_and_the_result_the_worst(loaded, method):
    result = mambascope.explain(*loaded, TEXT, method=method, generate=3)
    each = result.diagnostics["per_target"]
    name = "completeness_error" if method == "gradient-x-input" else "conservation_error"
    assert len(each) == 3
    assert result.diagnostics[name] == max(one[name] for one in each)
    assert result.diagnostics["value"] == each[-1]["value"] == pytest.approx(result.target.value, rel=1e-5)
    for row, one in enumerate(each):
        alone = mambascope.explain(
            loaded[0], None, {"input_ids": torch.tensor([loaded[1](TEXT)["input_ids"]])}, method=method
        )
        if row == 0:
            assert one["value"] == pytest.approx(alone.diagnostics["value"], rel=1e-4)
    if method != "gradient-x-input":
        for row, one in enumerate(each):
            assert sum(one["terms"].values()) == pytest.approx(result.targets[row].value, rel=1e-4)
            assert one["terms"]["tokens"] == pytest.approx(float(result.scores[:, row].sum()), rel=1e-3, abs=1e-4)


def test_a_row_that_should_not_be_relied_on_is_not_hidden_by_the_others(loaded, monkeypatch):
    from mambascope.explanation import answering

    said = {0: "", 1: "do not rely on these scores: a reason", 2: ""}
    seen = []

    def caution(evidence, dtype):
        seen.append(evidence)
        return said[len(seen) - 1]

    monkeypatch.setattr(answering, "caution", caution)
    result = mambascope.explain(*loaded, TEXT, method="mamba-lrp", generate=3)
    assert result.diagnostics["caution"] == "do not rely on these scores: a reason (so for 1 of 3 targets)"


def test_generation_is_greedy_whatever_the_checkpoint_asks_for(loaded):
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    before = model.generation_config
    expected = greedy(model, ids, 6)[ids.shape[1] :]
    try:
        model.generation_config = transformers.GenerationConfig(
            do_sample=True, temperature=5.0, repetition_penalty=9.0, suppress_tokens=expected, no_repeat_ngram_size=1
        )
        changed = model.generation_config
        assert greedy_continuation(model, ids, 6) == expected
        assert model.generation_config is changed
        assert changed.repetition_penalty == 9.0
    finally:
        model.generation_config = before


def test_generation_ends_where_the_model_ends_the_text(loaded):
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    expected = greedy(model, ids, 6)[ids.shape[1] :]
    before = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = expected[0]
        assert greedy_continuation(model, ids, 6) == expected[:1]
        model.generation_config.eos_token_id = [expected[0], 5]
        result = mambascope.explain(*loaded, TEXT, generate=6)
        assert len(result.axes["target"]) == 1
        assert result.target.generated == ids.shape[1]
    finally:
        model.generation_config.eos_token_id = before


def test_generation_leaves_no_trace_in_the_model(loaded):
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    names = set(vars(model))
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
    greedy_continuation(model, ids, 3)
    assert set(vars(model)) == names
    with torch.no_grad():
        assert_equal_to_rounding(model(ids, use_cache=False).logits, before)


def test_what_cannot_generate_says_so():
    bert = stock_transformer("bert")
    with pytest.raises(InputError, match="does not predict the next token, so it cannot generate"):
        mambascope.explain(bert, None, {"input_ids": torch.tensor([[3, 4]])}, method="latim", generate=2)
    gpt2 = stock_transformer("gpt2")
    longest = gpt2.config.n_positions
    with pytest.raises(InputError, match=f"the text has {longest - 1} tokens and generate=2 adds more"):
        mambascope.explain(gpt2, None, {"input_ids": torch.ones(1, longest - 1, dtype=torch.long)}, generate=2)
    with pytest.raises(InputError, match=r"generate continues input_ids of shape \(1, tokens\), and takes no other"):
        mambascope.explain(
            stock_model("mamba"),
            None,
            {"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.ones(1, 2)},
            generate=2,
        )
    vision = mambascope.models.vim.VisionMamba(mambascope.models.vim.VisionMambaConfig(image_size=8, patch_size=4))
    for option in ({"generate": 2}, {"continuation": " x"}):
        with pytest.raises(InputError, match=f"{next(iter(option))} continues a text, but VisionMamba reads"):
            mambascope.explain(vision.eval(), None, "x.png", **option)


def test_a_generated_token_that_the_pass_would_not_choose_is_refused(loaded):
    """As where a cache is wrong: the text would be explained by reasons that it did not have."""
    model, tokenizer = loaded
    ids = tokenizer(TEXT)["input_ids"]
    worst = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmin())
    inputs = {"input_ids": torch.tensor([[*ids, worst]])}
    subject = Subject(model, tokenizer, inputs, following=Following(len(ids), (worst,)))
    with pytest.raises(ReconstructionError, match=f"generated token {worst} after position {len(ids) - 1}"):
        question.resolve(subject, subject.trace(), Question(each=True))


def test_rows_that_do_not_fit_in_memory_are_refused(loaded, monkeypatch):
    monkeypatch.setattr(footprint, "bytes_of_pass", lambda *_, **__: 0)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100)
    with pytest.raises(MapTooLargeError, match="explain fewer positions, or shorten the text"):
        mambascope.explain(*loaded, TEXT, method="mamba-lrp", positions="all")


def test_a_saved_result_keeps_its_targets(loaded, tmp_path):
    result = mambascope.explain(*loaded, TEXT, generate=3)
    again = mambascope.Attribution.load(result.save(tmp_path / "x.safetensors"))
    assert again.targets == result.targets
    assert again.target == result.target
    plain = json.loads(result.save(tmp_path / "x.json").read_text())
    assert [one["generated"] for one in plain["targets"]] == [one.generated for one in result.targets]
    assert plain["targets"][0]["scores"] == pytest.approx(result.row(result.targets[0].position).tolist())
    assert "3 positions, in focus" in repr(result)


def test_targets_must_be_the_rows(loaded):
    import dataclasses

    result = mambascope.explain(*loaded, TEXT, generate=2)
    with pytest.raises(InputError, match="1 targets do not match the positions of 2 rows"):
        dataclasses.replace(result, targets=result.targets[:1])


def test_the_screen_has_a_line_for_each_target(loaded, capsys):
    result = mambascope.explain(*loaded, TEXT, generate=3)
    print_attribution(result)
    lines = capsys.readouterr().out.splitlines()
    assert "3 generated tokens are listed below; the text shows the sources of this one:" in lines
    start = next(k for k, line in enumerate(lines) if line.startswith("pos predicts"))
    for line, target in zip(lines[start + 1 :], result.targets, strict=False):
        place, *_ = line.split()
        assert int(place) == target.position
        assert repr(result.top(1, target.position)[0].token)[1:-1] in line


def test_the_screen_of_many_targets_says_how_many_it_leaves_out(loaded, capsys):
    result = mambascope.explain(*loaded, TEXT, method="mamba-lrp", positions="all")
    print_attribution(result)
    out = capsys.readouterr().out
    left = len(result.tokens) - 20
    assert (f"{left} more: see the page" in out) == (left > 0)
    assert f"\n{result.target.position:>3} " in out, "the one in focus is shown"


def test_the_page_is_pointed_at_what_was_generated(loaded):
    result = mambascope.explain(*loaded, TEXT, generate=3)
    (one,) = data_of(result.to_html())["methods"]
    assert one["targets"] == [target.position for target in result.targets]
    assert one["anchors"] == [target.generated for target in result.targets]
    assert [row["asked"] for row in one["rows"]] == [target.asked for target in result.targets]
    assert "per_target" not in one["diagnostics"]
    single = data_of(mambascope.explain(*loaded, TEXT).to_html())["methods"][0]
    assert single["anchors"] == single["targets"]
    assert single["rows"] is None


def test_names_that_options_had_are_refused_with_those_of_today(loaded):
    for old, new in (("compat", "variant"), ("targets", "positions")):
        with pytest.raises(InputError, match=f"{old}=… is now called {new}=…"):
            mambascope.explain(*loaded, TEXT, **{old: "all"})
    with pytest.raises(InputError, match="variant 'released' is now called 'reference-code'"):
        check_variant("released")


def test_several_methods_give_a_list_and_one_a_result(loaded):
    results = mambascope.explain(*loaded, TEXT, method=["latim", "rollout"])
    assert [one.method for one in results] == ["latim", "rollout"]
    assert [one.method for one in mambascope.explain(*loaded, TEXT, method=["latim"])] == ["latim"]
    with pytest.raises(InputError, match="the list of methods is empty"):
        mambascope.explain(*loaded, TEXT, method=[])


def test_views_are_what_a_page_offers(loaded, monkeypatch):
    monkeypatch.setattr(views, "METHOD_SECONDS", 1e6)  # however busy the machine is
    monkeypatch.setattr(views, "MAP_SECONDS", 1e6)
    first, *others = mambascope.explain(*loaded, TEXT, views=True)
    assert first.method == "mamba-lrp"
    (every,) = [one for one in others if len(one.axes["target"]) == len(one.tokens)]
    assert every.method == "latim"
    assert {one.method for one in others} > {"rollout", "alti-logit"}
    assert first.diagnostics["seconds_in_all"] >= first.diagnostics["seconds"]
    assert len(data_of(first.to_html(*others))["methods"]) == 1 + len(others)
    generated, *others = mambascope.explain(*loaded, TEXT, generate=2, views=True)
    assert {one.axes["target"] for one in others if one.method != "latim"} == {generated.axes["target"]}
    (every,) = [one for one in others if len(one.axes["target"]) == len(one.tokens)]
    assert every.target.position == len(every.tokens) - 1, "the map is about the text, and not about what was generated"


@pytest.mark.parametrize("method", ["latim", "mamba-lrp"])
@pytest.mark.parametrize("follows", [{"generate": 2}, {"continuation": " to"}])
@pytest.mark.parametrize("where", [{"positions": "all"}, {"positions": [1, 2]}, {"position": 1}])
def test_what_follows_is_not_asked_for_elsewhere(loaded, method, follows, where):
    """Whatever the method: one that reads nothing of the output would answer another question."""
    with pytest.raises(InputError, match="own positions; leave out target and position"):
        mambascope.explain(*loaded, TEXT, method=method, **follows, **where)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.tensor([[3, 4], [5, 6]]), "generate continues one text at a time; these inputs hold 2"),
        (torch.tensor([[3, 10**6]]), "1000000"),
        (torch.zeros(1, 0, dtype=torch.long), "tokens > 0"),
    ],
)
def test_ids_that_cannot_be_continued_are_refused_in_one_sentence(loaded, ids, words):
    with pytest.raises(InputError, match=words):
        mambascope.explain(loaded[0], None, {"input_ids": ids}, generate=2)


def test_a_page_of_a_classifier_explains_positions_by_methods_that_depend_on_them(monkeypatch):
    monkeypatch.setattr(views, "METHOD_SECONDS", 1e6)
    config = transformers.BertConfig(
        num_hidden_layers=2, hidden_size=12, num_attention_heads=2, intermediate_size=16, vocab_size=50, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config).eval()
    first, *others = mambascope.explain(
        model, None, {"input_ids": torch.arange(1, 9)[None]}, method="latim", positions=[1, 2], views=True
    )
    assert first.axes["target"] == (1, 2)
    assert others
    assert all(METHODS[one.method].by_place for one in others)


def test_a_model_without_any_end_of_text_generates_all_the_same():
    """Some configurations list the tokens that end a text, and list none."""
    model, tokenizer = mambascope.load("tiny-mamba2")
    expected = mambascope.explain(model, tokenizer, "Anna had", generate=2, method="latim", progress=False)
    model.generation_config.eos_token_id = []
    found = mambascope.explain(model, tokenizer, "Anna had", generate=2, method="latim", progress=False)
    assert found.tokens == expected.tokens
