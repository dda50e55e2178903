"""Texts from files and folders: a random sample of the distinct ones, in memory that does not grow with the files."""

import codecs
import gzip
import hashlib
import heapq
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from m2d_export.errors import DataError
from m2d_export.host.checks import json_line
from m2d_export.host.files import expanded

log = logging.getLogger(__name__)
PACKED, LINES = ".gz", ".jsonl"
OF_FOLDERS = (".txt", ".md", LINES)  # the files of a folder that are read, also packed
TABLES = (".csv", ".tsv", ".json", ".parquet")
LONGEST = 1 << 20  # bytes of a line of plain text; the rest of a longer one is not read
LONGEST_OBJECT = 1 << 26  # bytes of a line of JSON
FILES_PER_SHARE = 10  # texts that a file can have at least; with more files, all of them share one sample


class Sample:
    """A random sample of at most ``count`` distinct texts, with the same number from each file as far as it has them.

    A text is cut at ``characters``. ``seed`` decides which texts are taken, and their order; neither depends on the
    order of texts in a file. ``read`` is the number of texts in all files, with those that repeat.
    """

    def __init__(self, count: int, characters: int, seed: int) -> None:
        self.count, self.characters, self.read = count, characters, 0
        self._key = seed.to_bytes(8, "big")
        self._heaps: dict[object, list[tuple[int, str]]] = {}  # for each file, the texts with the smallest hashes
        self._hashes: dict[object, set[int]] = {}
        self._share, self._held = count, 0

    def add(self, source: object, text: str) -> None:
        """Add a text of the file ``source``."""
        self.read += 1
        own = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=self._key).digest(), "big")
        heap, hashes = self._heaps.setdefault(source, []), self._hashes.setdefault(source, set())
        if own in hashes or (len(heap) >= self._share and own >= -heap[0][0]):
            return
        heapq.heappush(heap, (-own, text[: self.characters]))
        hashes.add(own)
        self._held += 1
        if len(heap) > self._share:
            self._drop(source)
        if self._held > 2 * self.count:
            self._share = fair_share([len(found) for found in self._heaps.values()], self.count)
            for source, found in self._heaps.items():
                while len(found) > self._share:
                    self._drop(source)

    def _drop(self, source: object) -> None:
        largest, _ = heapq.heappop(self._heaps[source])
        self._hashes[source].remove(-largest)
        self._held -= 1

    def take(self, count: int) -> list[str]:
        """At most ``count`` distinct texts in random order; a smaller sample is a part of a larger one."""
        share = fair_share([len(heap) for heap in self._heaps.values()], count)
        taken = [pair for heap in self._heaps.values() for pair in heapq.nlargest(share, heap)]
        return list(dict.fromkeys(text for _, text in sorted(taken, reverse=True)))[:count]


def fair_share(sizes: Sequence[int], count: int) -> int:
    """The largest share, at least 1, such that ``count`` is not exceeded if each of ``sizes`` gives at most that."""
    left = count
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return max(1, share)
        left -= size
    return max(1, count)


def sample_texts(paths: Sequence[str | Path], count: int, characters: int, seed: int) -> Sample:
    """A sample of the texts in ``paths``, which are files and folders.

    A file has one text in each line or, if it ends in .jsonl, an object with the field ``text``; either may be packed
    with gzip and then ends in .gz. Raises DataError for a file that cannot be read or is no text.
    """
    files = [file for path in paths for file in _files(expanded(path))]
    sample = Sample(count, characters, seed)
    for file in files:
        for text in texts_of(file):
            sample.add(file if len(files) * FILES_PER_SHARE <= count else None, text)
    return sample


def _files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder and of the folders in it, sorted, without hidden ones."""
    if not path.is_dir():
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        wanted = (name for name in names if name.lower().endswith((*OF_FOLDERS, PACKED)))
        paths = [Path(folder, name) for name in sorted(wanted) if not name.startswith(".")]
        found += [path for path in paths if path.is_file() or not path.exists()]  # a pipe would wait; a dead link fails
    if not found:
        raise DataError(
            f"{path} has no texts: of a folder, files that end in {', '.join((*OF_FOLDERS, PACKED))} are read"
        )
    return found


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a file, stripped, without blank ones; raises DataError."""
    name = path.name.lower().removesuffix(PACKED)
    if name.endswith(TABLES):
        log.warning("%s is read as plain text: every line is one text", path)
    for number, line in enumerate(_lines(path, LONGEST_OBJECT if name.endswith(LINES) else LONGEST), 1):
        where = f"{path}, line {number}"
        text = line.strip()
        if text and name.endswith(LINES):
            text = _field(json_line(line, where), where)
        if "\0" in text:
            raise DataError(f"{where} has a zero byte: it is no text. Give files of UTF-8 text")
        if text:
            yield text


def _field(value: object, where: str) -> str:
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise DataError(
            f'{where} has no text: expected an object with a string, such as {{"text": "A man is playing."}}'
        )
    return text.encode("utf-8", "replace").decode().strip()  # JSON can hold half of a surrogate pair


def _lines(path: Path, longest: int) -> Iterator[str]:
    """The lines of a file as text, each cut at ``longest`` bytes; raises DataError."""
    number = 0
    try:
        with (gzip.open if path.name.lower().endswith(PACKED) else open)(path, "rb") as file:
            while line := file.readline(longest):
                number += 1
                more = line
                while len(more) == longest and not more.endswith(b"\n") and b"\0" not in more:
                    more = file.readline(longest)
                if b"\0" in more:  # perhaps no line ever ends
                    raise DataError(f"{path}, line {number} has a zero byte: it is no text. Give files of UTF-8 text")
                is_cut = more is not line
                if is_cut and longest == LONGEST_OBJECT:
                    raise DataError(f"{path}, line {number} is over {longest >> 20} MB: split it into several texts")
                text, _ = codecs.utf_8_decode(line, "strict", not is_cut)
                yield text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (line {number}): give files of UTF-8 text") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is no whole gzip file ({error}): pack it again, or give it without {PACKED}"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Give files or folders of texts") from error
