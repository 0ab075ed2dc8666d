"""Interventions against the stock models with a naive scan: dense matrices from loops, entries set to zero by hand."""

import contextlib
import threading

import pytest
import torch
import torch.nn.functional as F
import transformers

from mambascope import memory, readouts
from mambascope.errors import InputError, MapTooLargeError
from mambascope.families import find_mixers
from mambascope.methods.ablation import BATCH_TOKENS, batches
from mambascope.methods.interventions import knockout
from mambascope.methods.occlusion import occlusion
from mambascope.methods.value_zeroing import value_zeroing
from mambascope.operators import naive
from mambascope.trace import capture, cutting, footprint, intervene, scanning
from models import FAMILIES, padded_batch, stock_model, without_downcasts
from rounding import assert_equal_to_rounding

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

LENGTH = 9
IDS, _ = padded_batch(LENGTH, 1, "left", seed=3)
READOUT = readouts.token(LENGTH - 1, 7, foil=11)
#: Both sides are float64 throughout and differ in the order of sums of a few hundred terms.
BOUND = {"rtol": 1e-10, "atol": 1e-10}


def traced(model, ids=IDS):
    return capture(model, input_ids=ids)


def dense_scan(family, layer, keep):
    """Return a stand-in for a family's scan: (alpha + D) of one text from loops, times keep(layer) (L, L), on s."""
    seen = layer

    def through(alpha, skip, s):
        mixing = (alpha + torch.diag_embed(skip[:, None].expand(-1, s.shape[0]))) * keep(seen[0])
        seen[0] += 1
        return torch.einsum("dij,jd->id", mixing, s)

    def mamba(s, dt, A, B, C, D, z=None, delta_bias=None, delta_softplus=False, **_):
        dt = dt if delta_bias is None else dt + delta_bias[:, None]
        dt = F.softplus(dt) if delta_softplus else dt
        alpha = naive.selective_scan_matrix(dt[0].t(), A, B[0].t(), C[0].t())
        o = through(alpha, D, s[0].t()).t()[None]
        return o if z is None else o * F.silu(z)

    def mamba2(s, dt, A, B, C, chunk_size, D=None, dt_bias=None, dt_softplus=False, dt_limit=(0.0, 1e9), **_):
        dt = F.softplus(dt + dt_bias).clamp(*dt_limit)
        alpha = naive.state_space_dual_matrix(dt[0], A, B[0], C[0]).repeat_interleave(s.shape[-1], dim=0)
        return through(alpha, D.repeat_interleave(s.shape[-1]), s[0].flatten(1)).view(s.shape)

    return ("mamba2_chunk_scan", mamba2) if family == "mamba2" else ("mamba_selective_scan", mamba)


@contextlib.contextmanager
def naively(family, keep):
    """Let the stock code run in float64 with the dense scan in which keep(layer) says which pairs stay."""
    name, scan = dense_scan(family, [0], keep)
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=[name])
    with without_downcasts(family), pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(module, name, scan)
        yield


def without_pairs(rows, columns, layers=(0, 1)):
    pairs = torch.ones(LENGTH, LENGTH, dtype=torch.float64)
    for row in rows:
        pairs[row, columns] = 0
    return lambda layer: pairs if layer in layers else torch.ones_like(pairs)


def naive_effect(model, family, rows, layers=(0, 1), readout=READOUT):
    def value(columns):
        with naively(family, without_pairs(rows, columns, layers)):
            return readout(model(input_ids=IDS, use_cache=False))[0]

    return torch.stack([value([]) - value([j]) for j in range(LENGTH)])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize(
    ("targets", "layers"),
    [(LENGTH - 1, None), (-1, (1, 1)), (-1, (0, 0)), (4, (0, -2)), ([2, 5, -1], None), (range(LENGTH), (0, 1))],
    ids=["last", "last, second layer", "last, first layer", "middle, first layer", "three", "all"],
)
def test_knockout_is_the_matrix_without_its_entries(family, targets, layers):
    model = stock_model(family, torch.float64)
    rows = [targets % LENGTH] if isinstance(targets, int) else [t % LENGTH for t in targets]
    window = range(2) if layers is None else range(layers[0], layers[1] % 2 + 1)
    expected = naive_effect(model, family, rows, window)
    with without_downcasts(family):
        effect = knockout(traced(model), READOUT, targets=targets, layers=layers)
    assert torch.allclose(effect.scores, expected, **BOUND)
    assert not effect.scores[max(rows) + 1 :].any(), "what comes after the target has exactly no effect"
    assert effect.scores[: max(rows) + 1].abs().max() > 1e-3, "the sources before it have one"
    assert effect.value == pytest.approx(float(READOUT(effect.outputs)), rel=1e-12), "of the same logits"


def test_tiles_and_scans_give_the_same_knockout(family, monkeypatch):
    """One target and one source at a time take tiles; all sources of a long span at once take a scan."""
    model, used = stock_model(family, torch.float64), []
    tiles = cutting._through_tiles
    monkeypatch.setattr(cutting, "_through_tiles", lambda *args: used.append(1) or tiles(*args))
    with without_downcasts(family):
        alone = knockout(traced(model), READOUT, targets=[3, -1], batch=1)
        assert used
        used.clear()
        at_once = knockout(traced(model), READOUT, targets=[3, -1], batch=LENGTH)
        assert not used
        default = knockout(traced(model), READOUT, targets=[3, -1])
        assert not used, "by default a short text's sources are cut at once"
    assert torch.allclose(alone.scores, at_once.scores, rtol=1e-12, atol=1e-12)
    assert_equal_to_rounding(default.scores, at_once.scores)


def test_all_sources_together_are_more_than_one(family):
    """With every source cut the target reads nothing, not even itself."""
    model = stock_model(family, torch.float64)
    names = [name for name, _, _ in find_mixers(model)]
    with without_downcasts(family):
        edit = intervene.Knockout(names, torch.ones(1, LENGTH, dtype=torch.bool), (LENGTH - 1,))
        with intervene.intervening(model, edit):
            cut = READOUT(model(input_ids=IDS, use_cache=False))
        none = intervene.Knockout(names, torch.zeros(1, LENGTH, dtype=torch.bool), (LENGTH - 1,))
        with intervene.intervening(model, none):
            intact = READOUT(model(input_ids=IDS, use_cache=False))
    with naively(family, without_pairs([LENGTH - 1], list(range(LENGTH)))):
        assert torch.allclose(cut, READOUT(model(input_ids=IDS, use_cache=False)), **BOUND)
    with naively(family, without_pairs([], [])):
        assert torch.allclose(intact, READOUT(model(input_ids=IDS, use_cache=False)), **BOUND)
    assert (cut - intact).abs() > 1e-2


@pytest.mark.parametrize("layer", [0, -1])
def test_value_zeroing_is_the_turn_of_the_blocks_output(family, layer):
    model = stock_model(family, torch.float64)
    place = layer % 2

    def block_output(columns):
        seen = []
        handle = model.backbone.layers[place].register_forward_hook(lambda *args: seen.append(args[-1]))
        with naively(family, without_pairs(range(LENGTH), columns, [place])):
            model(input_ids=IDS, use_cache=False)
        handle.remove()
        return seen[0][0] if seen[0].ndim == 3 else seen[0]

    intact = block_output([])
    expected = torch.stack([1 - F.cosine_similarity(block_output([k]), intact, dim=-1) for k in range(LENGTH)], dim=1)
    with without_downcasts(family):
        zeroed = value_zeroing(traced(model), layer)[0]
        by_two = value_zeroing(traced(model), layer, batch=2)[0]
    assert torch.allclose(zeroed, expected, **BOUND)
    assert torch.allclose(by_two, zeroed, rtol=1e-12, atol=1e-13)
    assert not zeroed.triu(1).any(), "no target draws from its future"
    assert (zeroed.tril() > 1e-12).sum() == LENGTH * (LENGTH + 1) / 2, "every source moves every later target"


def test_value_zeroing_of_a_mixer_in_no_block_compares_its_own_output():
    config = transformers.MambaConfig(hidden_size=12, state_size=3, num_hidden_layers=1)
    mixer = transformers.models.mamba.modeling_mamba.MambaMixer(config, layer_idx=0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = mixer

        def forward(self, hidden):
            return self.mixer(hidden)

    x = torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(0))
    zeroed = value_zeroing(capture(Net(), hidden=x), 0)
    assert zeroed[0, 0, 0] == pytest.approx(0.5, abs=1e-6), "the first token alone has nothing left: a vector of zeros"


def stock_readout(model, **inputs):
    with torch.no_grad():
        options = {} if isinstance(model, transformers.BertModel) else {"use_cache": False}
        return model(**inputs, **options)


def gpt2(seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(n_layer=2, n_embd=12, n_head=2, vocab_size=50, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model


@pytest.mark.parametrize("kind", [*FAMILIES, "gpt2"])
@pytest.mark.parametrize("replacement", ["zero", "mean", 5])
def test_occlusion_is_the_text_with_another_embedding(kind, replacement):
    model = gpt2() if kind == "gpt2" else stock_model(kind, torch.float64)
    table = model.get_input_embeddings().weight
    vector = {"zero": torch.zeros_like(table[0]), "mean": table.mean(dim=0), 5: table[5]}[replacement].detach()
    with contextlib.nullcontext() if kind == "gpt2" else without_downcasts(kind):
        intact = READOUT(stock_readout(model, input_ids=IDS))[0]
        expected = []
        for j in range(LENGTH):
            embeddings = table[IDS].detach().clone()
            embeddings[0, j] = vector
            expected.append(intact - READOUT(stock_readout(model, inputs_embeds=embeddings))[0])
        effect = occlusion(traced(model), READOUT, replacement=replacement)
        by_four = occlusion(traced(model), READOUT, replacement=replacement, batch=4)
    assert torch.allclose(effect.scores, torch.stack(expected), **BOUND)
    assert torch.allclose(by_four.scores, effect.scores, rtol=1e-12, atol=1e-12)
    assert effect.scores.abs().min() > 1e-6
    assert effect.value == pytest.approx(float(intact), rel=1e-12)


@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
@pytest.mark.parametrize("kind", ["mamba", "gpt2"])
def test_deletion_is_the_shorter_text_read_where_the_token_has_moved_to(kind, given):
    model = gpt2() if kind == "gpt2" else stock_model(kind, torch.float64)
    table = model.get_input_embeddings().weight.detach()
    readout = readouts.token(5, 7)
    inputs = {given: IDS if given == "input_ids" else table[IDS], "attention_mask": torch.ones_like(IDS)}
    with contextlib.nullcontext() if kind == "gpt2" else without_downcasts(kind):
        intact = readout(stock_readout(model, input_ids=IDS))
        effect = occlusion(capture(model, **inputs), readout, replacement="delete", batch=4)
        for j in range(LENGTH):
            shorter = torch.cat([IDS[:, :j], IDS[:, j + 1 :]], dim=1)
            moved = readouts.token(4 if j <= 5 else 5, 7)
            expected = intact - moved(stock_readout(model, input_ids=shorter))
            assert torch.allclose(effect.scores[j], expected, **BOUND), f"token {j}"
        first = occlusion(traced(model), readouts.token(0, 7), replacement="delete")
    assert first.scores[0].isnan(), "nothing stands before the first token"
    assert torch.allclose(first.scores[1:], torch.zeros(LENGTH - 1, dtype=torch.float64), atol=1e-12)


def test_deletion_reads_classes_as_they_are():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config).eval().double()

    def second_class(outputs):
        return outputs.logits[:, 1]

    effect = occlusion(traced(model), second_class, replacement="delete")
    for j in (0, 4):
        shorter = torch.cat([IDS[:, :j], IDS[:, j + 1 :]], dim=1)
        with torch.no_grad():
            expected = model(input_ids=IDS).logits[0, 1] - model(input_ids=shorter).logits[0, 1]
        assert torch.allclose(effect.scores[j], expected, **BOUND)


def test_the_model_is_left_as_it_was(family):
    model = stock_model(family).train()
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=["x"])
    name = dense_scan(family, [0], None)[0]
    before, weights = getattr(module, name), {k: v.clone() for k, v in model.state_dict().items()}

    def hooks():
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    expected = hooks()
    knockout(traced(model), READOUT, targets=-1)
    value_zeroing(traced(model), 0)
    occlusion(traced(model), READOUT)
    handle = model.backbone.layers[1].mixer.out_proj.register_forward_hook(lambda *_: 1 / 0)
    for run in (
        lambda: knockout(traced(model), READOUT, targets=-1),
        lambda: occlusion(traced(model), READOUT),
    ):
        with pytest.raises(ZeroDivisionError):
            run()
    handle.remove()
    assert getattr(module, name) is before
    assert all(m.training for m in model.modules())
    assert hooks() == expected
    assert torch.is_grad_enabled()
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("place", ["backbone.layers.0.mixer.in_proj", "backbone.layers.1.norm"])
def test_another_pass_of_the_model_inside_an_intervention_is_not_cut(family, place):
    """The pass starts inside a mixer that is cut, or before one that is not, and neither pass disturbs the other."""
    model, found, busy = stock_model(family), [], []
    expected = knockout(traced(model), READOUT, targets=-1, layers=(0, 0), batch=LENGTH)

    def nested(*_):
        if not busy:
            busy.append(True)
            found.append(knockout(traced(model), READOUT, targets=-1, batch=LENGTH))
            busy.clear()

    handle = model.get_submodule(place).register_forward_hook(nested)
    outer = knockout(traced(model), READOUT, targets=-1, layers=(0, 0), batch=LENGTH)
    handle.remove()
    inner = knockout(traced(model), READOUT, targets=-1, batch=LENGTH)
    assert_equal_to_rounding(outer.scores, expected.scores)
    assert len(found) == 2, "the capture and the copies"
    for effect in found:
        assert_equal_to_rounding(effect.scores, inner.scores)


def test_another_thread_reads_the_text_as_it_is():
    model, seen = stock_model("mamba"), []
    plain = stock_readout(model, input_ids=IDS).logits

    def elsewhere(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=lambda: seen.append(stock_readout(model, input_ids=IDS).logits))
            thread.start()
            thread.join()

    handle = model.backbone.layers[0].norm.register_forward_hook(elsewhere)
    occlusion(traced(model), READOUT)
    knockout(traced(model), READOUT, targets=-1)
    handle.remove()
    assert len(seen) == 4, "a thread failed"  # twice the capture and the copies
    for logits in seen:
        assert_equal_to_rounding(logits, plain)


def test_where_the_model_has_a_kernel_its_own_scan_is_cut(family, monkeypatch):
    """As on a GPU with mamba_ssm installed: the stock scan runs, and the sources' share is ours."""
    model = stock_model(family, torch.float64)
    with without_downcasts(family):
        expected = (
            knockout(traced(model), READOUT, targets=[4, -1]),
            value_zeroing(traced(model), 1),
        )
        ours = []
        monkeypatch.setattr(scanning, "has_kernel", lambda tensor: True)
        monkeypatch.setattr(cutting, "scanned", lambda *_: ours.append(1))
        found = (
            knockout(traced(model), READOUT, targets=[4, -1]),
            value_zeroing(traced(model), 1),
        )
    assert not ours
    assert torch.allclose(found[0].scores, expected[0].scores, **BOUND)
    assert torch.allclose(found[1], expected[1], **BOUND)


def test_half_precision_runs(family):
    model = stock_model(family, torch.bfloat16)
    exact = knockout(capture(stock_model(family), input_ids=IDS), READOUT, targets=-1)
    effect = knockout(traced(model), READOUT, targets=-1)
    assert effect.scores.dtype == torch.float32
    # bfloat16 keeps 8 bits of logits, and a score is their difference
    assert float((effect.scores - exact.scores).norm() / exact.scores.norm()) < 0.3
    assert value_zeroing(traced(model), 0).dtype == torch.float32


def test_progress_and_batches():
    seen = []
    knockout(
        traced(stock_model("mamba")),
        READOUT,
        targets=4,
        batch=2,
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)], "the sources after the target are not run"
    assert next(iter(batches(5000, 500, None))) == (0, BATCH_TOKENS // 500)
    assert next(iter(batches(5000, 5000, None))) == (0, 1)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda m: knockout(traced(m), READOUT, targets=LENGTH), "target 9 is not a position"),
        (lambda m: knockout(traced(m), READOUT, targets=[]), "is not a position"),
        (lambda m: knockout(traced(m), READOUT, targets=-1, layers=(1, 0)), "layers 1 to 0 is empty"),
        (lambda m: knockout(traced(m), READOUT, targets=-1, layers=(0, 2)), "layer 2 does not exist"),
        (lambda m: knockout(traced(m), READOUT, targets=-1, batch=0), "batch must be 1 or more, found 0"),
        (
            lambda m: knockout(traced(m), lambda outputs: outputs.logits, targets=-1),
            "one number per text",
        ),
        (lambda m: knockout(traced(m), lambda outputs: 1.0, targets=-1), r"one number per text, here 1, found 1\.0"),
        (
            lambda m: knockout(traced(m, IDS.expand(3, -1)), READOUT, targets=-1),
            "one text at a time, found 3 in input_ids",
        ),
        (lambda m: value_zeroing(traced(m, IDS.expand(2, -1)), 0), "one text at a time"),
        (lambda m: value_zeroing(traced(m), 2), "layer 2 does not exist"),
        (lambda m: occlusion(traced(m, IDS.expand(2, -1)), READOUT), "one text at a time"),
        (lambda m: occlusion(traced(m), READOUT, replacement="noise"), "unknown replacement 'noise'"),
        (lambda m: occlusion(traced(m), READOUT, replacement=50), "token id 50 is outside"),
        (
            lambda m: occlusion(capture(m, inputs_embeds=torch.zeros(1, 3, 12)), READOUT, replacement=5),
            "can only replace",
        ),
        (
            lambda m: occlusion(traced(m, IDS[:, :1]), READOUT, replacement="delete"),
            "one token is empty without it",
        ),
        (lambda m: occlusion(capture(m), READOUT), "there is nothing to read"),
    ],
)
def test_refusals_are_one_sentence(run, words):
    with pytest.raises(InputError, match=words) as caught:
        run(stock_model("mamba"))
    assert "\n" not in str(caught.value)


def test_maps_without_room_are_refused(monkeypatch):
    monkeypatch.setattr(footprint, "bytes_of_pass", lambda *_, **__: 0)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100)
    with pytest.raises(MapTooLargeError, match="shorten the text"):
        value_zeroing(traced(stock_model("mamba")), 0)
