"""What `mambascope bench` measures: what is beside ours gives the same, and what is not exact is not timed."""

import contextlib
import dataclasses

import pytest
import torch

from mambascope.bench import forms, fresh, measuring, run, settings
from mambascope.bench.cases import CASES
from mambascope.bench.page import lines_of, page
from mambascope.bench.settings import FAMILIES, SIZES, Shape, build, setting, shape_of
from mambascope.cli import listing_methods
from mambascope.errors import MapTooLargeError, ReconstructionError
from mambascope.methods import hidden_attention, latim
from mambascope.operators import naive
from rounding import assert_equal_to_rounding

SMALL = {family: Shape(family, 2, 32, 50) for family in FAMILIES}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A size whose models are small: Mamba-2 has one head of 64 channels."""
    monkeypatch.setitem(SIZES, "tiny", (2, 32))
    monkeypatch.setitem(settings.VOCABULARY, "tiny", 50)
    monkeypatch.setitem(measuring.PRODUCT, "cpu", 64)
    monkeypatch.setattr(measuring, "WRITTEN", 64)
    monkeypatch.setattr(run, "CHECKED", (8, 2, 16))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 3, 13])
def test_loops_and_dense_tensors_give_the_papers_formulas(family, length):
    """Held to the executable specification, which multiplies the decays of every pair anew, and to our maps."""
    one = setting(SMALL[family], length, "cpu")
    scan, operator = one.operator.scan, one.operator
    formula = naive.selective_scan_matrix if family == "mamba" else naive.state_space_dual_matrix
    expected = formula(scan.dt[0], scan.A, scan.B[0], scan.C[0])
    for found in (forms.looped(scan), forms.published(scan), forms.dense(scan), hidden_attention(one.trace, 0)[0]):
        assert_equal_to_rounding(found.double(), expected, precision=torch.float32)
    assert_equal_to_rounding(forms.looped_mean(scan).double(), expected.mean(dim=0), precision=torch.float32)
    alpha = expected.repeat_interleave(operator.inner_width // len(expected), dim=0)
    u, a, gate = operator.u[0], operator.preactivation[0], operator.gate[0]
    vectors = naive.contribution_vectors(alpha, scan.skip, u, operator.conv, a, gate, operator.W_o)
    norms = vectors.norm(dim=-1)
    for found in (forms.looped_contributions(operator), forms.dense_contributions(operator), latim(one.trace, 0)[0]):
        assert_equal_to_rounding(found.double(), norms, precision=torch.float32)
    assert_equal_to_rounding(forms.looped_row(operator).double(), norms[-1], precision=torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CASES)
def test_every_case_is_exact_and_everything_beside_it_runs(family, name):
    assert 0 <= run.exactness(name, family, "tiny", "cpu") < 1e-5
    one = setting(SMALL[family], 9, "cpu")
    for beside in CASES[name].beside:
        call, times = beside.call(one)
        call()
        assert times > 0
        assert beside.held is None or beside.held(one) > 0
    CASES[name].ours(one)()


def test_what_is_not_exact_is_not_timed(monkeypatch):
    wrong = dataclasses.replace(CASES["rollout"], answer=lambda one: 1.001 * CASES["rollout"].expected(one))
    monkeypatch.setitem(run.CASES, "latim", wrong)
    monkeypatch.setattr(run, "alternated", None)
    with pytest.raises(ReconstructionError, match=r"latim of a random mamba on cpu differs from float64 by 1\.0e-03"):
        run.bench(["latim"], ["tiny"], [8])


def test_a_floor_has_the_operations_of_the_work():
    """LaTIM's are L(L+1)/2 products with W_o; hidden attention's, as many of the states of all channels."""
    one = setting(SMALL["mamba"], 8, "cpu")
    pairs, product = 36, 2 * 64**3
    assert CASES["latim"].beside[0].call(one)[1] == pytest.approx(2 * pairs * 64 * 32 / product)
    assert CASES["hidden-attention"].beside[0].call(one)[1] == pytest.approx(2 * pairs * 64 * 16 / product)
    assert CASES["channels"].beside[0].call(one)[1] == pytest.approx(64 * 8**2 / 64)


def test_a_dense_form_takes_no_more_than_half_of_the_free_memory(monkeypatch):
    one = setting(SMALL["mamba"], 64, "cpu")
    dense = next(beside for beside in CASES["latim"].beside if beside.held is not None)
    monkeypatch.setattr(run, "available_bytes", lambda device: 2 * dense.held(one.cut(32)) + 1)
    assert run._fitting(dense, one).length == 32
    assert run._fitting(CASES["latim"].beside[0], one).length == 64
    assert run._fitting(CASES["mamba-lrp"].beside[1], setting(SMALL["mamba"], 70, "cpu")).length == 64


def test_calls_take_turns_and_slow_ones_run_once(monkeypatch):
    made, clock = [], iter([9.0, 9.0, 1.0, 1.0, 2.0, 5.0, 3.0, 4.5] + [9.0] * 4)
    monkeypatch.setattr(measuring, "timed", lambda call, device: (call(), next(clock)))
    calls = {"a": lambda: made.append("a"), "b": lambda: made.append("b")}
    assert measuring.alternated(calls, 3) == {"a": 2, "b": 4.5}, "the first round does not count"
    assert "".join(made) == "ab" * 4
    made.clear()
    assert measuring.alternated(calls, 3) == {"a": 9, "b": 9}
    assert "".join(made) == "abab"


def test_growth_is_what_a_call_takes():
    _, seconds, grown = measuring.measured(lambda: torch.ones(1 << 24).sum())
    assert 50 * 2**20 < grown < 100 * 2**20  # 64 MiB and what the sum takes
    assert seconds > 0


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process():
    with fresh.fresh_processes() as ask:
        ours, again = (ask("latim", None, SMALL["mamba"], 64, "cpu") for _ in range(2))
        dense = ask("latim", "dense tensors of all pairs", SMALL["mamba"], 64, "cpu")
        with pytest.raises(MapTooLargeError, match=r"measured the memory of latim at 8 tokens ended early \(Unsup"):
            ask("latim", None, SMALL["mamba"], 8, "meta")
    assert 0 <= ours < dense
    assert abs(ours - again) < dense / 2, "the second process did not have what the first had left"


def test_models_have_the_released_shapes():
    for shape in (Shape("mamba", 2, 512, 50), Shape("mamba2", 2, 512, 50)):
        counted = sum(weight.numel() for weight in build(shape, "cpu").parameters())
        assert shape.parameters == pytest.approx(counted, rel=0.1)
    assert shape_of("mamba", "130m").parameters == pytest.approx(129e6, rel=0.1)
    assert shape_of("mamba2", "1.4b").parameters == pytest.approx(1.34e9, rel=0.15)


def test_a_model_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("mambascope.memory.available_bytes", lambda device: 10**6)
    with pytest.raises(MapTooLargeError, match=r"a random mamba of this size needs .* choose a smaller --size"):
        build(shape_of("mamba", "1.4b"), "cpu")


def test_a_run_gives_a_row_for_everything_and_a_page(monkeypatch):
    told = []
    monkeypatch.setattr(run, "fresh_processes", lambda: contextlib.nullcontext(lambda *_: 7.0))
    found = run.bench(list(CASES), ["tiny"], [5, 8], repeats=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 32) for number in range(32)]
    rows = found["rows"]
    assert {(row["case"], row["beside"]) for row in rows} == {
        (name, beside.name) for name, case in CASES.items() for beside in case.beside
    }
    for row in rows:
        assert row["ratio"] == pytest.approx(row["seconds"] / row["other_seconds"])
    written = page(found, "mambascope bench", slow=5.0, warm=16)
    assert written.count("\n## ") == 2
    assert max(map(len, written.partition("\n## ")[0].splitlines())) <= 120 + len(found["machine"]["processor"])
    for name, case in CASES.items():
        assert written.count(f"| {name}: {case.title} |") == 2
    assert len(lines_of(rows)) == 2 * len(rows) + len(list(CASES)) * 2


def test_the_page_in_the_docs_knows_every_case():
    text = (listing_methods.TABLE.parents[3] / "docs" / "speed.md").read_text(encoding="utf-8")
    for name, case in CASES.items():
        assert f"| {name}: {case.title} |" in text
        assert all(f"| {beside.name} |" in text for beside in case.beside)
