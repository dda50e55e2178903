"""Files of texts, one text in each line."""

from pathlib import Path

from m2d_export.agreement import check_count
from m2d_export.host.files import read_text


def read_texts(path: Path, purpose: str = "agreement") -> tuple[str, ...]:
    """The distinct texts of a UTF-8 file in their order, without blank lines; ``purpose`` stands in error messages.

    Raises DataError if the file cannot be read, is not UTF-8, or has fewer than 20 distinct texts.
    """
    # Not str.splitlines, which also splits at U+2028 and other characters that do not end a line of a text file.
    texts = tuple(dict.fromkeys(line.strip() for line in read_text(path).split("\n") if line.strip()))
    check_count(len(texts), str(path), purpose)
    return texts
