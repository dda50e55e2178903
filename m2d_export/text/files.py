"""Files of texts, one a line."""

from pathlib import Path

from m2d_export.agreement import check_count
from m2d_export.host.files import read_text


def read_texts(path: Path, purpose: str = "agreement") -> tuple[str, ...]:
    """The distinct texts of a UTF-8 file, one a line, blank lines skipped, in their order.

    Raises DataError where the file cannot be read, is not UTF-8, or has fewer than 20 distinct texts.
    """
    # Split at line feeds alone, as every line counter does: str.splitlines also splits at U+2028 and the like.
    texts = tuple(dict.fromkeys(line.strip() for line in read_text(path).split("\n") if line.strip()))
    check_count(len(texts), str(path), purpose)
    return texts
