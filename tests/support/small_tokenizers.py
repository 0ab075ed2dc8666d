"""Small tokenizers of each kind, made without files."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SIZE = 4096


def byte_level(*, trim=True, template=False, prefix=False, merges=True):
    """A byte-level BPE, as GPT-NeoX uses; no merge covers the emoji, so each becomes several tokens."""
    alphabet = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=2)}
    joined = [("Ġ", "M"), ("a", "r"), ("ar", "y"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©")] if merges else []
    vocabulary = {"<|end|>": 0, "<s>": 1} | alphabet
    for left, right in joined:
        vocabulary[left + right] = len(vocabulary)
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=joined))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=trim)
    if template:
        inner.post_processor = processors.Sequence(
            [
                inner.post_processor,
                processors.TemplateProcessing("<s> $A <|end|>", special_tokens=[("<s>", 1), ("<|end|>", 0)]),
            ]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|end|>")


def sentencepiece():
    """A unigram model with metaspaces and byte fallback, as Llama's family uses."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("▁", -2.0), ("▁Mary", -1.0), ("▁the", -1.0), ("store", -1.5), ("é", -3.0)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(chr(code), -4.0) for code in range(33, 127)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>")


def word_pieces():
    """Lower-cased words and pieces between [CLS] and [SEP], as BERT's family uses."""
    words = ["[UNK]", "[CLS]", "[SEP]", "when", "mary", "and", "john", "went", "to", "the", "st", "##ore", "cafe", ","]
    inner = Tokenizer(models.WordPiece({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
