"""Tokenizers of three kinds, trained on the spot, for the tests of texts."""

from functools import cache

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from m2d_export.spec import TextSpec
from m2d_export.text.tokenizer import Tokenizer
from tests.support.checkpoints import tiny_tokenizer

PAD, CLS, SEP = 1, 3, 4  # ids of the tiny WordPiece
SPACES = [f"a{' ' * count}b{chr(10) * count}c" for count in range(1, 24)]  # so that runs of white space become tokens


def trained(rust: RustTokenizer, trainer: trainers.Trainer) -> str:
    """The ``tokenizer.json`` of a tokenizer that is trained now."""
    rust.train_from_iterator(["the cat sat on the mat", "naïve, isn't it?", *SPACES] * 4, trainer)
    places = [(token, rust.token_to_id(token)) for token in ("<s>", "</s>")]
    rust.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=places)
    return rust.to_str()


def word_piece() -> str:
    """As BERT: drops control characters, splits at white space, turns an unknown word into one token."""
    return str(tiny_tokenizer().backend_tokenizer.to_str())


def byte_bpe() -> str:
    """As RoBERTa and ModernBERT: white space belongs to tokens, and a run of it can be one token."""
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(rust, trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet))


def unigram() -> str:
    """As XLM-RoBERTa: replaces white space, then splits the text before each replacement."""
    rust = RustTokenizer(models.Unigram())
    rust.normalizer = normalizers.NFKC()
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    return trained(rust, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>"))


KINDS = {"WordPiece": word_piece, "byte BPE": byte_bpe, "Unigram": unigram}


@cache
def json_of(kind: str) -> str:
    """The ``tokenizer.json`` of a kind."""
    return KINDS[kind]()


@cache
def tokenizer_of(kind: str, max_tokens: int = 8, include_prompt: bool = True) -> Tokenizer:
    """The tokenizer under test."""
    return Tokenizer(json_of(kind), TextSpec(max_tokens, PAD, include_prompt=include_prompt))


@cache
def plain(kind: str, max_tokens: int) -> RustTokenizer:
    """The Rust tokenizer, which reads a whole text before it truncates."""
    rust = RustTokenizer.from_str(json_of(kind))
    rust.no_padding()
    rust.enable_truncation(max_tokens)
    return rust
