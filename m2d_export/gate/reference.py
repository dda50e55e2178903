"""The reference that graphs are compared with: the exits in PyTorch and float32. The deepest exit is checked first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import ParityError
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Precision, TextSpec
from m2d_export.text.batches import ATTENTION_BUDGET, Batch, batches, pad, sample_spec
from m2d_export.text.files import held_out_texts
from m2d_export.text.tokenizer import TokenIds, Tokenizer
from m2d_export.vectors import FloatArray, cosine

BATCH_SIZES, TOKENS = (1, 2, 32), (2, 16, 128)  # the shapes of ``shape_batches``
FEW = 2  # texts in a batch of sentence-transformers: more long texts would need much memory for attention
PROMPT = "represent this text: "

PROBES = (
    "A man is playing a guitar on the stage.",
    "Interest rates rose for the third month in a row.",
    "The cat sat on the mat.",
    "A cat was sitting on a mat.",
    "Is this seat taken?",
    "no",
    "",
    "   ",
    "3.14159, 1e-9 and 42",
    "def truncate(vectors, dim): return vectors[:, :dim]",
    "NAÏVE Café — “quoted”, dash–dash… and ﬁ ligatures",
    "Die Straßenbahn fährt heute nicht über die Brücke.",
    "Кошка спит на подоконнике.",
    "東京は日本の首都です。",
    "हिन्दी में एक वाक्य",
    "اللغة العربية تكتب من اليمين إلى اليسار",
    "👩‍👩‍👧‍👦 🏳️‍🌈 emoji",
    "tab\tand\nnewline\rand\u00a0no-break space",
    "[CLS] [SEP] <s> </s> [MASK] <mask> are words here",
    "Pneumonoultramicroscopicsilicovolcanoconiosis " * 3,
    "x" * 300,
    "The committee, which had met twice that week already, could not agree on the budget for the new library. " * 3,
    "one two three four five six seven eight nine ten " * 7,
    "A long report goes on and on about many things, none of which matters much. " * 60,
)  # most encoders truncate the last one, so truncation is compared too


@dataclass(frozen=True)
class Reference:
    """Token ids of texts, and their vectors from the exits in PyTorch. Each part is computed when it is first used.

    ``probes`` are the token ids of the probe texts. Vectors are compared at ``dims``.
    """

    exits: ExitEncoder
    tokenizer: Tokenizer
    dims: Sequence[int]
    probes: Sequence[TokenIds]

    @cached_property
    def probe_vectors(self) -> Mapping[int, FloatArray]:
        """The vectors (texts, width) of the probe texts, for each layer."""
        return self._vectors(self.probes)

    @cached_property
    def sentences(self) -> Sequence[TokenIds]:
        """The token ids of 200 ordinary sentences. Calibration does not use these sentences."""
        return self.tokenizer.encode(held_out_texts(), self.tokenizer.spec.prompt())

    @cached_property
    def sentence_vectors(self) -> Mapping[int, FloatArray]:
        """The vectors (texts, width) of ``sentences``, for each layer."""
        return self._vectors(self.sentences)

    @cached_property
    def shapes(self) -> Sequence[tuple[Batch, Mapping[int, FloatArray]]]:
        """Batches of many shapes. Each batch has its vectors (batch, width) for each layer."""
        return [
            (batch, dict(zip(self.exits.layers, self.exits.vectors(batch), strict=True)))
            for batch in shape_batches(self.probes, self.tokenizer.spec)
        ]

    def _vectors(self, tokens: Sequence[TokenIds]) -> dict[int, FloatArray]:
        """The vectors for each layer. Each text is a batch of its own, so that there is no padding."""
        parts = [self.exits.vectors(pad([item], self.tokenizer.spec, [0])) for item in tokens]
        return {layer: np.concatenate([part[place] for part in parts]) for place, layer in enumerate(self.exits.layers)}


def checked_reference(checkpoint: Checkpoint, exits: ExitEncoder, dims: Sequence[int]) -> Reference:
    """Compare the tokenizer and the deepest exit with sentence-transformers, and return the reference.

    Raises ParityError if token ids or vectors differ.
    """
    _check_ids(checkpoint, Tokenizer(checkpoint.tokenizer_json, checkpoint.text))
    tokenizer = Tokenizer(checkpoint.tokenizer_json, sample_spec(checkpoint.text))
    _check_full_depth(checkpoint, tokenizer)
    probes = tokenizer.encode(PROBES)
    if not tokenizer.spec.include_prompt:
        probes += tokenizer.encode(PROBES, PROMPT)  # these probes test the pooling mask
    return Reference(exits, tokenizer, dims, probes)


def _check_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Raise ParityError if the tokenizer and sentence-transformers give different ids to a probe text."""
    for text, item in zip(PROBES, tokenizer.encode(PROBES), strict=True):
        expected = checkpoint.reference_ids(text) or [tokenizer.spec.pad_id]  # one padding token if there are none
        if list(item.ids) != expected:
            raise ParityError(
                f"the bundle's tokenizer reads {text[:40]!r} as {list(item.ids)[:8]}... ({len(item.ids)} tokens), "
                f"but sentence-transformers reads it as {expected[:8]}... ({len(expected)} tokens): this tokenizer "
                "cannot be exported"
            )


def _check_full_depth(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Raise ParityError if the deepest exit and sentence-transformers give different vectors, with any prompt."""
    exits = ExitEncoder(checkpoint, [checkpoint.depth]).eval()
    for prompt in dict.fromkeys(["", *checkpoint.text.prompts.values()]):
        texts = [text for text in PROBES if checkpoint.reference_ids(prompt + text)]
        tokens = tokenizer.encode(texts, prompt)
        vectors = np.empty((len(texts), checkpoint.width), dtype=np.float32)
        for batch in batches(tokens, tokenizer.spec):
            vectors[batch.rows] = exits.vectors(batch)[0]
        checkpoint.original.max_seq_length = tokenizer.spec.max_tokens
        expected = checkpoint.original.encode(texts, prompt=prompt, batch_size=FEW, truncate_dim=checkpoint.width)
        checkpoint.original.max_seq_length = checkpoint.text.max_tokens
        if not (np.isfinite(expected).all() and expected.any(axis=1).all()):
            raise ParityError(
                "sentence-transformers itself gives vectors that are NaN, infinite or zero: a setting or a weight "
                "of this checkpoint is damaged, so it cannot be built"
            )
        smallest = float(cosine(vectors, expected).min())
        if not smallest >= PRECISIONS[Precision.FP32].bounds.cosine_min:  # NaN fails too
            behind = f" with the prompt {prompt!r}" if prompt else ""
            raise ParityError(
                f"the reference differs from sentence-transformers{behind} (cosine {smallest:.7f}): this checkpoint "
                "has a setting that the export cannot reproduce, so it cannot be built"
            )


def shape_batches(tokens: Sequence[TokenIds], spec: TextSpec) -> list[Batch]:
    """Batches of 1, 2 and 32 texts with 2, 16, 128 and ``max_tokens`` tokens, without padding and with padding."""
    stream = [token for item in tokens for token in item.ids if token != spec.pad_id]
    found = []
    for length in sorted({min(count, spec.max_tokens) for count in (*TOKENS, spec.max_tokens)}):
        for size in (size for size in BATCH_SIZES if size == 1 or size * length**2 <= ATTENTION_BUDGET):
            starts = [(7 * row + length) % len(stream) for row in range(size)]
            full = [[stream[(start + place) % len(stream)] for place in range(length)] for start in starts]
            cut = [row[: max(1, length - (number + 1) * length // (size + 1))] for number, row in enumerate(full)]
            found += [pad([TokenIds(row) for row in rows], spec, range(size), length) for rows in (full, cut)]
    return found
