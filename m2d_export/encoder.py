"""``Encoder``: texts in, vectors out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import NoReturn

import numpy as np

from m2d_export.bundle.disk import Bundle
from m2d_export.errors import InputError, NotFiniteError, RuntimeUnavailable
from m2d_export.host.files import expanded
from m2d_export.runtimes.runtime import Closing
from m2d_export.runtimes.table import open_runtime
from m2d_export.runtimes.tuning import fastest_budget
from m2d_export.spec import Cell, Precision, check_flag
from m2d_export.text.batches import batches, pad
from m2d_export.vectors import FloatArray, truncate_with_lengths

WINDOW = 8192  # how many texts are tokenized and sorted at a time, so that memory does not grow with the input


class Encoder(Closing):
    """A loaded cell of a bundle: it runs ``layer`` blocks and keeps the first ``dim`` numbers of each vector.

    Args:
        bundle: The bundle or its path.
        layer: An exit layer; None is the deepest one.
        dim: 1 to the encoder's width; None is the checkpoint's ``truncate_dim``, or the width if there is none.
        runtime: The name of the library that runs the graph. ``m2d_export.runtimes.table.RUNTIMES`` has all names.
        precision: The precision of the stored weights; the bundle must have been built with it.
        compute: The type that floats are multiplied in; None is the runtime's default.
        threads: CPU threads of the runtime; None is one per core. The tokenizer has its own threads: the
            environment variable ``RAYON_NUM_THREADS`` sets their number for the whole process.
        normalize: Whether vectors are scaled to unit length; if it is None, the checkpoint decides.
        cache: A folder for the code that a runtime compiles, so that the next process opens the encoder
            faster. OpenVINO stores up to three models there, and each is about as large as the weights.

    With onnxrt and openvino, the first call with many texts loads the model again, to run batches in parallel. Threads
    may share an encoder. Use it in a ``with`` block, or call ``close``.

    An encoder belongs to its process: after ``os.fork``, the child must open another encoder.

    Raises SpecError (no such layer, dim or option), BundleError (``bundle`` is not a bundle), IntegrityError (a file of
    the bundle was changed), RuntimeUnavailable (a package or a GPU is missing).
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
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
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle)
        default = bundle.default_cell
        self.cell = Cell(
            bundle.grid.check_layer(default.layer if layer is None else layer),
            bundle.grid.check_dim(default.dim if dim is None else dim),
        )
        self.normalize = bundle.manifest.normalize if normalize is None else check_flag(normalize, "normalize")
        self._tokenizer = bundle.tokenizer
        self.runtime = open_runtime(
            runtime,
            bundle.variant(self.cell.layer, precision, runtime),
            threads,
            compute,
            None if cache is None else expanded(cache),
        )
        self.token_budget = self.runtime.token_budget

    def encode(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> FloatArray:
        """Return one vector for each text, in the order of ``texts``: (n, dim) float32.

        ``prompt`` is put before every text. ``prompt_name`` chooses one of the checkpoint's prompts. If both are None,
        the checkpoint's default prompt is used, if there is one. Normalisation does not change a vector of zeros.
        Raises InputError if an item is not a valid string, and NotFiniteError if the vector of an item is not finite.
        Both errors have the item's place as ``index``. Raises SpecError for an unknown prompt, and RuntimeUnavailable
        in a forked process.
        """
        parts = list(self.stream(texts, prompt=prompt, prompt_name=prompt_name))
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, self.cell.dim), np.float32), *parts])

    def stream(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> Iterator[FloatArray]:
        """Like ``encode``, but yield the vectors in parts of up to 8,192 texts: (n, dim) float32.

        Memory holds one part at a time, so ``texts`` may be a generator of any length. Wrong options raise an error at
        the call. An invalid text raises InputError when its part is reached.
        """
        self.runtime.check_process()
        _check_texts(texts)
        prefix = self._tokenizer.spec.prompt(prompt, prompt_name)
        return self._parts(texts, prefix)

    def tune(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> int:
        """Time ``texts`` in batches of several sizes on this machine, and use the fastest size from now on.

        Returns this size: the largest number of tokens in a batch, with padding. The vectors do not depend on the size.
        Pass the texts of one of your calls, or as many similar texts. Raises InputError if there is no text.
        """
        self.runtime.check_process()
        _check_texts(texts)
        tokens = self._tokenizer.encode(list(texts), self._tokenizer.spec.prompt(prompt, prompt_name))
        if not tokens:
            raise InputError("there is no text to time: pass the texts of one of your calls")
        self.token_budget = fastest_budget(self.runtime, tokens, self._tokenizer.spec)
        return self.token_budget

    def _parts(self, texts: Iterable[str], prompt: str) -> Iterator[FloatArray]:
        iterator, first = iter(texts), 0
        while window := list(islice(iterator, WINDOW)):
            yield self._encode_window(window, prompt, first)
            first += len(window)

    def _encode_window(self, texts: list[str], prompt: str, first_index: int) -> FloatArray:
        self.runtime.check_process()  # the process may have been forked since the last part
        tokens = self._tokenizer.encode(texts, prompt, first_index)
        if len(texts) == 1:
            return self._cut(self.runtime.vectors(pad(tokens, self._tokenizer.spec, [0])), [0], first_index)
        vectors = np.empty((len(texts), self.cell.dim), dtype=np.float32)
        for batch, full in self.runtime.each(batches(tokens, self._tokenizer.spec, self.token_budget)):
            vectors[batch.rows] = self._cut(full, batch.rows, first_index)
        return vectors

    def _cut(self, full: FloatArray, rows: Sequence[int], first_index: int) -> FloatArray:
        """Cut ``full`` to the cell's vectors; raise NotFiniteError for the first row that is not finite."""
        vectors, lengths = truncate_with_lengths(full, self.cell.dim, self.normalize)
        if self.cell.dim < full.shape[1]:  # a broken model may show only in the numbers that are cut off
            _, lengths = truncate_with_lengths(full, full.shape[1], normalize=False)
        for row, (length,) in zip(rows, lengths.tolist(), strict=True):
            if not isfinite(length):
                raise NotFiniteError(
                    f"the vector of item {first_index + row} is not finite in {self.runtime.name}: use another "
                    "precision, compute or runtime, or build again from weights without NaN and infinity",
                    first_index + row,
                )
        return vectors

    def close(self) -> None:
        """Free the loaded model. A later call of ``encode`` raises SpecError."""
        self.runtime.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied or sent to another process, because the library's threads and memory stay here."""
        raise RuntimeUnavailable("an encoder cannot be copied or sent to another process: open it there")


def _check_texts(texts: object) -> None:
    """Raise InputError unless ``texts`` is a sequence of texts. Sets and dicts are refused: vectors need an order."""
    if isinstance(texts, list):  # the usual case is fast
        return
    has_order = isinstance(texts, Iterable) and not isinstance(texts, str | bytes | Mapping | set | frozenset)
    if not has_order or getattr(texts, "ndim", 1) != 1:  # a table would yield the names of its columns
        raise InputError(f"texts is {type(texts).__name__}, not a list of texts: pass a list, such as [text]")
