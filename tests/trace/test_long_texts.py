"""Long texts: a trace of the mixers' inputs alone, and passes piece by piece, give what ordinary ones give."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hybrids import hybrid_model
from mambascope import capture, explain, readouts
from mambascope.errors import InputError, MapTooLargeError, ReconstructionError, UnsupportedModelError
from mambascope.explanation import long_texts
from mambascope.explanation.subject import read_subject
from mambascope.families import find_mixers
from mambascope.families.patch_points import _users
from mambascope.methods.alti import alti
from mambascope.methods.hidden_attention import hidden_attention_mean
from mambascope.methods.interventions import knockout
from mambascope.methods.latim import latim, latim_row
from mambascope.methods.mamba_lrp import ATTN_LRP, LRP, mamba_lrp
from mambascope.methods.registry import METHODS
from mambascope.methods.rollout import rollout_row
from mambascope.methods.value_zeroing import value_zeroing
from mambascope.trace import pieces, recaptured, text_in_pieces
from mambascope.trace.continued import Continued
from mambascope.trace.differentiate import differentiate
from mambascope.trace.footprint import bytes_of_inputs
from mambascope.trace.later_logits import LaterLogits
from mambascope.trace.pieces import differentiate_in_pieces
from mambascope.trace.rules import GRADIENT
from models import stock_model, stock_transformer

SUPPORT = Path(__file__).parents[1] / "support"

#: Sums in another order: in single precision the gradients of either form are up to 1e-5 from those in double.
ROUNDING = 3e-5


def model_of(family):
    return stock_model(family) if family in ("mamba", "mamba2", "falcon_mamba") else hybrid_model(family)


def near(found, expected, bound=ROUNDING):
    return float((found - expected).norm()) <= bound * float(expected.norm())


def text(length=150, texts=1):
    return torch.randint(3, 20, (texts, length), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def short_pieces(monkeypatch):
    """Let texts of more than 40 tokens run in pieces of 32."""
    monkeypatch.setattr(text_in_pieces, "LONG", 40)
    monkeypatch.setattr(text_in_pieces, "PIECE", 32)


@pytest.mark.product
@pytest.mark.parametrize(
    "family", ["mamba", "falcon_mamba", "mamba2", "jamba", "bamba", "falcon_h1", "qwen3_next", "lfm2"]
)
@pytest.mark.parametrize("rules", [LRP, ATTN_LRP, GRADIENT], ids=["lrp", "attn-lrp", "gradient"])
def test_pieces_give_what_the_whole_text_gives(family, rules, short_pieces):
    model, ids = model_of(family), text(texts=2)
    for readout in (readouts.token(-1, 7), readouts.token(70, 7, 9), readouts.continuation(60, [5, 6, 7] * 10, "x")):
        found = differentiate_in_pieces(model, readout, rules=rules, input_ids=ids)
        expected = differentiate(model, readout, rules=rules, biases=True, input_ids=ids)
        assert found is not None
        assert near(found.value, expected.value)
        assert near(found.first_order, expected.first_order)
        assert near(found.at_embeddings, expected.at_embeddings)
        assert found.biases.keys() == expected.biases.keys()
        assert all(torch.allclose(found.biases[one], of, rtol=1e-3, atol=1e-4) for one, of in expected.biases.items())


def test_what_cannot_run_in_pieces_runs_as_a_whole(short_pieces):
    readout, ids = readouts.token(-1, 7), text(60)
    model = stock_model("mamba")
    mask = torch.ones_like(ids)
    assert differentiate_in_pieces(model, readout, input_ids=ids) is not None
    assert differentiate_in_pieces(model, readout, input_ids=ids, attention_mask=mask) is None
    assert differentiate_in_pieces(model, lambda outputs: outputs.logits[:, -1, 7], input_ids=ids) is None
    assert differentiate_in_pieces(model, readout, input_ids=ids[:, :40]) is None
    assert differentiate_in_pieces(stock_transformer("bert"), readout, input_ids=ids) is None
    assert differentiate_in_pieces(hybrid_model("rwkv"), readout, input_ids=ids) is None  # no function mixes tokens
    handle = model.backbone.layers[0].register_forward_hook(lambda *_: None)
    assert differentiate_in_pieces(model, readout, input_ids=ids) is None
    handle.remove()


def test_a_piece_that_forgets_its_state_is_noticed(short_pieces, monkeypatch):
    """The trial on the first tokens sees it, so the text runs as a whole."""
    monkeypatch.setattr(Continued, "_entered", lambda self, call=None: None)
    for family in ("mamba", "mamba2"):
        assert differentiate_in_pieces(model_of(family), readouts.token(-1, 7), input_ids=text(60)) is None


def test_an_error_amid_the_pieces_restores_everything(short_pieces, monkeypatch):
    model, readout, ids = stock_model("mamba"), readouts.token(-1, 7), text(100)
    before = model(ids).logits
    backward, left = pieces._gradients, [2]

    def fail(*given):
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("amid the pieces")
        return backward(*given)

    monkeypatch.setattr(pieces, "_gradients", fail)
    with pytest.raises(RuntimeError, match="amid"):
        differentiate_in_pieces(model, readout, input_ids=ids)
    assert not any(_users.values())
    assert torch.equal(model(ids).logits, before)
    assert differentiate_in_pieces(model, readout, input_ids=ids) is not None


def test_pieces_that_would_not_fit_are_refused(short_pieces, monkeypatch):
    monkeypatch.setattr("mambascope.memory.available_bytes", lambda device: 10_000)
    says = r"a pass over 1 x 100 tokens, 32 at a time, needs [\d.]+ MiB, but only 0\.00954 MiB are free; shorten"
    with pytest.raises(MapTooLargeError, match=says):
        differentiate_in_pieces(stock_model("mamba"), readouts.token(-1, 7), input_ids=text(100))


@pytest.mark.parametrize("family", ["mamba", "mamba2", "jamba", "bamba", "falcon_h1", "zamba2", "qwen3_next"])
def test_inputs_alone_give_what_all_gives(family):
    model, ids = model_of(family), text(40, texts=2)
    mask = torch.ones_like(ids)
    mask[1, 30:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    whole, alone = capture(model, **given), capture(model, keep="inputs", **given)
    assert alone.reconstruction_error == whole.reconstruction_error
    assert near(rollout_row(alone, -1), rollout_row(whole, -1))
    for layer in range(len(whole.layers)):
        assert near(latim_row(alone, layer, -1), latim_row(whole, layer, -1))
    assert near(latim(alone, 0), latim(whole, 0))
    readout = readouts.token(-1, 7)
    assert near(mamba_lrp(alone, readout).scores, mamba_lrp(whole, readout).scores)
    scans = [number for number, block in enumerate(whole.layers) if block.kind == "scan"][:1]
    for layer in scans:
        assert near(hidden_attention_mean(alone, layer), hidden_attention_mean(whole, layer))


IN_PIECES = ["mamba", "falcon_mamba", "mamba2", "jamba", "bamba", "falcon_h1", "qwen3_next"]


@pytest.mark.parametrize("family", IN_PIECES)
def test_a_rollout_reads_its_layers_piece_by_piece(family, monkeypatch):
    """With texts that end within a piece, and pieces shorter than the convolution."""
    model, ids = model_of(family), text(40, texts=2)
    whole, alone = capture(model, input_ids=ids), capture(model, keep="inputs", input_ids=ids)
    for size in (13, 2):
        monkeypatch.setattr(recaptured, "PIECE", size)
        ran = sum(branch.captured.scans_from_the_end() is not None for branch in alone.branches)
        assert ran == sum(branch.kind in ("scan", "delta") for branch in alone.branches) > 0
        assert near(rollout_row(alone, -1), rollout_row(whole, -1))
        assert near(rollout_row(alone, 20), rollout_row(whole, 20))


def test_a_piece_that_runs_otherwise_is_noticed(monkeypatch):
    monkeypatch.setattr(recaptured, "PIECE", 13)
    model = stock_model("mamba")
    trace = capture(model, input_ids=text(40), keep="inputs")
    expected = rollout_row(trace, -1)
    with torch.no_grad():
        model.backbone.layers[0].mixer.x_proj.weight[0].mul_(1.5)
    with pytest.raises(ReconstructionError, match="the model's weights have changed since the capture"):
        rollout_row(trace, -1)
    with torch.no_grad():
        model.backbone.layers[0].mixer.x_proj.weight[0].div_(1.5)
    assert near(rollout_row(trace, -1), expected)
    assert not any(_users.values())


def test_knockout_of_chosen_sources_needs_no_more():
    model, ids = stock_model("mamba"), text(40)
    readout = readouts.token(-1, 7)
    found, expected = (
        knockout(capture(model, input_ids=ids, keep=keep), readout, sources=[3, 4, 20]).scores
        for keep in ("inputs", "all")
    )
    chosen = [3, 4, 20]
    assert near(found[chosen] if found.ndim == 1 else found[..., chosen], expected[..., chosen])


def test_later_logits_are_the_logits():
    model, ids = stock_model("mamba"), text(30, texts=2)
    whole, alone = (capture(model, input_ids=ids, keep=keep).logits for keep in ("all", "inputs"))
    assert isinstance(alone, LaterLogits)
    assert alone.shape == whole.shape
    assert alone.dtype == whole.dtype
    places, entries = torch.tensor([[3, 5], [7, 9]]), torch.tensor([2, 4])
    reads = [
        lambda one: one[0, 3], lambda one: one[1, [2, 4]], lambda one: one[:, 5], lambda one: one[:, -1],
        lambda one: one[torch.arange(2)[:, None], places], lambda one: one[torch.arange(2)[:, None], places, entries],
        lambda one: one[:, 2:4], lambda one: one + 1, lambda one: one[..., 3], lambda one: one[whole > 0],
        lambda one: one.softmax(dim=-1), lambda one: one.detach()[0].float()[1], lambda one: one[-1, -2],
    ]  # fmt: skip
    for number, read in enumerate(reads):
        found, expected = read(alone), read(whole)
        assert type(found) is torch.Tensor, number
        assert found.shape == expected.shape, number
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5), number


def test_methods_that_need_more_say_so():
    trace = capture(stock_model("mamba"), input_ids=text(20), keep="inputs")
    with pytest.raises(UnsupportedModelError, match=r"kept the mixers' inputs alone; capture with keep=\"all\""):
        alti(trace, 0)
    with pytest.raises(UnsupportedModelError, match=r"must run again as it ran.* keep=\"all\""):
        value_zeroing(trace, 0)


def test_hooks_and_changed_weights_are_refused():
    model = stock_model("mamba")
    handle = model.backbone.layers[0].mixer.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match='hooks, so its layers cannot run again by themselves; pass keep="all"'):
        capture(model, input_ids=text(20), keep="inputs")
    handle.remove()
    trace = capture(model, input_ids=text(20), keep="inputs")
    with torch.no_grad():
        model.backbone.layers[0].mixer.dt_proj.weight.mul_(1.5)
    with pytest.raises(ReconstructionError, match="the model's weights have changed since the capture"):
        trace.operator(0)


def test_an_error_amid_a_second_run_restores_everything(monkeypatch):
    model, ids = stock_model("mamba"), text(20)
    trace = capture(model, input_ids=ids, keep="inputs")
    before = model(ids).logits
    whole = recaptured.Recording.read
    monkeypatch.setattr(recaptured.Recording, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace.operator(0)
    monkeypatch.setattr(recaptured.Recording, "read", whole)
    assert not any(_users.values())
    assert torch.equal(model(ids).logits, before)
    assert near(trace.operator(0).output(), capture(model, input_ids=ids).layers[0].y)


def test_explain_keeps_inputs_alone_where_all_would_take_too_much(monkeypatch, short_pieces):
    model, given = stock_model("mamba"), {"input_ids": text(100)}
    methods = ["mamba-lrp", "rollout", "latim"]
    whole = explain(model, None, given, method=methods)
    monkeypatch.setattr(long_texts, "ROOM", 1000)
    alone = explain(model, None, given, method=methods)
    for found, expected in zip(alone, whole, strict=True):
        assert "kept" not in expected.diagnostics
        assert found.diagnostics["kept"] == "inputs"
        assert near(found.scores, expected.scores)
        assert [name for name, _ in found.target.next_tokens] == [name for name, _ in expected.target.next_tokens]
    assert "kept" not in explain(model, None, given, method="alti-logit").diagnostics


def test_explain_removes_spans_of_a_long_text_in_pieces(monkeypatch, short_pieces):
    """Each as a whole, and what is between them; the same as of a short text."""
    model, given = stock_model("mamba"), {"input_ids": text(100)}
    spans = {"late": (70, 98), "first": (0, 3), "word": (-10, -9)}
    with pytest.raises(InputError, match="the span 'word' begins at 90, before the one before it ends"):
        explain(model, None, given, method="knockout", spans=spans)
    spans["word"] = (20, 21)
    whole = explain(model, None, given, method="knockout", spans=spans)
    monkeypatch.setattr(long_texts, "ROOM", 1000)
    found = explain(model, None, given, method="knockout", spans=spans)
    assert found.tokens == whole.tokens == ("first", "3:20", "word", "21:70", "late", "98:100")
    assert found.diagnostics["kept"] == "inputs"
    assert found.diagnostics["alone_error"] < 1e-4
    assert near(found.scores, whole.scores, 1e-4)
    trace = capture(model, input_ids=given["input_ids"])
    readout = readouts.token(-1, int(trace.logits[0, -1].argmax()))
    ends = [(0, 3), (3, 20), (20, 21), (21, 70), (70, 98), (98, 100)]
    assert near(found.scores[0, 0], knockout(trace, readout, spans=ends).scores, 1e-4)
    assert found.diagnostics["merged"] == {"units": "spans", "tokens": 100, "sources": "whole", "targets": "mean"}


def test_spans_are_removed_by_methods_that_remove():
    model, given = stock_model("mamba"), {"input_ids": text(30)}
    with pytest.raises(InputError, match=r"latim scores single tokens.*result\.spans.*by knockout"):
        explain(model, None, given, method="latim", spans={"a": (1, 3)})
    with pytest.raises(InputError, match="views and verify are of single tokens"):
        explain(model, None, given, method="knockout", spans={"a": (1, 3)}, verify=2)
    with pytest.raises(InputError, match="the tokens 0:1 are in no span, but '0:1' is the name of one"):
        explain(model, None, given, method="knockout", spans={"0:1": (1, 3)})


def test_a_long_text_says_what_it_takes(monkeypatch):
    monkeypatch.setattr(long_texts, "LONG", 50)
    asked = [METHODS["mamba-lrp"]]
    for model, bound in ((stock_model("mamba"), "about"), (hybrid_model("bamba"), "at least")):
        short, long = (read_subject(model, None, {"input_ids": text(length)}) for length in (40, 100))
        assert long_texts.estimate(short, asked) == ""
        assert long_texts.estimate(long, asked).startswith(f"100 tokens take {bound} ")
        assert long_texts.estimate(long, asked).endswith(" MiB")
    every, some = (long_texts.estimate(long, [METHODS["knockout"]], spans) for spans in (0, 3))
    assert "at least" in every
    assert "at least" in some, "attention grows"
    long = read_subject(stock_model("mamba"), None, {"input_ids": text(100)})
    every, some = (long_texts.estimate(long, [METHODS["knockout"]], spans) for spans in (0, 3))
    assert "at least" in every
    assert "about" in some


def test_the_estimate_counts_what_follows_the_capture(monkeypatch, short_pieces):
    """The backward pass in pieces, beside the inputs that are kept; and the states of spans."""
    monkeypatch.setattr(long_texts, "LONG", 50)
    monkeypatch.setattr(long_texts, "ROOM", 1000)
    monkeypatch.setattr(long_texts, "in_words", lambda count: f"{count} bytes")
    long = read_subject(stock_model("mamba"), None, {"input_ids": text(100)})

    def needed(method, spans=0):
        return int(long_texts.estimate(long, [METHODS[method]], spans).split()[-2])

    assert needed("knockout", 200) > needed("knockout", 3) >= needed("rollout")
    plain = needed("mamba-lrp")
    monkeypatch.setattr(long_texts, "bytes_in_pieces", lambda *_: 10**9)
    assert needed("mamba-lrp") == 10**9 + bytes_of_inputs(long.model, find_mixers(long.model), long.inputs) > plain


@pytest.mark.slow
@pytest.mark.parametrize("method", ["capture", "rollout", "latim", "mamba-lrp"])
def test_bytes_per_token(method):
    """Six layers 128 wide: their inputs take 3 KiB a token, one layer's own run 10, and all logits would take 31.

    An ordinary capture takes 60 KiB and MambaLRP's whole pass 100. Pieces of 512 tokens add what they hold, which is 4
    KiB a token for a text as short as this.
    """
    run = subprocess.run(
        [sys.executable, SUPPORT / "long_text_peaks.py", method],
        capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-800:]
    assert int(run.stdout) <= 16 * 1024
