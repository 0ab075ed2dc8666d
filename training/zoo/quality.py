"""Measure a task model's folder: `python -m training.zoo.quality zoo/copying-mamba2`. Float32 throughout."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from training import copying, hybrids, retrieval, sentiment
from training.language.corpus import data_folder
from training.language.evaluate import validation_losses
from training.running.loss import bits_per_byte
from training.running.scans import fast_scans
from training.translation import data as translation_data
from training.translation import train as translation
from training.translation.language_pairs import PAIRS, LanguagePair


def copying_quality(model: PreTrainedModel, count: int) -> dict[str, object]:
    """Return by length the shares of symbols and of whole strings copied right, over `count` random strings each."""
    figures = {}
    for length in copying.MEASURED:
        symbols, strings = copying.exactness(model, length, count)
        figures[str(length)] = {"symbols": symbols, "strings": strings}
    return figures


def translation_quality(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    languages: LanguagePair,
    cache: Path,
    count: int,
    beams: int,
) -> dict[str, object]:
    """Return loss, BLEU and chrF of translations of held-out Tatoeba, each source sentence once.

    The references of a sentence are all of its translations; `one_reference` scores against the first alone.
    """
    import sacrebleu

    references = defaultdict(list)
    for pair in translation_data.load_pairs(cache, "test"):
        references[pair.source].append(languages.joined(pair.target))
    sources = list(references)[:: max(1, len(references) // count)]
    translated = translation.translations(model, tokenizer, languages, sources, beams)
    most = max(len(references[sentence]) for sentence in sources)
    several = [[(references[s][k : k + 1] or [None])[0] for s in sources] for k in range(most)]
    score, alone = sacrebleu.metrics.BLEU(), sacrebleu.metrics.BLEU()
    figures: dict[str, object] = {
        "sentences": len(sources),
        "beams": beams,
        "bleu": score.corpus_score(translated, several).score,
        "bleu_one_reference": alone.corpus_score(translated, several[:1]).score,
        "chrf": sacrebleu.corpus_chrf(translated, several).score,
        "signature": str(score.get_signature()),
        "nats_per_target_token": translation.held_out_loss(model, translation_data.load_part(cache, "test")),
    }
    figures["examples"] = [[s, t] for s, t in list(zip(sources, translated, strict=True))[:: max(1, len(sources) // 8)]]
    return figures


def retrieval_quality(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, cache: Path, data: Path, count: int
) -> dict[str, float]:
    """Return by needles and length the share of first questions answered right to the last digit, held-out novels."""
    haystack = retrieval.Haystack(retrieval.haystacks(cache, data, tokenizer)["held-out"], tokenizer)
    return {
        f"{needles} in {length}": retrieval.found(model, haystack, length, needles, count)
        for length in retrieval.MEASURED_LENGTHS
        for needles in retrieval.MEASURED_NEEDLES
    }


def text_quality(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, cache: Path, data: Path, limit: int | None
) -> dict[str, float]:
    """Return the bits per byte of the held-out novels, or of their first `limit` tokens, as the bundled models'."""
    tokens = retrieval.haystacks(cache, data, tokenizer)["held-out"][:limit]
    with fast_scans():
        nats = float(validation_losses(model, tokens, context=1024, stride=768).mean())
    bytes_per_token = len(tokenizer.decode(tokens).encode()) / len(tokens)
    return {"tokens": len(tokens), "bits_per_byte": bits_per_byte(nats, bytes_per_token)}


def sentiment_quality(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: Path) -> dict[str, float]:
    """Return the shares of held-out sentences, and of held-out reviews' pieces, ends and wholes, judged right."""
    labels = [tokenizer.encode(label)[0] for label in sentiment.LABELS]
    sentences = sentiment.split(sentiment.read_sentences(data))["test"]
    reviews = sentiment.split(sentiment.read_reviews(data))["test"]
    figures = {"sentences": len(sentences), "reviews": len(reviews)}
    figures["sentence_accuracy"] = sentiment.accuracy(model, sentiment.encoded(sentences, tokenizer), labels)
    pieces = sentiment.encoded(reviews, tokenizer, sentiment.PIECE)
    figures["piece_accuracy"] = sentiment.accuracy(model, pieces, labels)
    for last in sentiment.MEASURED_ENDS:
        ends = sentiment.encoded(reviews, tokenizer, last=last)
        figures[f"last_{last}_accuracy"] = sentiment.accuracy(model, ends, labels)
    figures["whole_review_accuracy"] = sentiment.accuracy(model, sentiment.encoded(reviews, tokenizer), labels)
    return figures


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=256, help="examples of each kind (translation: sentences)")
    parser.add_argument("--beams", type=int, default=4, help="of the translations; 1 is greedy")
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA)")
    parser.add_argument("--limit", type=int, help="of a hybrid's held-out text, only so many tokens")
    parser.add_argument("--cache", type=Path, help="where the task's prepared data lie (default: runs/TASK-data)")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.folder)
    data, (task, *rest) = data_folder(options.data), options.folder.name.split("-")
    cache = options.cache or Path("runs") / f"{task}-data"
    if options.folder.name in hybrids.NAMES:
        cache = options.cache or Path("runs/retrieval-data")
        figures = text_quality(model, tokenizer, cache, data, options.limit)
        figures |= retrieval_quality(model, tokenizer, cache, data, options.count)
    elif task == "copying":
        figures = copying_quality(model, options.count)
    elif task == "translation":
        languages = PAIRS["-".join(rest[:2])]
        cache = options.cache or languages.cache
        translation_data.prepare(languages, cache, data)
        figures = translation_quality(model, tokenizer, languages, cache, options.count, options.beams)
    elif task == "retrieval":
        figures = retrieval_quality(model, tokenizer, cache, data, options.count)
    elif task == "sentiment":
        figures = sentiment_quality(model, tokenizer, data)
    else:
        parser.error(f"{options.folder.name} is no task model; its name should begin with its task.")
    print(json.dumps(figures, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
