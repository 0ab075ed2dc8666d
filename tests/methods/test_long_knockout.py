"""Knockouts of one target of a long text, which runs piece by piece, and of spans, held to whole texts without them."""

import pytest
import torch

from hybrids import HYBRIDS, hybrid_model, in_double
from mambascope import readouts
from mambascope.errors import InputError, MapTooLargeError
from mambascope.methods import interventions
from mambascope.methods.interventions import knockout
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.trace import capture, long_position, text_in_pieces
from models import stock_model, without_downcasts

LENGTH = 100
IDS = torch.randint(3, 20, (1, LENGTH), generator=torch.Generator().manual_seed(5))
#: Both sides are float64 throughout and differ in the order of sums of a few hundred terms.
BOUND = 1e-9
#: At the start, across the ends of pieces, over several of them, at the target and beyond it.
SPANS = [(0, 1), (30, 34), (20, 70), (76, 78), (70, 81), (78, 79), (85, 90)]
TARGET = 77
#: Families whose scans start from a state, and hybrids of them with attention.
IN_PIECES = ["mamba", "falcon_mamba", "mamba2", "jamba", "bamba", "falcon_h1"]


@pytest.fixture
def short_pieces(monkeypatch):
    """Let texts of more than 40 tokens run in pieces of 32."""
    monkeypatch.setattr(text_in_pieces, "LONG", 40)
    monkeypatch.setattr(text_in_pieces, "PIECE", 32)


@pytest.fixture
def model(request):
    """A small model of a family that computes in float64 throughout."""
    if request.param in HYBRIDS:
        with in_double(request.param) as model:
            yield model
    else:
        with without_downcasts(request.param):
            yield stock_model(request.param, torch.float64)


def token(place=TARGET):
    return readouts.token(place, 7, foil=11)


def otherwise(trace, readout, without=("long_position", "single_position"), **options):
    """Return the knockout without one of the forms, or both."""
    with pytest.MonkeyPatch.context() as patch:
        for form in without:
            patch.setattr(interventions, form, lambda *_: None)
        return knockout(trace, readout, **options)


def assert_alike(found, expected, bound=BOUND):
    size = float(expected[~expected.isnan()].abs().max())
    assert size > 1e-3, "the sources have an effect"
    assert torch.equal(found.isnan(), expected.isnan())
    assert float((found - expected).nan_to_num().abs().max()) <= bound * size


@pytest.fixture
def in_pieces(monkeypatch):
    """How often a long text ran in pieces."""
    found = []

    def noted(*asked):
        found.append(long_position.long_position(*asked))
        return found[-1]

    monkeypatch.setattr(interventions, "long_position", noted)
    return found


@pytest.mark.product
@pytest.mark.parametrize("model", IN_PIECES, indirect=True)
@pytest.mark.parametrize("keep", ["all", "inputs"])
def test_pieces_give_what_whole_texts_give(model, keep, short_pieces, in_pieces):
    trace = capture(model, input_ids=IDS, keep=keep)
    last = len(trace.layers) - 1
    sources = [0, 5, 31, 32, 33, 64, 74, 76, 77, 90]
    for chosen in ({"spans": SPANS}, {"sources": sources}):
        for place, options in ((TARGET, {}), (LENGTH - 1, {}), (TARGET, {"layers": (last, last)})):
            in_pieces.clear()
            found = knockout(trace, token(place), **chosen, **options)
            assert in_pieces[0] is not None
            assert found.alone < 1e-12
            assert found.outputs is trace.outputs
            assert_alike(found.scores, otherwise(trace, token(place), **chosen, **options).scores)
    for kind in trace.kinds:
        found = knockout(trace, token(), spans=SPANS, kinds={kind})
        assert_alike(found.scores, otherwise(trace, token(), spans=SPANS, kinds={kind}).scores)


@pytest.mark.parametrize("model", [*IN_PIECES, "qwen3_next", "lfm2"], indirect=True)
def test_spans_of_a_short_text_run_alone_too(model):
    trace = capture(model, input_ids=IDS)
    for spans in (SPANS, [SPANS[2]], [SPANS[-1], SPANS[0]]):
        alone = knockout(trace, token(), spans=spans)
        assert alone.alone is not None
        whole = otherwise(trace, token(), spans=spans)
        assert whole.alone is None
        assert alone.scores.shape == (len(spans),)
        if spans != [SPANS[-1], SPANS[0]]:
            assert_alike(alone.scores, whole.scores)
        assert not alone.scores[[start > TARGET for start, _ in spans]].any(), "what comes later has no effect"


@pytest.mark.parametrize("family", ["mamba", "mamba2", "bamba"])
def test_in_single_precision(family, short_pieces):
    """Both forms are compared with double precision: neither is far from it."""
    model = hybrid_model(family) if family in HYBRIDS else stock_model(family)
    trace = capture(model, input_ids=IDS)
    found, whole = knockout(trace, token(), spans=SPANS), otherwise(trace, token(), spans=SPANS)
    assert found.alone is not None
    assert_alike(found.scores, whole.scores, 1e-3)


def test_one_span_of_one_token_scores_as_that_source():
    trace = capture(stock_model("mamba"), input_ids=IDS)
    spans = knockout(trace, token(), spans=[(3, 4), (60, 61), (-LENGTH, 1 - LENGTH)]).scores
    assert torch.allclose(spans, knockout(trace, token(), sources=[3, 60, 0]).scores[[3, 60, 0]], atol=1e-6)


def test_several_positions_lose_spans(short_pieces):
    trace = capture(stock_model("mamba2", torch.float64), input_ids=IDS)
    effect = knockout(trace, token(), targets=[50, TARGET], spans=SPANS)
    assert effect.alone is None
    assert effect.scores.shape == (len(SPANS),)
    assert effect.scores[2:5].abs().min() > 1e-3
    assert not effect.scores[5:].any(), "what comes later has no effect"


def test_many_sources_run_otherwise(short_pieces, in_pieces, monkeypatch):
    trace = capture(stock_model("mamba"), input_ids=IDS)
    knockout(trace, token(), sources=list(range(60)))
    assert in_pieces.pop() is not None
    monkeypatch.setattr(long_position, "MOST", 50)
    assert knockout(trace, token(), sources=list(range(60))).alone is not None
    assert in_pieces.pop() is None
    assert knockout(trace, token(0), sources=[0, 1]).alone is not None
    assert in_pieces.pop() is None, "nothing comes before the first token"


@pytest.mark.parametrize("lost", ["state", "piece"])
def test_what_a_wrong_run_gives_is_not_used(lost, short_pieces, in_pieces, monkeypatch):
    """Its own outputs are compared with the text's, with nothing cut."""
    trace = capture(stock_model("mamba", torch.float64), input_ids=IDS)
    expected = otherwise(trace, token(), spans=SPANS).scores
    if lost == "state":
        stock = SelectiveScan.forwards
        monkeypatch.setattr(SelectiveScan, "forwards", lambda self, v, before=None: stock(self, v))
    else:
        stock = text_in_pieces.LongText.pieces.fget

        def pieces(text):
            """Leave out the second piece, but not where the first tokens are tried."""
            first, second, *rest = stock(text)
            return [first, *rest] if text.length > 60 else [first, second, *rest]

        monkeypatch.setattr(text_in_pieces.LongText, "pieces", property(pieces))
    found = knockout(trace, token(), spans=SPANS).scores
    assert in_pieces == [None]
    assert_alike(found, expected, 1e-5)


def test_a_state_that_a_span_has_given_decays(short_pieces, monkeypatch):
    """The comparison with whole texts sees whether it does."""
    trace = capture(stock_model("mamba", torch.float64), input_ids=IDS)
    expected = otherwise(trace, token(), spans=SPANS).scores
    monkeypatch.setattr(SelectiveScan, "left", lambda self, before: before)
    found = knockout(trace, token(), spans=SPANS)
    assert found.alone is not None
    assert float((found.scores - expected).abs().max()) > 1e-3 * float(expected.abs().max())


def test_states_that_would_not_fit_are_refused(short_pieces, monkeypatch):
    trace = capture(stock_model("mamba"), input_ids=IDS)
    monkeypatch.setattr("mambascope.memory.available_bytes", lambda device: 10_000)
    says = r"a pass over 77 tokens, with states for 7 runs of sources, needs [\d.]+ MiB, .* cut fewer of them at a time"
    with pytest.raises(MapTooLargeError, match=says):
        knockout(trace, token(), spans=SPANS)


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([], "spans must be a list of pairs"),
        ([(3, 3)], "the span 3:3 holds no tokens"),
        ([(5, 3)], "the span 5:3 holds no tokens"),
        ([(-4, 0)], "the span -4:0 holds no tokens"),
        ([(3, LENGTH + 1)], "is not a position of this text"),
    ],
)
def test_spans_must_be_in_the_text(spans, says):
    trace = capture(stock_model("mamba"), input_ids=IDS)
    with pytest.raises(InputError, match=says):
        knockout(trace, token(), spans=spans)


def test_sources_or_spans():
    trace = capture(stock_model("mamba"), input_ids=IDS)
    with pytest.raises(InputError, match="sources are removed one at a time, spans each as a whole; pass one of them"):
        knockout(trace, token(), sources=[3], spans=[(3, 4)])
