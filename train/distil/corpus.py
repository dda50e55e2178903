"""The texts of a distillation as token ids."""

import hashlib
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from m2d_export.agreement import MIN_TEXTS
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import DataError, SpecError
from m2d_export.text.tokenizer import TokenIds, Tokenizer

from .mix import mix_texts
from .settings import OWN_WEIGHT, Corpus
from .texts import Sample, sample_texts

log = logging.getLogger(__name__)
FEWEST, FEW = 200, 2000  # distinct texts: with fewer a distillation is refused, or warned of
ON_GPU = 500_000  # texts that are trained on there; on a CPU, where each step counts, they are those of the heads
HELD_OUT = 10  # one text of so many is held out
ENOUGH = 500  # if the user's texts give fewer to hold out, the mix gives some too
CHARACTERS = 8  # of a text that are kept for each token that is read of it
MEASURED = (  # benchmarks/results/few_texts.json
    "in our measurement, with no mix, 500 texts made exit 3 of all-MiniLM-L6-v2 worse on STS-B (from 55.9 to 54.6), "
    "2,000 gave 62.2, and 24,000 gave 72.9"
)


@dataclass(frozen=True)
class Reading:
    """Which texts are read: those in files and folders, ``paths``, and those of the ``mix``, as in ``mix_texts``.

    Heads are solved from at most ``max_texts``. Of each text, ``max_tokens`` are read.
    """

    paths: tuple[str, ...]
    mix: str | None = None
    max_texts: int = 24_000
    max_tokens: int = 128
    seed: int = 42


@dataclass(frozen=True)
class Texts:
    """Heads are solved from ``solved``; ``trained`` is for the steps, and has more texts on a GPU.

    ``own`` and ``mix`` are how many texts of either kind there are, held-out ones included. The user's files have
    ``read`` texts, with those that repeat. ``sha256`` is that of all texts in use.
    """

    solved: Corpus
    trained: Corpus
    own: int
    mix: int
    read: int
    sha256: str


def load_texts(checkpoint: Checkpoint, reading: Reading, device: str) -> Texts:
    """Read, sample and tokenize the texts, each with one of the checkpoint's prompts in front, in turn.

    Logs a warning for fewer than 2,000 distinct texts. Raises DataError for fewer than 200 and for files that cannot be
    read, and SpecError for a ``max_tokens`` that leaves no room for a text.
    """
    prompts = list(dict.fromkeys(checkpoint.text.prompts.values())) or [""]
    tokenizer = _tokenizer(checkpoint, reading.max_tokens, prompts)
    most = max(ON_GPU, reading.max_texts) if device == "cuda" else reading.max_texts
    characters = CHARACTERS * reading.max_tokens
    general = mix_texts(reading.mix, most, characters, reading.seed)
    sample = sample_texts(reading.paths, most, characters, reading.seed)
    own, mix = _chosen(sample, general, reading.max_texts)
    _check_count(sample, len(sample.take(most)), reading)
    held = own[: max(MIN_TEXTS, len(own) // HELD_OUT)]
    held += mix[: min(max(0, ENOUGH - len(held)), len(mix) // HELD_OUT)]
    held_out = _in_turn(tokenizer, prompts, held)

    def corpus(own: list[str], mix: list[str]) -> Corpus:
        left_out = set(held)
        first, second = ([text for text in texts if text not in left_out] for texts in (own, mix))
        return Corpus(_in_turn(tokenizer, prompts, first), _in_turn(tokenizer, prompts, second), held_out)

    solved = trained = corpus(own, mix)
    _check_tokens([*solved.own, *held_out], reading)
    if most > reading.max_texts:
        own, mix = _chosen(sample, general, most)
        trained = corpus(own, mix)
    digest = hashlib.sha256("".join(f"{text}\n" for text in (*own, *mix)).encode()).hexdigest()
    return Texts(solved, trained, len(own), len(mix), sample.read, digest)


def _chosen(sample: Sample, general: list[str], count: int) -> tuple[list[str], list[str]]:
    """At most ``count`` texts in all, the user's and those of the mix, which has its share or what the user leaves."""
    own = sample.take(int(count * OWN_WEIGHT / (OWN_WEIGHT + 1)) if general else count)
    known = set(own)
    return own, [text for text in general if text not in known][: count - len(own)]


def _check_count(sample: Sample, count: int, reading: Reading) -> None:
    what = f"{', '.join(reading.paths)}: {sample.read:,} texts, of which {count:,} differ"
    if count < FEWEST:
        raise DataError(f"{what}. Exits need at least {FEWEST} different texts to learn from: add texts")
    if reading.max_texts < FEW:
        log.warning("--max-texts %s is few: %s", f"{reading.max_texts:,}", MEASURED)
    elif count < FEW:
        log.warning("%s. These are few: %s. Add texts, of any kind that is in use", what, MEASURED)


def _check_tokens(tokens: Sequence[TokenIds], reading: Reading) -> None:
    """Raise DataError if most texts are the same for the checkpoint, such as words that its vocabulary lacks."""
    count = len({tuple(item.ids) for item in tokens})
    if count < FEWEST // 2:
        raise DataError(
            f"{', '.join(reading.paths)}: as the checkpoint reads the texts, only {count} differ: give texts in a "
            "language that it knows, or raise --max-tokens"
        )


def _tokenizer(checkpoint: Checkpoint, max_tokens: int, prompts: Sequence[str]) -> Tokenizer:
    """The checkpoint's tokenizer, which cuts texts at ``max_tokens``, or earlier if the checkpoint reads fewer."""
    whole = Tokenizer(checkpoint.tokenizer_json, checkpoint.text)
    least = 1 + max(len(whole.encode([""], prompt)[0].ids) for prompt in prompts)
    if max_tokens < least:
        raise SpecError(
            f"--max-tokens {max_tokens}: give at least {least}, because {least - 1} tokens do not belong to the text"
        )
    limit = min(max_tokens, checkpoint.text.max_tokens)
    return Tokenizer(checkpoint.tokenizer_json, replace(checkpoint.text, max_tokens=limit))


def _in_turn(tokenizer: Tokenizer, prompts: Sequence[str], texts: Sequence[str]) -> list[TokenIds]:
    """The token ids of texts in their order, each with the next of ``prompts``."""
    found: list[TokenIds] = [TokenIds(())] * len(texts)
    for place, prompt in enumerate(prompts):
        tokens = tokenizer.encode(texts[place :: len(prompts)], prompt)
        found[place :: len(prompts)] = [TokenIds(array("i", item.ids), item.prompt_length) for item in tokens]
    return found
