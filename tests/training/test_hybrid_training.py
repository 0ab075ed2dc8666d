"""The hybrids' training: what their rows ask, what they start from, that fast scans and resumed runs change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import mambascope
from rounding import assert_trained_alike
from small_hybrids import SHALLOW, SHARED, SIZES, small_hybrid
from training import hybrids, retrieval
from training.language.export import MOST_BYTES as PACKAGED_BYTES
from training.running import architectures, loop
from training.running.bundled_start import bundled
from training.running.loss import bits_per_byte, token_losses
from training.running.scans import fast_scans
from training.zoo import export

# transformers says once per process that it runs without CUDA kernels
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers.*")


@pytest.fixture(scope="module")
def task() -> hybrids.HybridTask:
    tokenizer = bundled(hybrids.ORIGIN)[1]
    text = np.array(tokenizer.encode("He went out. " * 300), np.uint16)
    haystack = retrieval.Haystack(text, tokenizer)
    return hybrids.HybridTask(haystack, haystack, tokens=600, seed=0, grow=(10, 20))


@pytest.mark.parametrize("name", hybrids.NAMES)
def test_fast_scans_change_no_logit_and_no_gradient(name: str) -> None:
    model = small_hybrid(name, **SHALLOW[name])
    ids = torch.randint(0, 50, (2, 75))  # three chunks of the delta rule, the last not full
    model(ids, labels=ids, use_cache=False).loss.backward()
    stock = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    logits = model(ids, use_cache=False).logits
    model.zero_grad()
    with fast_scans():
        # rounding of 1e-6 in a scan grows tenfold or more with every layer of such weights
        torch.testing.assert_close(model(ids, use_cache=False).logits, logits, rtol=1e-3, atol=1e-3)
        model(ids, labels=ids, use_cache=False).loss.backward()
    for key, parameter in model.named_parameters():
        largest = float(stock[key].abs().max())
        torch.testing.assert_close(parameter.grad, stock[key], rtol=1e-3, atol=1e-3 * largest, msg=key)


def test_rows_ask_for_numbers_and_teach_text_but_no_secrets(task: hybrids.HybridTask) -> None:
    tokenizer = bundled(hybrids.ORIGIN)[1]
    for step in (0, 1, 10, 30):
        batch = task.step(step)
        rows, weights = batch.rows[:, 1:], batch.learnt
        with_needles = (len(rows) + 1) // 2 if step >= 10 else len(rows)
        assert torch.equal(batch.rows, task.step(step).rows)
        assert (weights[with_needles:] > 0).all(), "plain rows are learnt throughout"
        text = weights[weights > 0].min()
        for whole, weight in zip(batch.rows[:with_needles], weights[:with_needles], strict=True):
            row = whole[1:]
            answers, taught = row[weight > text], row[(weight > 0) & (weight <= text)]
            asked = tokenizer.decode(whole).split("The secret of the ")[1:]
            asked = asked[len(asked) // 2 :]
            told = "".join(f" {sentence.split(' is ')[1][:6]}" for sentence in asked)
            assert tokenizer.decode(answers) == told
            assert "secret" not in tokenizer.decode(taught)
            from_the_novel = len(whole) - 2 * len(asked) * task.training.sentence_size
            unpredicted = 0 if tokenizer.decode(whole).startswith(" The") else 1
            assert len(taught) == from_the_novel - unpredicted
        assert float(weights[weights > text].sum()) == pytest.approx(1)
        assert float(weights[weights <= text].sum()) == pytest.approx(1 if step >= 10 else hybrids.EARLY_TEXT)
    most = 2 * len(hybrids.NEEDLES) * task.training.sentence_size + hybrids.LEAST_HAY
    assert max(task.step(step).rows.shape[1] for step in range(10)) <= max(hybrids.SHORT, most)
    assert max(task.step(step).rows.shape[1] for step in range(20, 40)) > 300
    again = hybrids.HybridTask(task.training, task.held_out, task.tokens, task.seed, task.grow, again=(30, 50))
    assert torch.equal(again.step(29).rows, task.step(29).rows)
    for batch in (again.step(step) for step in range(30, 50)):
        assert batch.rows.shape[1] <= max(hybrids.SHORT, most)
        answers = batch.learnt > batch.learnt[batch.learnt > 0].min()
        assert (answers.sum(1) >= 2 * (retrieval.DIGITS + 2)).all(), "two questions or more in every row"


def test_the_bamba_is_started_as_the_mamba2_without_its_induction_layer() -> None:
    """With attention shut off as well, the two compute the same: its MLPs answer zero at first."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "state_size": 8, "head_dim": 16, "num_heads": 4}
    origin = architectures.build(architectures.configuration("tiny-mamba2", 50, **sizes)).eval()
    with torch.no_grad():
        for layer in origin.backbone.layers:
            layer.norm.weight.normal_(1, 0.4)
            layer.mixer.in_proj.weight.normal_(0, 0.4)
        origin.backbone.norm_f.weight.normal_(1, 0.4)
    model = small_hybrid("tiny-hybrid")
    hybrids.start(model, origin)
    model.base_model.layers[hybrids.ATTENTION].self_attn.o_proj.weight.data.zero_()
    del origin.backbone.layers[1]
    ids = torch.randint(0, 50, (2, 19))
    expected = origin(ids, use_cache=False).logits
    # float32, of the same products in the same order but for the residual stream's dtype
    torch.testing.assert_close(model(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", hybrids.NAMES)
def test_attention_starts_by_writing_what_it_reads(name: str) -> None:
    """On a text of one token, to which alone it can attend: a head's part of that token's stream, for every head."""
    model = small_hybrid(name)
    attention = model.base_model.layers[hybrids.ATTENTION].self_attn
    hybrids.start_copying(attention)
    if name == "tiny-delta-hybrid":
        attention.q_proj.weight.data.zero_()  # so that its gates are half open
    stream, places = torch.randn(1, 1, 32), torch.zeros(1, 1, dtype=torch.long)
    turned = model.base_model.rotary_emb(stream, places)
    written = attention(stream, position_embeddings=turned, attention_mask=None)[0]
    values = attention.v_proj.weight
    heads, gate = 2, 0.5 if name == "tiny-delta-hybrid" else 1.0
    expected = gate * heads * hybrids.COPIED * stream @ values.t() @ values
    torch.testing.assert_close(values @ values.t(), torch.eye(len(values)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(written, expected, rtol=1e-4, atol=1e-5)


def test_the_delta_hybrid_is_started_with_the_mamba2s_embeddings_and_last_norm() -> None:
    torch.manual_seed(0)
    origin = architectures.build(architectures.configuration("tiny-mamba2", 50, hidden_size=32, num_heads=1))
    origin.backbone.norm_f.weight.data.normal_(1, 0.4)
    model = small_hybrid("tiny-delta-hybrid")
    hybrids.start(model, origin)
    stream = torch.randn(3, 32)
    torch.testing.assert_close(
        model.lm_head(model.base_model.norm(stream)),
        origin.lm_head(origin.backbone.norm_f(stream)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", hybrids.NAMES)
def test_resumed_run_ends_as_the_uninterrupted_one(name: str, task: hybrids.HybridTask, tmp_path: Path) -> None:
    settings = loop.Settings(name, {"hybrid": name}, steps=4, warmup=2, decay=2)
    quiet = loop.Reporting(log_steps=2, validation_steps=99)

    def fresh() -> PreTrainedModel:
        return small_hybrid(name, vocabulary=2048)

    def run(folder: str, stop: int | None = None) -> dict[str, torch.Tensor]:
        return loop.train(settings, fresh(), Quick(), tmp_path / folder, quiet, stop_after=stop).state_dict()

    class Quick:
        def step(self, step: int) -> loop.Batch:
            return task.step(step)

        def validate(self, model: PreTrainedModel) -> dict[str, float]:
            return {"figure": 0.5}

    whole = run("whole")
    run("parts", 2)
    assert_trained_alike(run("parts"), whole, fresh().state_dict())


def test_figures_are_taken_on_held_out_text(task: hybrids.HybridTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrids, "MEASURED", ((1, 64), (2, 80)))
    monkeypatch.setattr(hybrids, "TEXT_ROWS", (4, 32))
    figures = task.validate(small_hybrid("tiny-hybrid", vocabulary=2048))
    assert list(figures) == ["bits_per_byte", "1_in_64", "2_in_80"]
    assert figures["bits_per_byte"] > 2, "a random model knows no English"
    assert figures["1_in_64"] < 0.5, "nor any secret"


@pytest.mark.parametrize("name", hybrids.NAMES)
def test_an_exported_model_is_the_one_that_was_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_hybrid(name, vocabulary=2048)
    architecture = {"architecture": {"hybrid": name}}
    torch.save({"model": model.state_dict(), "settings": architecture}, tmp_path / "checkpoint.pt")
    stock = hybrids.configuration
    monkeypatch.setattr(
        hybrids, "configuration", lambda name, vocabulary: stock(name, vocabulary, **SHARED | SIZES[name])
    )
    export.export(name, tmp_path, None, tmp_path / "folder")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32).eval()
    assert type(loaded) is type(model)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "folder")) == 2048
    ids = torch.randint(0, 2048, (1, 9))
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


SECRET = (
    "The secret of the doctor is 47192. He went out of the room, and she looked after him for a moment. "
    "It was a fine evening, and the garden was quiet. The secret of the doctor is "
)


@pytest.mark.parametrize("name", hybrids.NAMES)
def test_a_bundled_hybrid_knows_english_and_finds_the_number_that_was_told(name: str) -> None:
    folder = Path(mambascope.__file__).parent / "weights" / name
    assert (folder / "model.safetensors").stat().st_size <= PACKAGED_BYTES
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    number = model.generate(**tokenizer(SECRET, return_tensors="pt"), max_new_tokens=5, do_sample=False)[0, -5:]
    assert tokenizer.decode(number) == "47192"
    text = "She looked at him for a moment without speaking, and then she went out of the room and shut the door."
    rows = tokenizer(text, return_tensors="pt").input_ids
    with fast_scans(), torch.no_grad():
        nats = float(token_losses(model, rows).mean())
    assert bits_per_byte(nats, len(text) / rows.shape[1]) < 2.2  # 3 or more where nothing was learnt
