"""Patching: parts of one run in another, against stock models whose layers, mixers and caches are exchanged by hand."""

import contextlib
import copy
import inspect
import sys

import pytest
import torch

import mambascope
from hybrids import in_double
from mambascope import readouts
from mambascope.errors import InputError, ReconstructionError, UnsupportedModelError
from mambascope.families import find_mixers
from mambascope.methods import patching
from mambascope.trace import capture
from models import stock_model, stock_transformer, transformer_inputs, without_downcasts

#: A scan, state-space duality, attention, a delta rule beside attention, both side by side, a short convolution.
FAMILIES = ("mamba", "mamba2", "llama", "qwen3_next", "falcon_h1", "lfm2")
IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9]])
#: One token is replaced.
CHANGED, LENGTH = 2, 7
OTHER = IDS.clone()
OTHER[0, CHANGED] = 11
READOUT = readouts.token(LENGTH - 1, 7, 3)
#: Both sides are float64 throughout and differ in the order of sums of a few hundred terms, over a difference of ~1.
BOUND = {"rtol": 1e-8, "atol": 1e-8}

pytestmark = pytest.mark.filterwarnings("ignore:.*cache.*:FutureWarning")


@contextlib.contextmanager
def model_of(family):
    """A model that computes in float64."""
    if family in ("mamba", "mamba2"):
        with without_downcasts(family):
            yield stock_model(family, torch.float64)
    elif family == "llama":
        with without_downcasts(family):
            yield stock_transformer(family, torch.float64)
    else:
        with in_double(family) as model:
            yield model


@pytest.fixture(scope="module", params=FAMILIES)
def runs(request):
    """A model with both runs."""
    with model_of(request.param) as model:
        yield model, capture(model, input_ids=IDS), capture(model, input_ids=OTHER)


def layers_of(model):
    inner = getattr(model, "backbone", getattr(model, "model", None))
    return list(inner.layers)


def modules_of(model, what):
    """For every layer, the modules whose output is the part."""
    layers = layers_of(model)
    if what == "stream":
        return [[layer] for layer in layers]
    mixers = [mixer for _, mixer, _ in find_mixers(model)]
    return [[part for part in layer.modules() if any(part is mixer for mixer in mixers)] for layer in layers]


def tokens_of(output):
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def exchanged(model, what, layer, place):
    """The readout of the other text with a part of the first at a layer and position, by hooks of our own."""
    held = {}

    def keep(module, _, output):
        held[module] = tokens_of(output).clone()

    def put(module, _, output):
        changed = tokens_of(output).clone()
        changed[0, place] = held[module][0, place]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    for hook, ids in ((keep, IDS), (put, OTHER)):
        handles = [module.register_forward_hook(hook) for module in modules_of(model, what)[layer]]
        value = READOUT(model(ids, use_cache=False))[0]
        for handle in handles:
            handle.remove()
    return value


@torch.no_grad()
def continued(model, layer, place):
    """The readout of the other text, continued after a position with one layer's cache of the first."""
    takes = inspect.signature(model.forward).parameters
    named = next(name for name in ("cache", "cache_params", "past_key_values") if name in takes)  # of newer releases
    caches = []
    for ids in (IDS, OTHER):
        outputs = model(ids[:, : place + 1], use_cache=True)
        caches.append(next(filter(None, (outputs.get(name) for name in (named, "past_key_values", "cache_params")))))
    ours, theirs = caches
    theirs.layers[layer] = ours.layers[layer]
    for later in range(place + 1, LENGTH):
        outputs = model(OTHER[:, later : later + 1], use_cache=True, **{named: theirs})
    logits = outputs.logits[0, -1]
    return logits[7] - logits[3]


def shares(model, value):
    with torch.no_grad():
        clean, corrupted = (READOUT(model(ids, use_cache=False))[0] for ids in (IDS, OTHER))
    found = torch.stack([torch.stack([value(layer, place) for place in range(LENGTH)]) for layer in
                         range(len(layers_of(model)))])  # fmt: skip
    return (found - corrupted) / (clean - corrupted), clean, corrupted


@pytest.mark.parametrize("what", ["stream", "mixer"])
def test_a_part_is_exchanged_as_by_hooks(runs, what):
    model, trace, other = runs
    found = patching(trace, other, READOUT, what=what)
    expected, clean, corrupted = shares(model, lambda layer, place: exchanged(model, what, layer, place))
    torch.testing.assert_close(found.scores.double(), expected, rtol=1e-5, atol=1e-6)  # scores are float32
    assert (found.clean, found.corrupted) == (pytest.approx(float(clean)), pytest.approx(float(corrupted)))
    assert found.layers == tuple(range(len(layers_of(model))))
    assert found.scores.abs().max() > 0.05
    assert found.error < 1e-8


def test_a_state_is_exchanged_as_in_a_cache(runs):
    model, trace, other = runs
    found = patching(trace, other, READOUT, what="state")
    expected, *_ = shares(
        model,
        lambda layer, place: (
            continued(model, layer, place) if place < LENGTH - 1 else READOUT(model(OTHER, use_cache=False))[0].detach()
        ),
    )
    torch.testing.assert_close(found.scores.double(), expected, rtol=1e-5, atol=1e-6)
    assert found.scores[:, CHANGED].abs().max() > 0.05


def test_what_must_come_back_does(runs):
    """The stream that leaves the last layer is all that is read; before the word that differs nothing differs."""
    _, trace, other = runs
    stream, mixer, state = (patching(trace, other, READOUT, what=what) for what in ("stream", "mixer", "state"))
    assert float(stream.scores[-1, -1]) == pytest.approx(1, abs=1e-6)
    assert not stream.scores[-1, :-1].abs().max() > 1e-6, "no other position is read after the last layer"
    for found in (stream, mixer, state):
        assert found.scores[:, :CHANGED].abs().max() < 1e-12
        assert found.together == pytest.approx(1, abs=1e-6)
    assert not state.scores[:, -1].any(), "nothing comes after the last position"


@pytest.mark.parametrize("what", ["stream", "mixer", "state"])
def test_layers_sources_and_batches(what):
    with model_of("falcon_h1") as model:
        trace, other = (capture(model, input_ids=ids) for ids in (IDS, OTHER))
        whole = patching(trace, other, READOUT, what=what)
        seen = []
        some = patching(
            trace,
            other,
            READOUT,
            what=what,
            layers=(1, 1),
            sources=[-1, 2, 4],
            batch=2,
            progress=lambda *n: seen.append(n),
        )
        assert some.layers == (1,)
        torch.testing.assert_close(some.scores[0, [2, 4, 6]], whole.scores[1, [2, 4, 6]], rtol=1e-6, atol=1e-7)
        assert some.scores[0, [0, 1, 3, 5]].isnan().all()
        assert seen[-1][0] == seen[-1][1] <= 3
        torch.testing.assert_close(patching(trace, other, READOUT, what=what, batch=1).scores, whole.scores)


@pytest.mark.parametrize("architecture", ["mamba", "mamba2", "delta", "softmax"])
def test_a_model_that_recalls_keeps_the_answer_in_its_state_until_it_is_asked_for(architecture):
    """A model known by construction: its one layer gives the value of the key that is asked for."""
    model, tokenizer = mambascope.load(f"constructed:recall-{architecture}")
    texts = ("a=1 . b=3 , a?", "a=2 . b=3 , a?")
    trace, other = (capture(model, **tokenizer([text], return_tensors="pt")) for text in texts)
    answer = readouts.token(-1, int(trace.logits[0, -1].argmax()))
    for what, expected in (("state", [1, 1, 1, 1, 0]), ("mixer", [0, 0, 0, 0, 1]), ("stream", [0, 0, 0, 0, 1])):
        found = patching(trace, other, answer, what=what)
        torch.testing.assert_close(found.scores, torch.tensor([expected]).float(), rtol=0, atol=1e-5)
        assert found.together == pytest.approx(1, abs=1e-5)


def test_a_run_in_itself_has_nothing_to_bring_back():
    trace = capture(stock_model("mamba"), input_ids=IDS)
    with pytest.raises(InputError, match="both texts give the same number"):
        patching(trace, trace, READOUT)


def test_several_words_may_differ_and_padding_is_no_source():
    model = stock_model("mamba2", torch.float64)
    mask = torch.ones_like(IDS)
    mask[0, -2:] = 0
    ids, other = IDS.clone(), IDS.clone()
    other[0, [1, 3]] = 13
    both = [capture(model, input_ids=one, attention_mask=mask) for one in (ids, other)]
    found = patching(*both, readouts.token(-1, 7))
    assert found.scores[0, 1:5].any()
    assert not found.scores[:, 5:].any()
    assert float(found.scores[-1, 4]) == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_put_in_is_refused():
    model, attending = stock_model("mamba"), stock_transformer("llama")
    trace, other = (capture(model, input_ids=ids) for ids in (IDS, OTHER))
    shorter = capture(model, input_ids=IDS[:, :-1])
    several = capture(model, input_ids=torch.cat([IDS, OTHER]))
    masked = capture(model, input_ids=OTHER, attention_mask=torch.ones_like(OTHER))
    elsewhere = capture(stock_model("mamba", seed=1), input_ids=OTHER)
    of_attention = capture(attending, input_ids=IDS)
    for second, words in (
        (shorter, "as many tokens, found 7 and 6"),
        (several, "one text at a time"),
        (masked, "the same attention_mask"),
        (elsewhere, "must be of one model"),
        (of_attention, "must be of one model"),
    ):
        with pytest.raises(InputError, match=words):
            patching(trace, second, READOUT)
    with pytest.raises(InputError, match="one number per text"):
        patching(trace, other, lambda outputs: outputs.logits)
    with pytest.raises(InputError, match="window of layers"):
        patching(trace, other, READOUT, layers=(1, 0))


@pytest.mark.parametrize(
    ("family", "what", "words"),
    [
        ("rwkv", "stream", "is inside rwkv.blocks.0, which holds layers 0 and 1"),
        ("rwkv", "state", "RwkvSelfAttention does not mix tokens in a function"),
        ("zamba", "stream", "is not in it"),
    ],
)
def test_parts_that_a_model_does_not_have_are_refused_by_name(family, what, words):
    with in_double(family) as model:
        trace, other = (capture(model, input_ids=ids) for ids in (IDS, OTHER))
        with pytest.raises(UnsupportedModelError, match=words):
            patching(trace, other, READOUT, what=what)
        assert patching(trace, other, READOUT, what="mixer").together == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_where_layers_read_both_ways_there_is_no_state(family):
    """Everything else is as elsewhere; a class token that is added after the embedding is a position too."""
    model = stock_transformer(family)
    given = {name: value[:1] for name, value in transformer_inputs(family, side="none").items()}
    name, text = next(iter(given.items()))
    changed = text.clone()
    changed.view(-1)[-3:] += 1
    trace, other = capture(model, **given), capture(model, **{name: changed})
    readout = readouts.class_(1, 0)
    for what in ("stream", "mixer"):
        found = patching(trace, other, readout, what=what)
        assert found.scores.abs().max() > 1e-3
        assert found.scores.shape == (2, trace.shape[1])
    assert patching(trace, other, readout).together == pytest.approx(1, abs=1e-4)
    with pytest.raises(UnsupportedModelError, match=r"reads later tokens too, so it has no state"):
        patching(trace, other, readout, what="state")


@pytest.mark.parametrize("what", ["stream", "mixer", "state"])
def test_a_module_that_runs_twice_is_a_layer_each_time(what):
    """As in a model that has a copy of the module in the place of its second run."""
    once, twice = (stock_model("mamba", torch.float64) for _ in range(2))
    once.backbone.layers[1] = copy.deepcopy(once.backbone.layers[0])
    twice.backbone.layers[1] = twice.backbone.layers[0]
    found = [
        patching(*(capture(model, input_ids=ids) for ids in (IDS, OTHER)), READOUT, what=what)
        for model in (once, twice)
    ]
    torch.testing.assert_close(found[1].scores, found[0].scores)
    assert found[0].scores.any(dim=1).all()


def test_layers_aside_have_states_too():
    with in_double("zamba") as model:
        trace, other = (capture(model, input_ids=ids) for ids in (IDS, OTHER))
        found = patching(trace, other, READOUT, what="state")
        assert found.together == pytest.approx(1, abs=1e-6)
        assert len(found.scores) == len(trace.layers)
        assert found.scores.any(dim=1).all()


def test_a_run_that_is_not_what_it_must_be_is_refused(monkeypatch):
    model = stock_model("mamba")
    trace, other = (capture(model, input_ids=ids) for ids in (IDS, OTHER))
    file = sys.modules[patching.__module__]
    actual = file.with_parts

    def wrong(*arguments):
        outputs = actual(*arguments)
        outputs.logits = outputs.logits * 1.5
        return outputs

    monkeypatch.setattr(file, "with_parts", wrong)
    with pytest.raises(ReconstructionError, match="nothing can be said of single parts"):
        patching(trace, other, READOUT)


def test_a_layer_that_a_hook_of_the_callers_changes_is_refused_by_name():
    model = stock_model("mamba", torch.float64)
    handle = model.backbone.layers[0].register_forward_hook(lambda module, _, output: output * 2)
    trace, other = (capture(model, input_ids=ids) for ids in (IDS, OTHER))
    with pytest.raises(UnsupportedModelError, match=r"backbone\.layers\.0 changes it in a way"):
        patching(trace, other, READOUT)
    assert patching(trace, other, READOUT, what="mixer").together == pytest.approx(1, abs=1e-6)
    handle.remove()
