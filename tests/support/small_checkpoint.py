"""A complete checkpoint folder, made in a moment: a random stock model with a byte-level tokenizer of its own."""

from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from models import stock_model

SENTENCES = ["When Mary and John went to the store, John gave a drink to Mary.", "The cat sat on the mat."] * 5


def make_checkpoint(folder: Path, family: str = "mamba", vocab_size: int = 300, **options) -> Path:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(SENTENCES, vocab_size=300, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, clean_up_tokenization_spaces=False)
    stock_model(family, vocab_size=vocab_size, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
