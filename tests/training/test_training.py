"""The training programs: mended text, rows, the schedule, resumption, the compiled recurrence, the models that ship."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mambascope
from mambascope.operators.recurrence import channel_recurrence, head_recurrence
from rounding import assert_trained_alike
from training.language import baselines, corpus, evaluate, export, induction, rows, tokens, train
from training.language.induction_start import start_induction
from training.running import schedule
from training.running.architectures import NAMES, build, configuration
from training.running.fused import Recurrence, fused_channel_recurrence, fused_head_recurrence
from training.running.loss import bits_per_byte, token_losses
from training.running.scans import fast_scans

WORDS = (
    "Barkworthy",
    "Mrs",
    "the",
    "a",
    "of",
    "sea",
    "letter",
    "gave",
    "walked",
    "home,",
    "and.",
    "she",
    "was",
    "Ashburnham",
)
SIZES = {
    "tiny-mamba": {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "time_step_rank": 2},
    "tiny-mamba2": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "head_dim": 16, "num_heads": 4},
}
WEIGHTS = Path(mambascope.__file__).parent / "weights"
QUIET = train.Reporting(log_steps=2, validation_steps=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared cache of two small made-up novels, one of them held out."""
    folder = tmp_path_factory.mktemp("novels")
    rng = np.random.default_rng(0)
    for name in ("Adams_First_1900", "Zola_Last_1901"):
        text = "\r\n".join(" ".join(rng.choice(WORDS, 12)) for _ in range(120))
        (folder / f"{name}.txt").write_text(text, newline="")
    tokens.prepare(folder / "cache", folder)
    return folder / "cache"


def test_mend_joins_hard_wraps_and_keeps_paragraphs() -> None:
    wrapped = "It was a long line of prose that was\r\nwrapped  by hand at forty characters.\r\n\r\n"
    mended = corpus.mend((wrapped + '"Well?" said he.\r\n\r\n') * 20)
    assert mended.split("\n")[:2] == [
        "It was a long line of prose that was wrapped by hand at forty characters.",
        '"Well?" said he.',
    ]


def test_held_out_novels_are_not_trained_on() -> None:
    novels = dict.fromkeys([*corpus.HELD_OUT, "Other_Novel_1900"], "text")
    training, held_out = corpus.split_novels(novels)
    assert list(training) == ["Other_Novel_1900"]
    assert sorted(held_out) == sorted(corpus.HELD_OUT)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="MAMBASCOPE_DATA"):
        corpus.read_novels(tmp_path)


def test_tokenizer_keeps_every_byte(cache: Path) -> None:
    tokenizer = tokens.load_tokenizer(cache)
    text = "Mrs Ashburnham’s  café\n\tÅ 😀"
    assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == tokenizer.pad_token_id == 0


def test_one_epoch_of_rows_shows_every_stretch_once() -> None:
    text = np.arange(1000, dtype=np.uint16)
    batches = rows.Rows(text, length=10, batch=7, seed=3)
    starts = np.concatenate([batches.plain_step(step)[:, 0] for step in range(14)])
    assert len(set(starts.tolist())) == batches.rows_per_epoch == 98
    again = rows.Rows(text, length=10, batch=7, seed=3)
    np.testing.assert_array_equal(again.step(9), batches.step(9))


@pytest.mark.parametrize("repeat", [rows.repeat_a_little, rows.repeat_to_the_end])
def test_repeated_span_comes_from_earlier_in_the_row(repeat: Callable[..., None]) -> None:
    for seed in range(50):
        row = np.arange(200)
        repeat(row, np.random.default_rng(seed))
        changed = np.flatnonzero(row != np.arange(200))
        assert changed.size >= rows.SPAN[0] - 1
        assert (row[changed] < changed).all()


def test_practice_begins_and_ends_at_its_steps() -> None:
    text = np.arange(60000, dtype=np.uint16)
    batches = rows.Rows(text, length=128, batch=200, seed=0, practice=(5, 10, 12))
    plain, practising = rows.PLAIN_SHARE, rows.PRACTICE_SHARE
    shares = {4: plain, 5: practising, 9: practising, 10: plain, 11: plain, 12: practising, 99: practising}
    for step, share in shares.items():
        changed = (batches.step(step) != batches.plain_step(step)).any(axis=1).mean()
        assert changed == pytest.approx(share, abs=0.1)  # three standard deviations of 200 draws


def test_schedule_warms_up_holds_and_decays() -> None:
    rates = [schedule.learning_rate(step, steps=100, peak=1.0, warmup=10, decay=20) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:79]) == {1.0}
    assert rates[99] < rates[90] < 1.0
    assert rates[100] == 0.0
    longer = [schedule.learning_rate(step, steps=200, peak=1.0, warmup=10, decay=20) for step in range(80)]
    assert longer == rates[:80]


@pytest.mark.skipif(fused_channel_recurrence is None, reason="no C compiler")
@pytest.mark.parametrize(("b", "L", "D", "N"), [(1, 1, 1, 1), (2, 37, 48, 4), (3, 8, 5, 16), (1, 63, 33, 3)])
def test_compiled_channel_recurrence_is_the_recurrence(b: int, L: int, D: int, N: int) -> None:
    torch.manual_seed(0)
    given = (torch.randn(b, L, D), torch.rand(b, L, D), -8 * torch.rand(D, N), *torch.randn(2, b, L, N))
    assert_same_answers_and_gradients(fused_channel_recurrence, channel_recurrence, given)


HEAD_SIZES = [(1, 1, 1, 16, 1), (2, 37, 3, 48, 5), (1, 70, 2, 64, 8), (2, 9, 2, 80, 3)]


@pytest.mark.skipif(fused_head_recurrence is None, reason="no C compiler")
@pytest.mark.parametrize(("b", "L", "H", "P", "N"), HEAD_SIZES)
def test_compiled_head_recurrence_is_the_recurrence(b: int, L: int, H: int, P: int, N: int) -> None:
    torch.manual_seed(0)
    given = (torch.randn(b, L, H, P), torch.rand(b, L, H), -8 * torch.rand(H), *torch.randn(2, b, L, 1, N))
    assert_same_answers_and_gradients(fused_head_recurrence, head_recurrence, given)


def assert_same_answers_and_gradients(ours: Recurrence, theirs: Recurrence, given: tuple[torch.Tensor, ...]) -> None:
    upstream = torch.randn_like(given[0])
    results = []
    for recurrence in (ours, theirs):
        inputs = [tensor.clone().requires_grad_() for tensor in given]
        out = recurrence(*inputs)
        out.backward(upstream)
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    for name, mine, yours in zip(("out", "v", "step", "A", "write", "read"), *results, strict=True):
        # float32 sums over up to 2,000 terms
        torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5 * float(yours.abs().max()), msg=name)


@pytest.mark.filterwarnings("ignore::UserWarning:transformers.*")
@pytest.mark.parametrize("name", NAMES)
def test_fast_scans_change_no_logit_and_no_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = build(configuration(name, 50, **SIZES[name])).eval()
    ids = torch.randint(0, 50, (2, 19))
    model(ids, labels=ids, use_cache=False).loss.backward()
    stock = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    logits = model(ids, use_cache=False).logits
    model.zero_grad()
    with fast_scans():
        torch.testing.assert_close(model(ids, use_cache=False).logits, logits, rtol=1e-4, atol=1e-5)
        model(ids, labels=ids, use_cache=False).loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, stock[key], rtol=1e-3, atol=1e-5, msg=key)


def test_started_head_goes_on_as_the_text_did_before() -> None:
    """Two layers with random weights know nothing; the second, started anew, tells a repetition from new text."""
    torch.manual_seed(0)
    for name in NAMES:
        sizes = {"hidden_size": 256, "num_hidden_layers": 2}
        model = build(configuration(name, 512, **sizes)).eval()
        with torch.no_grad():
            model.backbone.embeddings.weight.normal_(0, 0.1)
        with fast_scans():
            start_induction(model, torch.randint(1, 512, (32, 128)))
            losses = token_losses(model, induction.random_rows(512, 16, 24))
        assert losses[:, 24:].mean() < losses[:, :23].mean() - 0.1, name


@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_ends_as_the_uninterrupted_one(name: str, cache: Path, tmp_path: Path) -> None:
    settings = train.Settings(name, steps=6, batch=2, length=32, warmup=2, decay=2)
    whole = train.train(settings, cache, tmp_path / "whole", QUIET, compiled=False, **SIZES[name])
    train.train(settings, cache, tmp_path / "parts", QUIET, compiled=False, stop_after=3, **SIZES[name])
    torch.manual_seed(99)
    parts = train.train(settings, cache, tmp_path / "parts", QUIET, compiled=False, **SIZES[name])
    torch.manual_seed(settings.seed)
    start = build(configuration(name, len(tokens.load_tokenizer(cache)), **SIZES[name]))
    assert_trained_alike(parts.state_dict(), whole.state_dict(), start.state_dict())
    names, *curve = (tmp_path / "whole" / "validation.csv").read_text().split()
    again, *other = (tmp_path / "parts" / "validation.csv").read_text().split()
    assert again == names
    for line, expected in zip(other, curve, strict=True):
        # four digits are written, and a step astray moves the loss by less than a hundredth
        assert [float(x) for x in line.split(",")] == pytest.approx([float(x) for x in expected.split(",")], rel=1e-2)
    with pytest.raises(ValueError, match=r"other settings.*seed"):
        train.train(replace(settings, seed=1), cache, tmp_path / "parts", compiled=False, **SIZES[name])


def test_n_gram_probabilities_sum_to_one_and_favour_what_was_seen() -> None:
    text = np.random.default_rng(0).choice(7, size=400, p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05]).astype(np.uint16)
    orders = baselines.count_orders(np.concatenate([text, text]), most=3)
    for context in ([1, 0], [6, 6], [5, 6]):
        endings = np.array([[*context, token] for token in range(7)], dtype=np.uint16)
        p = [baselines.probabilities(orders, ending, vocabulary=7)[-1] for ending in endings]
        assert sum(p) == pytest.approx(1, abs=1e-6)  # counts are kept in float32
    seen = baselines.probabilities(orders, text, vocabulary=7)
    unseen = baselines.probabilities(orders, text[::-1].copy(), vocabulary=7)
    assert np.log(seen).mean() > np.log(unseen).mean() + 0.1


@pytest.mark.parametrize(("count", "context", "stride"), [(10, 4, 3), (100, 16, 12), (5, 8, 8), (8, 8, 8), (9, 8, 8)])
def test_windows_score_every_token_but_the_first_once(count: int, context: int, stride: int) -> None:
    scored = [token for _, end, first in evaluate.windows(count, context, stride) for token in range(first, end)]
    assert scored == list(range(1, count))
    for start, _, first in evaluate.windows(count, context, stride):
        assert first > start


def test_windowed_losses_are_those_of_one_pass_where_the_window_holds_all(cache: Path) -> None:
    torch.manual_seed(0)
    model = build(configuration("tiny-mamba2", len(tokens.load_tokenizer(cache)), **SIZES["tiny-mamba2"])).eval()
    text = tokens.load_split(cache, "validation").tokens[:90]
    with fast_scans():
        whole = token_losses(model, torch.from_numpy(text.astype(np.int64))[None])[0]
        parts = evaluate.validation_losses(model, text, context=40, stride=30, batch=2)
    torch.testing.assert_close(parts[:39], whole[:39], rtol=1e-5, atol=1e-6)
    assert parts.shape == whole.shape
    assert torch.isfinite(parts).all()


def test_random_spans_are_repeated_and_natural_ones_too() -> None:
    random = induction.random_rows(vocabulary=50, count=3, span=8)
    assert torch.equal(random[:, :8], random[:, 8:])
    assert random.min() > 0
    natural = induction.natural_rows(np.arange(5000, dtype=np.uint16), count=3)
    first = natural[:, induction.OTHER : induction.OTHER + induction.SPAN]
    assert torch.equal(first, natural[:, -induction.SPAN :])


@pytest.mark.parametrize("name", NAMES)
def test_bundled_model_loads_and_knows_english(name: str) -> None:
    folder = WEIGHTS / name
    assert (folder / "model.safetensors").stat().st_size <= export.MOST_BYTES
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "She looked at him for a moment without speaking, and then she went out of the room and shut the door."
    rows = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(rows[0]) == text
    with fast_scans(), torch.no_grad():
        nats = float(token_losses(model, rows).mean())
    assert bits_per_byte(nats, len(text) / rows.shape[1]) < 1.8  # 3 or more where nothing was learnt


ROOT = Path(__file__).parents[2]


def test_commands_that_are_named_anywhere_exist() -> None:
    folders = ("training", "benchmarks", "docs", "zoo", "src", ".")
    pages = [page for folder in folders for page in ROOT.joinpath(folder).glob("**/*.md" if folder != "." else "*.md")]
    sources = [path for folder in ("training", "benchmarks", "src") for path in ROOT.joinpath(folder).rglob("*.py")]
    named = {
        (path.relative_to(ROOT), module)
        for path in [*pages, *sources, ROOT / "Makefile"]
        for module in re.findall(r"(?:-m |keep_pages\(\")((?:training|benchmarks)(?:\.\w+)+)", path.read_text("utf-8"))
    }
    assert len(named) > 30
    assert [one for one in sorted(named) if not ROOT.joinpath(*one[1].split(".")).with_suffix(".py").is_file()] == []


def test_a_program_that_starts_itself_again_names_itself() -> None:
    found = [
        (".".join(path.relative_to(ROOT).with_suffix("").parts), module)
        for path in ROOT.joinpath("training").rglob("*.py")
        for module in re.findall(r"keep_pages\(\"([\w.]+)\"\)", path.read_text("utf-8"))
    ]
    assert len(found) >= 6
    assert [one for one in found if one[0] != one[1]] == []
