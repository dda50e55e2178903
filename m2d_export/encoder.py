"""What users hold in Python: texts in, vectors out."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from m2d_export.bundle.bundle import Bundle
from m2d_export.errors import InputError
from m2d_export.runtimes import Closing, open_runtime
from m2d_export.runtimes.tuning import fastest_budget
from m2d_export.spec import Cell, Precision
from m2d_export.text.batches import batches, pad
from m2d_export.vectors import FloatArray, truncate

WINDOW = 8192  # texts tokenized and sorted at a time, so that memory does not grow with the input


class Encoder(Closing):
    """One cell of a bundle, loaded: ``layer`` blocks are run, the first ``dim`` numbers are kept.

    None is the deepest layer, and the checkpoint's own ``truncate_dim`` or else the full width. Vectors have unit
    length where the checkpoint normalises its own, unless ``normalize`` says otherwise. ``compute`` is what the runtime
    multiplies floats in, None what it does untold; ``threads`` how many it runs on, None every core (many texts are
    tokenized on as many as the variable ``RAYON_NUM_THREADS`` says, in the whole process). The first call of many
    texts opens the model once more for parallel streams, with weights of its own. So does, in the background, the 128th
    call of at most 32 tokens that took ONNX Runtime under 4 ms; such calls then take one thread or all, whichever has
    been quicker of late. ``cache`` is a folder of yours where what a runtime compiles (with OpenVINO up to three times,
    each about as large as its weights) is kept for the next time. Use it in a ``with`` block, or call ``close``.

    Raises SpecError, IntegrityError, RuntimeUnavailable.
    """

    def __init__(
        self,
        bundle: Bundle,
        layer: int | None = None,
        dim: int | None = None,
        *,
        runtime: str = "onnxrt",
        precision: str = Precision.FP32,
        compute: str | None = None,
        threads: int | None = None,
        normalize: bool | None = None,
        cache: str | Path | None = None,
    ) -> None:
        grid = bundle.grid
        full = grid.full
        self.cell = Cell(
            grid.check_layer(full.layer if layer is None else layer),
            grid.check_dim(dim if dim is not None else bundle.manifest.truncate_dim or full.dim),
        )
        self.normalize = bundle.manifest.normalize if normalize is None else normalize
        self._tokenizer = bundle.tokenizer
        self.runtime = open_runtime(
            runtime,
            bundle.variant(self.cell.layer, precision, runtime),
            threads,
            compute,
            None if cache is None else Path(cache).expanduser(),
        )
        self.token_budget = self.runtime.token_budget

    def encode(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> FloatArray:
        """Vectors of ``texts`` in their order: (n, dim) float32.

        ``prompt`` is put before every text, ``prompt_name`` picks one of the checkpoint's; with neither, the
        checkpoint's default applies if it has one. Raises InputError naming the item that is no valid string.
        """
        parts = list(self.stream(texts, prompt=prompt, prompt_name=prompt_name))
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, self.cell.dim), np.float32), *parts])

    def stream(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> Iterator[FloatArray]:
        """As ``encode``, in parts of up to 8,192 texts, in their order: each (n, dim) float32.

        No more than a part is held at a time, so a generator of any length takes the memory of one.
        """
        _check_several(texts)
        prefix = self._tokenizer.spec.prompt(prompt, prompt_name)
        return self._parts(texts, prefix)

    def tune(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> int:
        """Time ``texts``, such and as many as calls will bring, in batches of several sizes, and keep to the fastest.

        Returns ``token_budget``, the tokens that a batch may hold from now on, padding included: it depends on the
        machine, the runtime and the texts (OpenVINO runs few batches otherwise than many), and vectors do not depend
        on it. Raises InputError where there is no text.
        """
        _check_several(texts)
        tokens = self._tokenizer.encode(list(texts), self._tokenizer.spec.prompt(prompt, prompt_name))
        if not tokens:
            raise InputError("there is no text to time: pass such and as many as calls will bring")
        self.token_budget = fastest_budget(self.runtime, tokens, self._tokenizer.spec)
        return self.token_budget

    def _parts(self, texts: Iterable[str], prompt: str) -> Iterator[FloatArray]:
        first = 0
        for window in _windows(texts):
            yield self._encode_window(window, prompt, first)
            first += len(window)

    def _encode_window(self, texts: list[str], prompt: str, first_index: int) -> FloatArray:
        tokens = self._tokenizer.encode(texts, prompt, first_index)
        if len(texts) == 1:
            return truncate(self.runtime.vectors(pad(tokens, self._tokenizer.spec, [0])), self.cell.dim, self.normalize)
        vectors = np.empty((len(texts), self.cell.dim), dtype=np.float32)
        for batch, full in self.runtime.each(batches(tokens, self._tokenizer.spec, self.token_budget)):
            vectors[batch.rows] = truncate(full, self.cell.dim, self.normalize)
        return vectors

    def close(self) -> None:
        """Free the loaded model."""
        self.runtime.close()


def _check_several(texts: object) -> None:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"texts is one {type(texts).__name__}: pass a list of texts, such as [text]")


def _windows(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while window := list(islice(iterator, WINDOW)):
        yield window
