"""The task models' training: what their data promise, that their loop resumes, and that decoding is the model's own."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from mambascope.evaluate.tasks import find_task
from rounding import assert_trained_alike
from training import copying, retrieval, sentiment
from training.running import loop
from training.running.architectures import build, configuration
from training.running.bundled_start import bundled
from training.running.mimetic import start_recall
from training.running.scans import fast_scans
from training.translation import data as translation_data
from training.translation import parallel_text, spacing
from training.translation.decode import beam, greedy
from training.translation.language_pairs import PAIRS as LANGUAGES
from training.translation.parallel_text import Pair
from training.zoo import export as zoo

# transformers says once per process that it runs without CUDA kernels
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers.*")

FAMILIES = ("mamba", "mamba2")
SIZES = {
    "mamba": {"name": "tiny-mamba", "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "time_step_rank": 2},
    "mamba2": {
        "name": "tiny-mamba2",
        "hidden_size": 32,
        "state_size": 8,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_heads": 4,
    },
}
PAIRS = [
    Pair(spaced_en, spaced_fr)
    for k in range(200)
    for spaced_en, spaced_fr in ((f"I see {k} cats .", f"je vois {k} chats ."), (f"I see {k} cats !", f"{k} chats !"))
]


def small(family: str, vocabulary: int) -> PreTrainedModel:
    """A model with weights from N(0, 0.4), so that nothing hides behind the skip."""
    torch.manual_seed(0)
    model = build(configuration(vocabulary=vocabulary, **SIZES[family])).eval()
    with torch.no_grad():
        model.backbone.embeddings.weight.normal_(0, 0.4)
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.normal_(0, 0.4)
    return model


@pytest.mark.parametrize(
    ("text", "french", "spaced"),
    [
        ("I don't know.", False, "I don't know ."),
        ("my mother 's two-thirds", False, "my mother's two - thirds"),
        ("L'homme n’est-il pas là ?", True, "L' homme n' est - il pas là ?"),
        ("Il est 2.30, dit M. Dupont…", True, "Il est 2.30 , dit M. Dupont …"),
    ],
)
def test_words_and_punctuation_are_parted_as_in_the_hansards(text: str, french: bool, spaced: str) -> None:
    assert spacing.hansards(text, french) == spaced
    assert spacing.hansards(spaced, french) == spaced


@pytest.mark.parametrize(
    ("text", "english", "spaced"),
    [
        ("Mr. Barnier's six-year plan doesn't work.", True, "mr barnier 's six-year plan doesn 't work ."),
        ("At 2:30 p.m., my parents’ house!", True, "at 2:30 p.m. , my parents ' house !"),
        ("week ' s 13% , “yes”", True, "week ' s 13 % , “ yes ”"),
        ("„Geht’s?“, fragte Dr. Öl am 20. Mai.", False, "„ geht 's ? “ , fragte dr . öl am 20. mai ."),
        ("Der EU-Haus\u00adhalt – 1.000,50\u202f€", False, "der eu-haushalt – 1.000,50 €"),
    ],
)
def test_words_and_punctuation_are_parted_as_in_europarl(text: str, english: bool, spaced: str) -> None:
    assert spacing.europarl(text, english) == spaced
    assert spacing.europarl(spaced, english) == spaced


@pytest.mark.data
def test_german_english_training_text_is_spaced_as_the_gold_is(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBASCOPE_DATA", str(data))
    gold = find_task("alignment-de-en").samples(None)
    assert len(gold) == 100
    for sample in gold:
        for side, english in (("source", False), ("target", True)):
            assert spacing.europarl(" ".join(sample.data[side]), english).split() == sample.data[side]


def test_sentences_are_put_together_again() -> None:
    assert spacing.joined_french("L' homme n' est - il pas là ?") == "L'homme n'est-il pas là ?"
    assert spacing.joined_french("Donne - moi du temps .") == "Donne-moi du temps."
    assert spacing.joined_english("mr barnier 's plan doesn 't work , does it ?") == (
        "mr barnier's plan doesn't work, does it?"
    )


def test_no_held_out_sentence_is_trained_on_in_either_language() -> None:
    novel = [Pair(f"Novel {k} .", pair.target) for k, pair in enumerate(PAIRS)]
    parts = parallel_text.split(PAIRS, always_training=[*novel, Pair("A .", "B .")])
    assert len(parts.validation) + len(parts.test) > 5
    for side in ("source", "target"):
        trained = {parallel_text.sentence_key(getattr(pair, side)) for pair in parts.training}
        for held in (parts.validation, parts.test):
            assert not trained & {parallel_text.sentence_key(getattr(pair, side)) for pair in held}
    validated, tested = (
        {parallel_text.sentence_key(p.source) for p in part} for part in (parts.validation, parts.test)
    )
    assert not validated & tested
    assert Pair("A .", "B .") in parts.training
    again = parallel_text.split(list(reversed(PAIRS)))
    assert {p.source for p in again.test} == {p.source for p in parts.test}


def tatoeba(folder: Path, archive: str, member: str, lines: Iterable[tuple[str, str]]) -> Path:
    """Write a small Tatoeba archive into a data folder."""
    (folder / "par_tatoeba").mkdir(parents=True)
    with zipfile.ZipFile(folder / "par_tatoeba" / archive, "w") as opened:
        opened.writestr(member, "".join(f"{english}\t{other}\n" for english, other in lines))
    return folder


def test_german_is_the_source_and_leaks_on_neither_side(tmp_path: Path) -> None:
    """English sentences repeat in Tatoeba with several German ones: each is trained on or held out as a whole."""
    german = [(f"I see {k // 3} cats.", f"{what} {k // 3} Katzen!") for k in range(600) for what in ("Ich sehe", "Da")]
    parts = LANGUAGES["de-en"].split(tatoeba(tmp_path, "deu-eng.zip", "deu.txt", german))
    assert Pair("da 7 katzen !", "i see 7 cats .") in parts.training + parts.validation + parts.test
    held = parts.validation + parts.test
    assert len(held) > 5
    assert not {pair.target for pair in held} & {pair.target for pair in parts.training}
    assert not {pair.source for pair in held} & {pair.source for pair in parts.training}
    assert not {pair.source for pair in parts.validation} & {pair.source for pair in parts.test}


def test_pairs_in_company_keep_their_sentences_beside_each_other() -> None:
    rows = parallel_text.with_company(PAIRS)
    alone = [row for row in rows if row in PAIRS]
    together = [row for row in rows if row not in PAIRS]
    ends = re.compile(r"(?<=[.!]) ")
    taken_apart = [
        Pair(*both) for row in together for both in zip(ends.split(row.source), ends.split(row.target), strict=True)
    ]
    assert {len(ends.split(row.source)) for row in together[:-1]} == {2, 3}
    assert sorted(map(str, [*alone, *taken_apart])) == sorted(map(str, PAIRS))
    assert 0.2 < len(taken_apart) / len(PAIRS) < 0.5
    assert parallel_text.with_company(list(reversed(PAIRS)))[-3:] == rows[-3:]


def test_prepared_text_of_other_languages_is_refused(tmp_path: Path) -> None:
    lines = [(f"I see {k} cats.", f"Ich sehe {k} Katzen.") for k in range(300)]
    data, cache = tatoeba(tmp_path / "data", "deu-eng.zip", "deu.txt", lines), tmp_path / "cache"
    translation_data.prepare(LANGUAGES["de-en"], cache, data)
    translation_data.prepare(LANGUAGES["de-en"], cache, data)
    tokenizer, pairs = translation_data.load_tokenizer(cache), translation_data.load_pairs(cache, "training")
    row = translation_data.load_part(cache, "training").row(0).tolist()
    assert row == [*tokenizer.encode(f"{pairs[0].source} <sep> {pairs[0].target}", add_special_tokens=False), 0]
    assert pairs[0].source.endswith("katzen .")
    with pytest.raises(ValueError, match="holds the text of de-en, not of en-fr"):
        translation_data.prepare(LANGUAGES["en-fr"], cache, data)


@pytest.fixture(scope="module")
def translation() -> tuple[translation_data.EncodedPairs, translation_data.PreTrainedTokenizerFast]:
    tokenizer = translation_data.train_tokenizer((text for p in PAIRS for text in (p.source, p.target)), 300)
    return translation_data.encode_pairs(PAIRS, tokenizer), tokenizer


def test_separator_takes_the_space_before_it(translation: tuple) -> None:
    rows, tokenizer = translation
    text = f"{PAIRS[0].source} <sep> {PAIRS[0].target}"
    assert [*tokenizer.encode(text, add_special_tokens=False), 0] == rows.row(0).tolist()


def test_loss_is_on_the_target_and_its_end_alone(translation: tuple) -> None:
    rows, tokenizer = translation
    batch = translation_data.padded(rows, [0, 7], length=40)
    for row, learnt, index in zip(batch.rows, batch.learnt, (0, 7), strict=True):
        target = [*tokenizer.encode(PAIRS[index].target, add_special_tokens=False), translation_data.END]
        assert row[1:][learnt].tolist() == target
        assert row[: len(rows.row(index))].tolist() == rows.row(index).tolist()


def test_an_epoch_shows_every_pair_once_in_batches_that_fit(translation: tuple) -> None:
    rows, _ = translation
    batches = translation_data.PairBatches(rows, tokens=128, seed=1, lengths=(12, 16, 24))
    seen = []
    for step in range(batches.batches_per_epoch):
        batch = batches.step(step)
        assert batch.rows.shape[1] in (12, 16, 24)
        assert batch.rows.numel() <= 128
        seen += [tuple(row.tolist()) for row in batch.rows]
    assert len(seen) == len(set(seen))
    fitting = int((rows.lengths <= 24).sum())
    assert fitting - 3 * 10 < len(seen) <= fitting
    again = translation_data.PairBatches(rows, tokens=128, seed=1, lengths=(12, 16, 24))
    assert torch.equal(again.step(5).rows, batches.step(5).rows)
    assert torch.equal(again.step(5).learnt, batches.step(5).learnt)


def test_copy_rows_hold_the_string_twice_and_learn_the_second() -> None:
    batch = copying.copy_batch(np.random.default_rng(0), 3, 7)
    assert torch.equal(batch.rows[:, :7], batch.rows[:, 8:15])
    assert (batch.rows[:, 7] == copying.SEPARATOR).all()
    assert (batch.rows[:, -1] == copying.END).all()
    assert torch.equal(batch.rows[:, 1:][batch.learnt].view(3, 8), batch.rows[:, 8:])
    tokenizer = copying.tokenizer()
    assert tokenizer.encode("abz | ab") == [2, 3, 27, 1, 2, 3]
    assert len(tokenizer) == copying.FIRST_SYMBOL + len(copying.SYMBOLS)


def test_needles_hold_the_digits_that_are_asked() -> None:
    tokenizer = bundled("tiny-mamba2")[1]
    text = np.array(tokenizer.encode("He went out. " * 300), np.uint16)
    haystack = retrieval.Haystack(text, tokenizer)
    sample = haystack.needles(np.random.default_rng(0), 4, 160, 3)
    assert sample.rows.shape == (4, 160)
    for row, values, asked, learnt in zip(sample.rows, sample.values, sample.asked, sample.batch.learnt, strict=True):
        np.testing.assert_array_equal(row[values], row[asked])
        assert np.isin(row[values], haystack.digits).all()
        assert sorted(row[1:][learnt.numpy()]) == sorted(row[asked].ravel())
        size = len(haystack.sentences[0])
        for value, question in zip(values, asked, strict=True):
            begins = (value[-1] + 2 - size, question[-1] + 2 - size)
            np.testing.assert_array_equal(*(row[begin : begin + size] for begin in begins))


def test_rows_of_needles_grow_and_some_tell_words_instead() -> None:
    tokenizer = bundled("tiny-mamba2")[1]
    text = np.array(tokenizer.encode("He went out. " * 300), np.uint16)
    haystack = retrieval.Haystack(text, tokenizer)
    task = retrieval.Retrieval(haystack, haystack, tokens=700, seed=0, grow=(40, 80))
    early, late = ([task.step(first + k) for k in range(40)] for first in (0, 80))
    six = 6 * 2 * (haystack.sentences.shape[1] + retrieval.DIGITS - 1) + retrieval.LEAST_HAY
    assert max(batch.rows.shape[1] for batch in early) <= max(retrieval.SHORT, six)
    assert 300 < max(batch.rows.shape[1] for batch in late) <= retrieval.LONG
    assert retrieval.SHORT < task.longest(60) < retrieval.LONG
    for batch in early:
        assert (batch.learnt.sum(1) % retrieval.DIGITS == 0).all(), "every needle is asked for"
    told = [batch for batch in late if batch.learnt.sum() == len(batch.rows)]
    assert 1 <= len(told) <= 12
    for row, learnt in zip(told[0].rows, told[0].learnt, strict=True):
        word = tokenizer.decode(row[1:][learnt])
        parts = tokenizer.decode(row).split("The word is ")[1:]
        counts = {part.split(".")[0]: 0 for part in parts}
        for part in parts[:-1]:
            counts[part.split(".")[0]] += 1
        assert max(counts, key=lambda key: counts[key]) == word.strip()
        assert parts[-1] == f"{word.strip()}."
    assert torch.equal(task.step(90).rows, task.step(90).rows)


def test_reviews_end_in_a_cue_and_one_token_of_judgement() -> None:
    tokenizer = bundled("tiny-mamba")[1]
    rows = sentiment.encoded([sentiment.Review("a dull film .", False), sentiment.Review("fine .", True)], tokenizer)
    assert [tokenizer.decode(rows.row(k)) for k in (0, 1)] == [" a dull film . It was bad", " fine . It was good"]
    batch = translation_data.padded(rows, [0, 1], 20)
    assert [tokenizer.decode([t]) for t in batch.rows[:, 1:][batch.learnt]] == [" bad", " good"]
    pieces = sentiment.encoded([sentiment.Review("a dull film . " * 20, False)], tokenizer, piece=16)
    assert pieces.lengths.max() == 16 + 2 + 1
    end = sentiment.encoded([sentiment.Review("dull " * 30 + "but very , very funny .", True)], tokenizer, last=4)
    assert tokenizer.decode(end.row(0)).endswith(" funny . It was good")
    assert len(end.row(0)) == 4 + 2 + 1
    parts = sentiment.split([sentiment.Review(str(k), True) for k in range(300)])
    assert sorted(len(part) for part in parts.values())[0] > 3
    assert sum(len(part) for part in parts.values()) == 300


@pytest.mark.parametrize("family", FAMILIES)
def test_started_layer_hardly_forgets_and_reads_by_what_it_wrote(family: str) -> None:
    torch.manual_seed(0)
    model = build(configuration(vocabulary=30, **SIZES[family]))
    before = model.backbone.layers[0].mixer.A_log.clone()
    start_recall(model)
    assert torch.equal(model.backbone.layers[0].mixer.A_log, before)
    mixer = model.backbone.layers[1].mixer
    assert float(mixer.A_log.detach().exp().median()) < 0.01
    weight, N = (mixer.x_proj.weight[2:], 4) if family == "mamba" else (mixer.in_proj.weight[128:144], 8)
    B, C = weight[:N].detach().flatten(), weight[N : 2 * N].detach().flatten()
    assert torch.corrcoef(torch.stack([B, C]))[0, 1] > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_in_batches_is_the_models_own_greedy(family: str) -> None:
    model, rng = small(family, 12), np.random.default_rng(0)
    prefixes = [rng.integers(1, 12, size=length).tolist() for length in (5, 3, 5, 9, 1)]
    decoded = greedy(model, prefixes, end=0, most=10)
    assert len({tuple(tokens) for tokens in decoded}) > 1
    for prefix, tokens in zip(prefixes, decoded, strict=True):
        row = list(prefix)
        while len(row) < len(prefix) + 10:
            with torch.no_grad():
                row.append(int(model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
            if row[-1] == 0:
                row.pop()
                break
        assert tokens == row[len(prefix) :]


def test_beam_search_finds_what_is_likelier_per_token_than_greedy() -> None:
    model, rng = small("mamba2", 8), np.random.default_rng(0)
    prefixes = [rng.integers(1, 8, size=length).tolist() for length in (4, 4, 6, 2)]

    def score(prefix: list[int], tokens: list[int]) -> float:
        row = torch.tensor([[*prefix, *tokens, 0]])
        with torch.no_grad():
            chances = model(row, use_cache=False).logits[0].log_softmax(-1)
        return float(chances[len(prefix) - 1 : -1].gather(1, row[0, len(prefix) :, None]).mean())

    one, several, all_of_two = (beam(model, prefixes, 0, beams, most) for beams, most in ((1, 6), (8, 6), (8, 2)))
    better = [score(p, s) - score(p, o) for p, o, s in zip(prefixes, one, several, strict=True)]
    assert min(better) > -1e-5  # float32
    assert max(better) > 0.1
    for prefix, tokens in zip(prefixes, all_of_two, strict=True):
        candidates = [[], *([token] for token in range(1, 8))]
        assert score(prefix, tokens) == pytest.approx(max(score(prefix, c) for c in candidates), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_task_ends_as_the_uninterrupted_one(family: str, tmp_path: Path) -> None:
    settings = loop.Settings("copying", SIZES[family], steps=6, warmup=2, decay=2)
    task = copying.Copying(tokens=64, seed=0, lengths=(4, 8))
    quiet = loop.Reporting(log_steps=2, validation_steps=99)
    task.validate = lambda model: {"figure": 0.5}

    def fresh() -> PreTrainedModel:
        torch.manual_seed(0)
        return build(configuration(vocabulary=28, **SIZES[family]))

    def run(folder: str, stop: int | None = None) -> dict[str, torch.Tensor]:
        return loop.train(settings, fresh(), task, tmp_path / folder, quiet, stop_after=stop).state_dict()

    whole = run("whole")
    run("parts", 4)
    assert_trained_alike(run("parts"), whole, fresh().state_dict())
    steps = [line.split(",")[0] for line in (tmp_path / "parts" / "curve.csv").read_text().split()]
    assert steps == ["step", "2", "4", "6"]
    assert (tmp_path / "parts" / "validation.csv").read_text().split() == ["step,figure", "4,0.5000", "6,0.5000"]


def test_training_lowers_the_loss_of_what_is_learnt_alone() -> None:
    model = build(configuration(vocabulary=28, **SIZES["mamba2"]))
    batch = copying.copy_batch(np.random.default_rng(0), 4, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        with fast_scans():
            losses.append(loop.masked_loss(model, batch))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5
    logits = model(batch.rows[:, :-1], use_cache=False).logits
    whole = torch.nn.functional.cross_entropy(logits[batch.learnt], batch.rows[:, 1:][batch.learnt])
    torch.testing.assert_close(loop.masked_loss(model, batch), whole, rtol=1e-4, atol=1e-5)
    weighted = loop.masked_loss(model, loop.Batch(batch.rows, 3 * batch.learnt.float()))
    torch.testing.assert_close(weighted, whole, rtol=1e-4, atol=1e-5)


ZOO = Path(__file__).parents[2] / "zoo"
EXPORTED = [name for name in zoo.NAMES if (ZOO / name / "model.safetensors").exists()]


@pytest.mark.parametrize("name", EXPORTED)
def test_model_of_the_zoo_loads_with_its_tokenizer(name: str) -> None:
    folder = ZOO / name
    assert (folder / "model.safetensors").stat().st_size <= zoo.MOST_BYTES
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size
    if name.startswith("copying"):
        assert copying.exactness(model, 16, 8)[0] > 0.95
    if name.startswith("translation-de-en"):
        prefix = tokenizer.encode("ich bin sehr müde . <sep>", add_special_tokens=False)
        assert "tired" in tokenizer.decode(greedy(model, [prefix], end=0, most=12)[0])
    elif name.startswith("translation"):
        prefix = tokenizer.encode("I am happy . <sep>", add_special_tokens=False)
        assert "suis" in tokenizer.decode(greedy(model, [prefix], end=0, most=12)[0])
