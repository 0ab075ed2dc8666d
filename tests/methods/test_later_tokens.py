"""An occlusion for which only the tokens from the sources on run, held to whole texts for each source."""

import importlib
import types

import pytest
import torch
import transformers
from transformers.models.llama import modeling_llama

from every_family import EVERY, small, small_in_float64
from mambascope import memory, readouts
from mambascope.errors import InputError
from mambascope.families import find_mixers
from mambascope.methods import METHODS, ablation
from mambascope.methods.ablation import IDLE_TOKENS, Room, batches, batches_going_on, room
from mambascope.methods.occlusion import occlusion
from mambascope.trace import capture, later_tokens
from mambascope.trace.continued import Continued
from mambascope.trace.footprint import bytes_of_pass
from mambascope.trace.later_tokens import TRIED
from mambascope.trace.mixing import Apart
from mambascope.trust import TOLERANCE
from models import stock_model, stock_transformer, without_downcasts

module = importlib.import_module("mambascope.methods.occlusion")  # the package has a function of this name

LENGTH = 40
IDS = torch.randint(1, 50, (1, LENGTH), generator=torch.Generator().manual_seed(3))
#: Both sides are float64 throughout and differ in the order of sums of a few hundred terms.
BOUND = 1e-10
#: Of the largest score, in float32. Where one source gives nearly all that a norm after a scan reads, what is left
#: without it is mostly the rounding of a difference, which the norm makes larger.
SINGLE = 1e-3

#: Mixers that call no function in which tokens mix, and attention with a window.
WHOLE = {"recurrent_gemma", "rwkv", "xlstm", "minimax", "mistral"}


@pytest.fixture
def model(request):
    """A small model of a family that computes in float64 throughout."""
    with small_in_float64(request.param) as model:
        yield model


def token(place, **options):
    return readouts.token(place, 7, foil=11, **options)


def whole(trace, readout, **options):
    """Return the slow form, for which the whole text runs for every source."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "later_tokens", lambda *_: None)
        slow = occlusion(trace, readout, **options)
    assert slow.continued is None
    return slow


def both(trace, readout, **options):
    fast, slow = occlusion(trace, readout, **options), whole(trace, readout, **options)
    assert fast.value == pytest.approx(slow.value, rel=1e-6)
    assert fast.outputs is slow.outputs
    return fast, slow


def assert_alike(fast, slow, bound=BOUND):
    known = ~slow.scores.isnan()
    assert torch.equal(fast.scores.isnan(), ~known)
    apart, size = float((fast.scores - slow.scores)[known].abs().max()), float(slow.scores[known].abs().max())
    assert size > 1e-3, "the sources have an effect"
    assert apart <= bound * size
    assert fast.scores.dtype == slow.scores.dtype


@pytest.mark.product
@pytest.mark.parametrize("model", EVERY, indirect=True)
def test_later_tokens_give_what_whole_texts_give(model):
    """At the end and in the middle, for every source and for some, for a readout with positions and without."""
    trace = capture(model, input_ids=IDS)
    plain = model.config.model_type in WHOLE

    def first_and_last(outputs):
        return outputs.logits[:, -1, 7] - outputs.logits[:, 2, 11]

    two = readouts.Readout("two places", (20, 35), (readouts.Term(20, 7), readouts.Term(-5, 7, -0.5)))
    asked = [(token(-1), {}), (token(33), {"batch": 4}), (two, {"batch": 5}), (first_and_last, {"batch": 3})]
    for readout, options in [*asked, (token(-1), {"sources": range(25, 40), "batch": 1})]:
        fast, slow = both(trace, readout, **options)
        assert_alike(fast, slow)
        assert (fast.continued is None) == plain
        assert plain or fast.continued < 1e-11
    assert not occlusion(trace, token(33), batch=4).scores[34:].any(), "what comes after has exactly no effect"


@pytest.mark.product
@pytest.mark.parametrize("family", [name for name in EVERY if name not in WHOLE])
def test_in_single_precision(family):
    trace = capture(small(family), input_ids=IDS)
    for replacement in ("zero", "mean", 5):
        fast, slow = both(trace, token(-1), replacement=replacement, batch=5)
        assert_alike(fast, slow, SINGLE)
        assert 0 < fast.continued < TOLERANCE[torch.float32]


@pytest.mark.parametrize("family", ["mamba", "mamba2", "llama", "qwen3_next"])
def test_half_precision_runs(family):
    trace = capture(small(family, torch.bfloat16), input_ids=IDS)
    exact = occlusion(capture(small(family), input_ids=IDS), token(-1)).scores
    fast, slow = both(trace, token(-1))
    assert fast.scores.dtype == torch.float32
    # bfloat16 keeps 8 bits of logits, and a score is their difference; no further from float32 than whole texts are
    errors = [float((one.scores - exact).norm() / exact.norm()) for one in (fast, slow)]
    assert errors[0] < 0.5
    assert errors[0] < 2 * errors[1] + 0.01


@pytest.mark.parametrize("model", ["mamba", "llama", "jamba"], indirect=True)
@pytest.mark.parametrize("given", ["inputs_embeds", "position_ids", "attention_mask"])
def test_embeddings_positions_and_a_mask_of_ones_may_be_given(model, given):
    if given == "position_ids" and model.config.model_type == "mamba":
        pytest.skip("it takes no positions")
    embedded = model.get_input_embeddings()(IDS).detach()
    inputs = {
        "inputs_embeds": {"inputs_embeds": embedded},
        "position_ids": {"input_ids": IDS, "position_ids": 3 + torch.arange(LENGTH)[None]},
        "attention_mask": {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)},
    }[given]
    fast, slow = both(capture(model, **inputs), token(-1), batch=4)
    assert fast.continued is not None
    assert_alike(fast, slow)


def test_the_features_of_a_model_without_a_head_are_read():
    with without_downcasts("mamba"):
        trace = capture(stock_model("mamba", torch.float64).backbone, input_ids=IDS)
        fast, slow = both(trace, readouts.features(-1), batch=4)
        assert fast.continued is not None
        assert_alike(fast, slow)


def test_several_readouts_are_read_from_the_same_passes():
    with without_downcasts("mamba"):
        trace = capture(stock_model("mamba", torch.float64), input_ids=IDS)
        asked = [token(12), token(-1), readouts.continuation(30, [5, 6, 7], "x")]
        together = METHODS["occlusion"].score_many(trace, asked)
        for found, readout in zip(together, asked, strict=True):
            alone = whole(trace, readout)
            assert float((found.scores[0] - alone.scores).abs().max()) <= BOUND * float(alone.scores.abs().max())
            assert found.diagnostics["continued_error"] < 1e-11
    of_whole = METHODS["occlusion"].score(capture(small("rwkv"), input_ids=IDS), token(-1), "published")
    assert "continued_error" not in of_whole.diagnostics


# --- how much runs ---


@pytest.fixture
def passes(monkeypatch):
    """What every pass that runs in the block reads: texts, tokens, and how many logits it is asked for."""
    seen = []
    for place in (later_tokens, module):

        def counted(own, inputs, stock=place.call):
            kept = inputs.get("logits_to_keep")
            seen.append((*inputs["input_ids"].shape, None if kept is None else len(kept)))
            return stock(own, inputs)

        monkeypatch.setattr(place, "call", counted)
    return seen


@pytest.mark.parametrize("family", ["mamba", "llama", "bamba", "qwen3_next"])
def test_tokens_before_the_sources_and_after_the_readout_do_not_run_again(family, passes):
    trace = capture(small(family), input_ids=IDS)
    occlusion(trace, token(35), sources=[20, 21, 22, 23, 30, 38], batch=2)
    tried = [(1, 16, 1), (2, 16, 16)]
    own = [(1, 20, 1), (1, 2, 1), (1, 8, 1), (1, 6, 1)]
    assert passes == [*tried, own[0], (2, 16, 1), own[1], (2, 14, 1), own[2], (1, 6, 1), own[3]]
    assert sum(texts * tokens for texts, tokens, _ in tried) == TRIED


def test_what_may_read_any_position_gets_all_of_them(passes):
    trace, shapes = capture(small("mamba"), input_ids=IDS), []
    occlusion(trace, lambda out: shapes.append(out.logits.shape[:2]) or out.logits[:, -1, 7], batch=8)
    assert set(shapes) == {(1, LENGTH), (8, LENGTH)}
    assert passes[-1] == (1, 8, 1)


def test_the_whole_text_runs_where_that_is_less(passes):
    """One early source: to run the text once more, as evidence, would take as long as to run the copy."""
    trace = capture(small("mamba"), input_ids=IDS)
    assert occlusion(trace, token(-1), sources=[0]).continued is None
    assert passes == [(1, LENGTH, None)]


def test_batches_that_go_on_hold_no_more_than_there_is_room_for():
    sources = list(range(300))
    found = list(batches_going_on(sources, 300, None))
    assert [place for start, stop in found for place in range(start, stop)] == sources
    for start, stop in found:
        assert (stop - start) * (300 - start) <= ablation.BATCH_TOKENS
        assert sum(range(stop - start)) <= IDLE_TOKENS
    assert list(batches_going_on([3, 10, 250, 251], 300, None)) == [(0, 2), (2, 4)], "what is far apart runs apart"
    assert list(batches_going_on([3, 10, 250, 251], 300, 3)) == [(0, 3), (3, 4)]
    assert list(batches_going_on([3, 4, 5], 300, None, Room(4096, 2))) == [(0, 2), (2, 3)]
    assert list(batches_going_on([], 300, None)) == []


def test_batches_are_sized_by_memory(monkeypatch):
    model = small("mamba")
    each = bytes_of_pass(model, find_mixers(model), {"input_ids": IDS}, keep="inputs")
    assert next(iter(batches(100, LENGTH, None, room(model, LENGTH)))) == (0, ablation.BATCH_TOKENS // LENGTH)
    for free, copies in ((8 * each, 4), (each, 1), (0, 1)):
        monkeypatch.setattr(memory, "available_bytes", lambda device, free=free: free)
        monkeypatch.setattr(ablation, "available_bytes", lambda device, free=free: free)
        assert next(iter(batches(100, LENGTH, None, room(model, LENGTH)))) == (0, copies)
    assert room(torch.nn.Linear(2, 2), 8) == Room(ablation.BATCH_TOKENS, ablation.BATCH_TOKENS)


def test_progress_and_batches():
    trace, seen = capture(small("mamba"), input_ids=IDS), []
    occlusion(trace, token(-1), batch=15, progress=lambda *done: seen.append(done))
    assert seen == [(15, 40), (30, 40), (40, 40)]


# --- where the whole text runs for every source ---


def test_padding_and_texts_in_one_row_run_whole():
    mask = torch.ones_like(IDS)
    mask[0, LENGTH - 4 :] = 0
    restarts = torch.cat([torch.arange(15), torch.arange(LENGTH - 15)])[None]
    for inputs in ({"attention_mask": mask}, {"position_ids": restarts}):
        assert occlusion(capture(small("llama"), input_ids=IDS, **inputs), token(30), batch=4).continued is None
    assert occlusion(capture(small("llama"), input_ids=IDS), token(-1), batch=4, replacement="delete").continued is None


def test_models_that_look_ahead_run_whole():
    effect = occlusion(capture(stock_transformer("bert"), input_ids=IDS), readouts.class_(1, 0), batch=4)
    assert effect.continued is None
    assert effect.scores.abs().min() > 0


def test_hooks_of_the_callers_see_the_whole_text():
    model, seen = small("mamba"), []
    model.backbone.layers[0].register_forward_hook(lambda _, __, output: seen.append(output.shape[1]))
    assert occlusion(capture(model, input_ids=IDS), token(-1)).continued is None
    assert set(seen) == {LENGTH}


def test_outputs_that_a_function_may_read_and_that_cannot_be_joined_run_whole():
    model = small("mamba")
    model.config.output_hidden_states = True
    trace = capture(model, input_ids=IDS)
    assert trace.outputs.hidden_states is not None

    def of_a_layer(outputs):
        return outputs.hidden_states[1][:, -1, 0]

    assert occlusion(trace, of_a_layer, batch=4).continued is None
    assert occlusion(trace, token(-1), batch=4).continued is not None


class WithoutPositions(torch.nn.Module):
    """Layers of a Llama that count the tokens that they are given."""

    def __init__(self):
        super().__init__()
        self.llama = stock_transformer("llama", torch.float64)

    def forward(self, input_ids):
        return types.SimpleNamespace(logits=self.llama(input_ids=input_ids, use_cache=False).logits)

    def get_input_embeddings(self):
        return self.llama.get_input_embeddings()


def test_a_model_that_cannot_be_told_positions_runs_whole():
    with without_downcasts("llama"):
        fast, slow = both(capture(WithoutPositions(), input_ids=IDS), token(-1), batch=4)
    assert fast.continued is None
    assert_alike(fast, slow)


def test_long_texts_with_much_attention_run_whole(monkeypatch):
    monkeypatch.setattr(later_tokens, "EAGER", LENGTH // 2)
    assert occlusion(capture(small("llama"), input_ids=IDS), token(-1), batch=4).continued is None
    assert occlusion(capture(small("bamba"), input_ids=IDS), token(-1), batch=4).continued is not None, "one in three"


@pytest.mark.parametrize("family", ["mamba", "mamba2", "llama", "qwen3_next", "lfm2"])
def test_a_state_that_is_lost_is_seen_before_it_is_used(family, monkeypatch):
    monkeypatch.setattr(Continued, "_entered", lambda self, call=None: None)
    fast, slow = both(capture(small(family), input_ids=IDS), token(-1), batch=4)
    assert fast.continued is None
    assert_alike(fast, slow, SINGLE)


def test_a_run_that_goes_wrong_later_is_begun_again_with_whole_texts(monkeypatch):
    """At the third place: what was measured until then is measured again."""
    stock, seen = later_tokens.LaterTokens.go_to, []

    def go_to(self, place):
        if place >= 20:
            raise Apart("it differs")
        stock(self, place)

    monkeypatch.setattr(later_tokens.LaterTokens, "go_to", go_to)
    trace = capture(small("mamba"), input_ids=IDS)
    fast = occlusion(trace, token(-1), batch=10, progress=lambda *done: seen.append(done))
    assert seen == [(10, 40), (20, 40), (10, 40), (20, 40), (30, 40), (40, 40)]
    assert fast.continued is None
    assert_alike(fast, whole(trace, token(-1)), SINGLE)


def test_a_model_that_cannot_run_on_one_token_runs_whole(monkeypatch):
    def forward(self, hidden_states, *args, **kwargs):
        if hidden_states.shape[1] == 1:
            raise ValueError("one token")
        return original(self, hidden_states, *args, **kwargs)

    original = transformers.models.mamba.modeling_mamba.MambaMixer.forward
    monkeypatch.setattr(transformers.models.mamba.modeling_mamba.MambaMixer, "forward", forward)
    fast, slow = both(capture(small("mamba"), input_ids=IDS), token(-1), batch=1)
    assert fast.continued is None
    assert_alike(fast, slow, SINGLE)


def test_a_layer_that_calls_another_function_for_few_tokens_is_seen(monkeypatch):
    def forward(self, hidden_states, **kwargs):
        if hidden_states.shape[1] > 20:
            return original(self, hidden_states=hidden_states, **kwargs)
        return torch.zeros_like(hidden_states), None

    original = modeling_llama.LlamaAttention.forward
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", forward)
    fast, slow = both(capture(small("llama"), input_ids=IDS), token(-1), batch=4)
    assert fast.continued is None
    assert_alike(fast, slow, SINGLE)


def test_what_is_wrong_is_refused_as_before():
    trace = capture(small("mamba"), input_ids=IDS)
    with pytest.raises(InputError, match="not a position"):
        occlusion(trace, readouts.token(LENGTH, 7))
    with pytest.raises(InputError, match="there is no logit 50"):
        occlusion(trace, readouts.token(-1, 50))
    with pytest.raises(InputError, match="no features"):
        occlusion(trace, readouts.features(-1))
    with pytest.raises(InputError, match="one number per text"):
        occlusion(trace, lambda outputs: outputs.logits)
