"""A knockout of one target, for which that position alone runs for all sources, held to whole texts for each source."""

import types

import pytest
import torch
from transformers.models.llama import modeling_llama

from every_family import EVERY, small, small_in_float64
from mambascope import readouts
from mambascope.errors import InputError
from mambascope.methods import METHODS, interventions
from mambascope.methods.interventions import knockout
from mambascope.methods.occlusion import occlusion
from mambascope.trace import capture, earlier_tokens, single_position
from mambascope.trace.mixing import goes_forwards
from mambascope.trust import TOLERANCE
from models import padded_batch, stock_model, stock_transformer, without_downcasts

LENGTH = 11
IDS, _ = padded_batch(LENGTH, 1, "left", seed=3)
#: Both sides are float64 throughout and differ in the order of sums of a few hundred terms.
BOUND = 1e-10
#: Of the largest score, in float32. Where one source gives nearly all that a norm after a scan reads, what is left
#: without it is mostly the rounding of a difference, which the norm makes larger: whole texts are off by 2e-4 then.
SINGLE = 1e-3

#: Mixers that call no function in which tokens mix.
PLAIN = {"recurrent_gemma", "rwkv", "xlstm", "minimax"}


@pytest.fixture
def model(request):
    """A small model of a family that computes in float64 throughout."""
    with small_in_float64(request.param) as model:
        yield model


def token(place, **options):
    return readouts.token(place, 7, foil=11, **options)


def both(trace, readout, **options):
    """Return the knockout as it runs, and the slow form, for which the whole text runs for every source."""
    fast = knockout(trace, readout, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interventions, "single_position", lambda *_: None)
        slow = knockout(trace, readout, **options)
    assert slow.alone is None
    assert fast.value == slow.value
    assert fast.outputs is slow.outputs
    return fast, slow


def assert_alike(fast, slow, bound=BOUND):
    apart, size = float((fast.scores - slow.scores).abs().max()), float(slow.scores.abs().max())
    assert size > 1e-3, "the sources have an effect"
    assert apart <= bound * size
    assert fast.scores.dtype == slow.scores.dtype


@pytest.mark.product
@pytest.mark.parametrize("model", EVERY, indirect=True)
def test_one_position_alone_gives_what_whole_texts_give(model):
    """At the end, in the middle and at the start of a text; in all layers, in one, and in one kind of mixer."""
    trace = capture(model, input_ids=IDS)
    plain = model.config.model_type in PLAIN
    last = len(trace.layers) - 1
    asked = [{}, {"layers": (last, last)}, {"layers": (0, 1)}, *({"kinds": {kind}} for kind in sorted(trace.kinds))]
    for place, options in [(LENGTH - 1, options) for options in asked] + [(5, {}), (0, {})]:
        fast, slow = both(trace, token(place), **options)
        assert_alike(fast, slow)
        assert not fast.scores[place + 1 :].any(), "what comes after the target has exactly no effect"
        assert (fast.alone is None) == plain
        assert plain or fast.alone < 1e-12


@pytest.mark.product
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", [name for name in EVERY if name not in PLAIN])
def test_in_single_precision_and_beside_padding(family, side):
    """In float64 the eager attention of transformers returns NaN for rows that padding masks as a whole."""
    ids, mask = padded_batch(LENGTH, 3, side)
    trace = capture(small(family), input_ids=ids[2:], attention_mask=mask[2:])
    real = mask[2].nonzero()[:, 0].tolist()
    for target in (-1, real[3]):
        fast, slow = both(trace, token(target))
        assert_alike(fast, slow, SINGLE)
        assert fast.alone < TOLERANCE[torch.float32]
        assert not fast.scores[~mask[2].bool()].any(), "padding is no source"


@pytest.mark.parametrize("family", ["mamba", "mamba2", "llama", "qwen3_next"])
def test_half_precision_runs(family):
    trace = capture(small(family, torch.bfloat16), input_ids=IDS)
    exact = knockout(capture(small(family), input_ids=IDS), token(-1)).scores
    fast, slow = both(trace, token(-1))
    assert fast.scores.dtype == torch.float32
    # bfloat16 keeps 8 bits of logits, and a score is their difference; no further from float32 than whole texts are
    errors = [float((one.scores - exact).norm() / exact.norm()) for one in (fast, slow)]
    assert errors[0] < 0.5
    assert errors[0] < 2 * errors[1] + 0.01


@pytest.mark.parametrize("model", ["mamba", "llama", "qwen3_next", "zamba2"], indirect=True)
def test_batches_and_progress(model):
    trace, seen = capture(model, input_ids=IDS), []
    at_once = knockout(trace, token(6))
    by_three = knockout(trace, token(6), batch=3, progress=lambda *done: seen.append(done))
    assert at_once.alone is not None
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert_alike(by_three, at_once)


@pytest.mark.parametrize("model", ["mamba", "qwen3_next"], indirect=True)
def test_every_readout_of_the_position_is_read(model):
    trace = capture(model, input_ids=IDS)
    terms = (readouts.Term(-1, 3, 2.0), readouts.Term(LENGTH - 1, 5, -0.5))
    for readout in (
        readouts.token(-1, 7),
        readouts.Readout("a sum", (-1,), terms),
        readouts.Readout("log-probabilities", (-1,), terms, log_probability=True),
    ):
        fast, slow = both(trace, readout)
        assert fast.alone is not None
        assert_alike(fast, slow)


def test_the_features_of_a_model_without_a_head_are_read():
    with without_downcasts("mamba"):
        trace = capture(stock_model("mamba", torch.float64).backbone, input_ids=IDS)
        fast, slow = both(trace, readouts.features(4))
    assert fast.alone is not None
    assert_alike(fast, slow)


@pytest.mark.parametrize("given", ["inputs_embeds", "position_ids"])
def test_embeddings_and_positions_may_be_given(given):
    with without_downcasts("llama"):
        model = stock_transformer("llama", torch.float64)
        embedded = model.get_input_embeddings()(IDS).detach()
        positions = 3 + torch.arange(LENGTH)[None]
        inputs = {"inputs_embeds": embedded} if given == "inputs_embeds" else {"input_ids": IDS, given: positions}
        fast, slow = both(capture(model, **inputs), token(6))
    assert fast.alone is not None
    assert_alike(fast, slow)


@pytest.mark.parametrize("family", EVERY)
def test_what_goes_forwards_looks_at_nothing_later(family):
    """So that a layer's operator need not be made to know it."""
    for branch in capture(small(family), input_ids=IDS).branches:
        assert branch.operator().scan.causal or not goes_forwards(branch.family)


# --- how much runs ---


@pytest.fixture
def passes(monkeypatch):
    """The number of tokens of every pass that runs in the block, as (texts, tokens)."""
    seen = []
    for module in (single_position, interventions):

        def counted(own, inputs, stock=module.call):
            seen.append(tuple(inputs["input_ids"].shape))
            return stock(own, inputs)

        monkeypatch.setattr(module, "call", counted)
    return seen


@pytest.mark.parametrize("family", ["mamba", "mamba2", "llama", "jamba", "qwen3_next", "zamba2", "lfm2"])
def test_the_text_runs_once_and_every_source_is_one_token(family, passes):
    trace = capture(small(family), input_ids=IDS)
    knockout(trace, token(-1))
    assert passes == [(1, LENGTH), (single_position.TRIED, 1), (LENGTH, 1)]


def test_a_long_text_is_run_in_several_batches(passes, monkeypatch):
    monkeypatch.setattr(interventions, "COPIES", 4)
    knockout(capture(small("mamba"), input_ids=IDS), token(-1))
    assert passes == [(1, LENGTH), (single_position.TRIED, 1), (4, 1), (4, 1), (3, 1)]


# --- where the whole text runs for every source ---


def test_several_positions_run_with_the_whole_text(passes):
    trace = capture(small("mamba"), input_ids=IDS)
    two = readouts.Readout("two places", (3, 5), (readouts.Term(3, 7), readouts.Term(5, 7)))
    for readout, options in (
        (token(-1), {"targets": [3, -1]}),
        (token(-1), {"targets": 3}),
        (two, {}),
        (two, {"targets": 5}),
        (lambda outputs: outputs.logits[:, -1, 7], {"targets": -1}),
    ):
        passes.clear()
        assert knockout(trace, readout, **options).alone is None
        assert {tokens for _, tokens in passes} == {LENGTH}
    assert knockout(trace, token(-1), targets=-1).alone is not None, "a target may be named"


def test_hooks_of_the_callers_see_the_whole_text():
    model, seen = small("mamba"), []
    model.backbone.layers[0].register_forward_hook(lambda _, __, output: seen.append(output.shape[1]))
    assert knockout(capture(model, input_ids=IDS), token(-1)).alone is None
    assert set(seen) == {LENGTH}


def test_hooks_by_which_transformers_returns_hidden_states_change_nothing():
    model = small("llama")
    model(input_ids=IDS, output_hidden_states=True)
    assert knockout(capture(model, input_ids=IDS), token(-1)).alone is not None


class WithoutPositions(torch.nn.Module):
    """Layers of a Llama that count the tokens that they are given."""

    def __init__(self):
        super().__init__()
        self.llama = stock_transformer("llama", torch.float64)

    def forward(self, input_ids):
        return types.SimpleNamespace(logits=self.llama(input_ids=input_ids, use_cache=False).logits)


def test_a_model_that_cannot_be_told_a_position_runs_with_the_whole_text():
    with without_downcasts("llama"):
        trace = capture(WithoutPositions(), input_ids=IDS)
        fast, slow = both(trace, token(-1))
        assert fast.alone is None
        assert_alike(fast, slow)
        first, _ = both(trace, token(0))
        assert first.alone is not None, "the first token is where it would be alone"


@pytest.mark.parametrize("family", ["mamba", "mamba2", "qwen3_next"])
@pytest.mark.parametrize("lost", ["convolution", "state"])
def test_a_wrong_run_of_the_position_is_seen_before_it_is_used(family, lost, monkeypatch):
    """Without the tail of a convolution, or the state: nothing cut, it differs from the text's run."""
    if lost == "state":
        monkeypatch.setattr(earlier_tokens, "_state", lambda scan, s: s.new_zeros(()).expand(1, scan.maps, 1, 1))
    else:
        stock = earlier_tokens.EarlierConvolution.of

        def of(place, original, args, kwargs):
            seen = stock(place, original, args, kwargs)
            return earlier_tokens.EarlierConvolution(torch.zeros_like(seen.tail), seen.own)

        monkeypatch.setattr(earlier_tokens.EarlierConvolution, "of", of)
    trace = capture(small(family), input_ids=IDS)
    fast, slow = both(trace, token(-1))
    assert fast.alone is None
    assert_alike(fast, slow, SINGLE)


def test_a_layer_that_calls_another_function_for_one_token_is_seen(monkeypatch):
    def forward(self, hidden_states, **kwargs):
        if hidden_states.shape[1] > 1:
            return original(self, hidden_states=hidden_states, **kwargs)
        return torch.zeros_like(hidden_states), None

    original = modeling_llama.LlamaAttention.forward
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", forward)
    fast, slow = both(capture(small("llama"), input_ids=IDS), token(-1))
    assert fast.alone is None
    assert_alike(fast, slow, SINGLE)


def test_models_that_look_ahead_run_as_a_whole():
    model = stock_transformer("bert")
    effect = knockout(capture(model, input_ids=IDS), readouts.class_(1, 0), targets=0)
    assert effect.alone is None
    assert effect.scores.abs().min() > 0


def test_an_explanation_says_that_the_position_ran_alone():
    found = METHODS["knockout"].score(capture(small("mamba"), input_ids=IDS), token(-1), "published")
    assert 0 <= found.diagnostics["alone_error"] < TOLERANCE[torch.float32]
    model = small("mamba")
    model.register_forward_hook(lambda *_: None)
    found = METHODS["knockout"].score(capture(model, input_ids=IDS), token(-1), "published")
    assert "alone_error" not in found.diagnostics


def test_a_batch_of_one_token():
    effect = knockout(capture(small("llama"), input_ids=IDS[:, :1]), token(0))
    assert effect.alone is not None
    assert effect.scores.shape == (1,)


@pytest.mark.parametrize("model", ["mamba", "mamba2", "llama", "qwen3_next", "lfm2", "rwkv"], indirect=True)
def test_some_sources_alone_score_what_they_score_among_all(model):
    """With the target among the sources or not; the others are NaN, and those out of reach are zero."""
    trace = capture(model, input_ids=IDS)
    for remove in (knockout, occlusion):
        every = remove(trace, token(7)).scores
        for sources in ([1, 2, 5], [7, 0], [9, 3], [-1]):
            some = remove(trace, token(7), sources=sources).scores
            asked = torch.zeros(LENGTH, dtype=torch.bool)
            asked[sources] = True
            assert some[~asked].isnan().all()
            assert float((some - every)[asked].abs().max()) <= BOUND * float(every.abs().max())


def test_sources_must_be_positions():
    trace = capture(stock_model("mamba", torch.float32), input_ids=IDS)
    for remove in (knockout, occlusion):
        for wrong in ([LENGTH], [-LENGTH - 1], []):
            with pytest.raises(InputError, match="source"):
                remove(trace, token(-1), sources=wrong)
