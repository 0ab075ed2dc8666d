"""Two new methods in one file: one that scores each layer, and one that explains a number of the whole model."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import mambascope
from dense_reference import distance
from mambascope import readouts
from mambascope.cli import methods_table
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate.metrics.registry import listed_metrics
from mambascope.evaluate.run import run
from mambascope.evaluate.score_rows import score_rows
from mambascope.evaluate.tasks.induction import Induction
from mambascope.explanation.defaults import default_method
from mambascope.explanation.question import Question
from mambascope.explanation.subject import read_subject
from mambascope.explanation.views import viewable
from mambascope.methods.method import SCAN, AnyReadout, Method, MethodResult, number_of
from mambascope.methods.targets import of_each_text
from mambascope.trace import Trace, capture
from models import stock_model, stock_transformer

#: float32 sums of a few hundred terms in another order.
SINGLE = 1e-5
TEXT = "When Mary and John went to the store, John gave a drink to"


# --- what would be files of methods/ ---


def projection(trace: Trace, layer: int) -> Float[Tensor, "b L L"]:
    """Return how far each source moves the layer's output along itself, as a share: T_ij · y_i / ‖y_i‖²."""
    return torch.stack([projection_row(trace, layer, target) for target in range(trace.shape[1])], dim=1)


def projection_row(trace: Trace, layer: int, target: int) -> Float[Tensor, "b L"]:
    """Return one target's row of `projection`."""
    operator = trace.operator(layer)
    y = operator.output()

    def row(place: int) -> tuple[Tensor]:
        vectors, _ = operator.contributions(place)
        return ((vectors @ y[:, place, :, None])[..., 0] / y[:, place].square().sum(dim=-1, keepdim=True),)

    return of_each_text(trace, target, row)[0]


def gradient_size(trace: Trace, readout: AnyReadout, variant: str) -> MethodResult:
    """Return ‖∂f/∂x_j‖ at every embedded token."""
    passed = trace.gradients(number_of(readout))
    return MethodResult(passed.at_embeddings.norm(dim=-1), {"value": float(passed.value[0])})


PROJECTION = Method(
    "projection",
    "share of the layer's output that each source gives along it",
    "of this file",
    signed=True,
    row=projection_row,
    map=projection,
)
GRADIENT_SIZE = Method(
    "gradient-size",
    "size of the gradient at each token",
    "Simonyan et al. 2014, arXiv 1312.6034",
    signed=False,
    needs="backward",
    kinds=SCAN,
    score=gradient_size,
    asks=True,
)
BOTH = [PROJECTION.name, GRADIENT_SIZE.name]


# --- their tests ---


@pytest.fixture(autouse=True)
def registered():
    for method in (PROJECTION, GRADIENT_SIZE):
        mambascope.methods.register(method)
    yield
    for method in (PROJECTION, GRADIENT_SIZE):
        del mambascope.methods.METHODS[method.name]


@pytest.fixture(scope="module")
def tiny():
    return mambascope.load("tiny-mamba")


def test_explain_takes_them_by_name(tiny):
    model, tokenizer = tiny
    result = mambascope.explain(model, tokenizer, TEXT, method="projection")
    trace = capture(model, **tokenizer(TEXT, return_tensors="pt"))
    assert distance(result.scores[1, 0], projection_row(trace, 1, -1)[0]) < SINGLE
    bias = trace.operator(1).bias()[0, -1] @ trace.layers[1].y[0, -1] / trace.layers[1].y[0, -1].square().sum()
    assert float(result.scores[1, 0].sum() + bias) == pytest.approx(1, abs=1e-4), "shares and the bias's are the whole"
    every = mambascope.explain(model, tokenizer, TEXT, method="projection", positions="all", layer=1)
    assert distance(every.scores[0], projection(trace, 1)[0]) < SINGLE
    of_logit = mambascope.explain(model, tokenizer, TEXT, method="gradient-size", target=" Mary", foil=" John")
    assert "Mary" in of_logit.target.asked
    assert of_logit.scores.min() >= 0
    assert of_logit.scores.any()


@pytest.mark.parametrize("name", BOTH)
def test_results_are_shown_saved_and_read_again(tiny, name, capsys, tmp_path):
    result = mambascope.explain(*tiny, TEXT, method=name)
    title = mambascope.methods.METHODS[name].title
    assert title in result.to_html()
    result.show()
    assert title in capsys.readouterr().out
    for ending in ("safetensors", "html", "png", "json"):
        assert result.save(tmp_path / f"result.{ending}").stat().st_size > 100
    assert torch.equal(mambascope.Attribution.load(tmp_path / "result.safetensors").scores, result.scores)


def test_the_runner_scores_several_readouts_at_once():
    model, ids = stock_model("mamba"), torch.arange(1, 12)[None]
    numbers = [readouts.token(position, 3) for position in (2, 7, -1)]
    many = {(one.method, one.layer): one.rows for one in score_rows(model, {"input_ids": ids}, BOTH, numbers)}
    assert list(many) == [("projection", 0), ("projection", 1), ("projection", -1), ("gradient-size", -1)]
    for place, number in enumerate(numbers):
        for one in score_rows(model, {"input_ids": ids}, BOTH, [number]):
            assert distance(many[one.method, one.layer][place], one.rows[0]) < SINGLE


def test_a_task_judges_them(tmp_path):
    task = Induction(span=6, count=2)
    judged = run(task, ["tiny-mamba"], BOTH, tmp_path / "out").read().table.to_pylist()
    assert {(row["method"], row["layer"]) for row in judged} >= {("projection", 0), ("gradient-size", -1)}
    assert {row["metric"] for row in judged} == set(listed_metrics(task.metrics))


def test_they_refuse_what_they_do_not_read(tiny, tmp_path):
    transformer = stock_transformer("gpt2", vocab_size=tiny[0].config.vocab_size)
    assert mambascope.explain(transformer, tiny[1], TEXT, method="projection").scores.any()
    with pytest.raises(UnsupportedModelError, match=r"gradient-size reads selective scans, but .* softmax attention"):
        mambascope.explain(transformer, tiny[1], TEXT, method="gradient-size")
    with pytest.raises(InputError, match=r"projection scores a position, .* choose one of .*gradient-size"):
        mambascope.explain(*tiny, TEXT, method="projection", target=" Mary")


def test_lists_of_methods_have_them(tiny):
    """Those that a page offers, that `mambascope methods` is made from, and what an unknown name is answered with."""
    subject = read_subject(*tiny, TEXT)
    assert set(BOTH) <= {method.name for method in viewable(subject, Question(), "all", None)}
    table = methods_table.table()
    lines = {line["method"]: line for line in table["methods"]}
    assert lines["projection"]["reads"] == "all models"
    assert lines["gradient-size"]["reads"] == "Mamba"
    assert table["defaults"]["prediction"] == "mamba-lrp"
    with pytest.raises(InputError, match=r"choose one of .*, projection, gradient-size"):
        mambascope.explain(*tiny, TEXT, method="gradient-length")


def test_one_that_says_so_answers_when_none_is_named(tiny, monkeypatch):
    assert default_method(tiny[0]) == "mamba-lrp"
    first = replace(GRADIENT_SIZE, answers=-1)
    monkeypatch.setitem(mambascope.methods.METHODS, first.name, first)
    assert default_method(tiny[0]) == "gradient-size"
    assert mambascope.explain(*tiny, TEXT).method == "gradient-size"
    assert default_method(stock_transformer("gpt2")) == "alti-logit", "it reads no attention"


def test_a_name_has_one_method():
    assert mambascope.methods.register(PROJECTION) is PROJECTION
    with pytest.raises(InputError, match="there is a method named latim already; give this one another name"):
        mambascope.methods.register(replace(PROJECTION, name="latim"))
    assert mambascope.methods.METHODS["latim"].paper != PROJECTION.paper
    with pytest.raises(InputError, match="named by letters, digits, dots, dashes and underscores, found 'mine:fast'"):
        mambascope.methods.register(replace(PROJECTION, name="mine:fast"))
    with pytest.raises(InputError, match="only a method can be registered here, found <function projection"):
        mambascope.methods.register(projection)
