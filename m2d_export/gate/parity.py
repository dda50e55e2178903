"""A variant against its reference: the gate that every published file has passed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from m2d_export.agreement import agreement, yardstick
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import ParityError
from m2d_export.runtimes import Runtime
from m2d_export.spec import Precision
from m2d_export.text.batches import TokenIds, Tokenizer, batches, pad
from m2d_export.vectors import FloatArray, cosine, truncate

MIN_DISTINCTION = 1e-4  # how far the vectors of two unrelated texts differ at the least, or the output is constant
EXTRA_PADDING = 7
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
)  # the last is longer than most encoders read, so that truncation is compared too


@dataclass(frozen=True)
class Bounds:
    """What a precision must reach to be published."""

    cosine_min: float
    cosine_mean: float
    invariance: float
    agreement: float = 0.0
    invariance_cosine: float = 0.0


# int8: fitted on all-MiniLM-L6-v2 (docs/design.md, decision 9), then frozen. One value that is rounded the other way
# beside other neighbours changes numbers of a vector by some 1e-3.
BOUNDS = {
    Precision.FP32: Bounds(cosine_min=0.99999, cosine_mean=0.99999, invariance=1e-5),
    Precision.FP16: Bounds(cosine_min=0.9999, cosine_mean=0.99995, invariance=2e-3),
    Precision.BF16: Bounds(cosine_min=0.998, cosine_mean=0.999, invariance=1e-2),
    Precision.INT8: Bounds(
        cosine_min=0.99, cosine_mean=0.995, invariance=2e-3, agreement=98.0, invariance_cosine=0.999
    ),
}


@dataclass(frozen=True)
class Parity:
    """How close a variant is to the reference; differences are between unit vectors.

    ``cosine_min`` is the smallest over texts and dims; ``invariance`` the largest change of a text's vector
    between the text alone and in padded batches, ``invariance_cosine`` the smallest cosine of the two;
    ``distinction`` how far two unrelated texts differ. A quantized variant is compared on ordinary sentences at full
    width, where it also has ``agreement`` (Spearman x 100 of their cosines with the reference's);
    ``probes_cosine_min`` is then its smallest cosine on the probe texts. A half variant has ``peak``, the largest
    magnitude of what it rounds.
    """

    texts: int
    finite: bool
    cosine_min: float
    cosine_mean: float
    max_abs_diff: float
    invariance: float
    invariance_cosine: float
    distinction: float
    agreement: float | None = None
    probes_cosine_min: float | None = None
    peak: float | None = None

    def figures(self) -> dict[str, Any]:
        """What there is of it, as the manifest holds it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def failures(self, precision: Precision) -> list[str]:
        """What is out of bounds, in words; empty if the variant may be published."""
        if not self.finite:
            return ["it, or the reference, gives NaN or infinity"]
        problems, bounds = [], BOUNDS[precision]
        if not self.cosine_min >= bounds.cosine_min:  # so that NaN fails too
            problems.append(f"cosine to the reference is {self.cosine_min:.7f}, needs {bounds.cosine_min}")
        if not self.cosine_mean >= bounds.cosine_mean:
            problems.append(f"cosine to the reference is {self.cosine_mean:.7f} on average, needs {bounds.cosine_mean}")
        if self.agreement is not None and not self.agreement >= bounds.agreement:
            problems.append(f"agreement with the reference is {self.agreement:.1f}, needs {bounds.agreement:g}")
        if not self.invariance <= bounds.invariance:
            problems.append(
                f"a text alone and in a batch differ by {self.invariance:.1e}, allowed {bounds.invariance:.0e}"
            )
        if not self.invariance_cosine >= bounds.invariance_cosine:
            found, needed = self.invariance_cosine, bounds.invariance_cosine
            problems.append(f"a text alone and in a batch have cosine {found:.7f}, needs {needed}")
        if not self.distinction >= MIN_DISTINCTION:
            problems.append(f"two different texts differ by only {self.distinction:.1e}: its output is constant")
        return problems


def probe_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer) -> list[TokenIds]:
    """Token ids of the probe texts; raises ParityError where they are not the checkpoint's own.

    Where a prompt is read and not pooled, the texts behind one follow, so that the pooling's mask is tried too.
    """
    tokens = tokenizer.encode(PROBES)
    for text, item in zip(PROBES, tokens, strict=True):
        expected = checkpoint.reference_ids(text) or [tokenizer.spec.pad_id]  # what a text of no tokens becomes
        if list(item.ids) != expected:
            raise ParityError(
                f"the bundle's tokenizer reads {text[:40]!r} as {list(item.ids)[:8]}... ({len(item.ids)} tokens), "
                f"sentence-transformers as {expected[:8]}... ({len(expected)} tokens)"
            )
    return tokens if tokenizer.spec.include_prompt else tokens + tokenizer.encode(PROBES, PROMPT)


def check_reference(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Raise ParityError unless the reference's full depth is what sentence-transformers computes, prompts and all."""
    exits = ExitEncoder(checkpoint, [checkpoint.depth]).eval()
    for prompt in dict.fromkeys(["", *checkpoint.text.prompts.values()]):
        texts = [text for text in PROBES if checkpoint.reference_ids(prompt + text)]
        tokens = tokenizer.encode(texts, prompt)
        vectors = np.empty((len(texts), checkpoint.width), dtype=np.float32)
        for batch in batches(tokens, tokenizer.spec):
            vectors[batch.rows] = exits.vectors(batch)[0]
        expected = checkpoint.original.encode(texts, prompt=prompt, truncate_dim=checkpoint.width)
        least = float(cosine(vectors, expected).min())
        if not least >= BOUNDS[Precision.FP32].cosine_min:
            behind = f" behind the prompt {prompt!r}" if prompt else ""
            raise ParityError(
                f"the reference does not give sentence-transformers' own vectors{behind} (cosine {least:.7f}): this "
                "checkpoint asks for something that cannot be honoured"
            )


def reference_vectors(exits: ExitEncoder, tokenizer: Tokenizer, tokens: Sequence[TokenIds]) -> list[FloatArray]:
    """Each exit's vectors of every text alone: as many (n, width) as there are exits."""
    alone = [exits.vectors(pad([item], tokenizer.spec, [0])) for item in tokens]
    return [np.concatenate([vectors[exit_] for vectors in alone]) for exit_ in range(len(exits.layers))]


def compare(
    runtime: Runtime, reference: FloatArray, tokenizer: Tokenizer, tokens: Sequence[TokenIds], dims: Sequence[int]
) -> Parity:
    """Run the probe texts alone and in padded batches, and compare with ``reference`` (n, width)."""
    return _compared(vectors_alone(runtime, tokenizer, tokens), runtime, reference, tokenizer, tokens, dims)


def vectors_alone(runtime: Runtime, tokenizer: Tokenizer, tokens: Sequence[TokenIds]) -> FloatArray:
    """A runtime's vectors of every text alone: (n, width)."""
    return np.concatenate([runtime.vectors(pad([item], tokenizer.spec, [0])) for item in tokens])


def _compared(
    alone: FloatArray,
    runtime: Runtime,
    reference: FloatArray,
    tokenizer: Tokenizer,
    tokens: Sequence[TokenIds],
    dims: Sequence[int],
) -> Parity:
    spec, count = tokenizer.spec, len(tokens)
    plans = (
        (range(count), 0),  # all at once, padded to the longest
        (range(count - 2, -1, -1), 0),  # the other way round, without the longest
        *(((row, row + 1), EXTRA_PADDING) for row in range(0, count - 2, 2)),  # pairs, padded beyond need
    )
    with np.errstate(all="ignore"):
        width = reference.shape[1]
        unit = truncate(alone, width)
        changes, same = [], []
        for rows, extra in plans:
            chosen = [tokens[row] for row in rows]
            padded = min(max(len(item.ids) for item in chosen) + extra, spec.max_tokens)
            batch = pad(chosen, spec, rows, padded)
            batched, by_itself = truncate(runtime.vectors(batch), width), unit[list(rows)]
            changes.append(np.abs(batched - by_itself).max())
            same.append(cosine(batched, by_itself).min())
        cosines = np.stack([cosine(alone[:, :dim], reference[:, :dim]) for dim in dims])
        return Parity(
            texts=count,
            finite=all(bool(np.isfinite(values).all()) for values in (alone, reference, changes)),
            cosine_min=float(cosines.min()),
            cosine_mean=float(cosines.mean()),
            max_abs_diff=float(np.abs(unit - truncate(reference, width)).max()),
            invariance=float(np.max(changes)),
            invariance_cosine=float(np.min(same)),
            distinction=float(np.abs(unit[0] - unit[1]).max()),
        )


def compare_quantized(
    runtime: Runtime,
    references: tuple[FloatArray, FloatArray],
    tokenizer: Tokenizer,
    tokens: tuple[Sequence[TokenIds], Sequence[TokenIds]],
) -> Parity:
    """As ``compare``, for int8: of ordinary sentences, and of the probe texts what must hold for every text.

    ``references`` and ``tokens`` are those of the probe texts, then of the sentences.
    """
    width = references[1].shape[1]
    hostile = compare(runtime, references[0], tokenizer, tokens[0], (width,))
    alone = vectors_alone(runtime, tokenizer, tokens[1])
    found = _compared(alone, runtime, references[1], tokenizer, tokens[1], (width,))
    return replace(
        found,
        finite=found.finite and hostile.finite,
        invariance=max(found.invariance, hostile.invariance),
        invariance_cosine=min(found.invariance_cosine, hostile.invariance_cosine),
        distinction=min(found.distinction, hostile.distinction),
        agreement=agreement(alone, yardstick(references[1])).spearman,
        probes_cosine_min=hostile.cosine_min,
    )
