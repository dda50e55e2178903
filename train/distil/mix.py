"""The general English texts that keep exits good outside the user's texts: definitions and examples of WordNet 3.0.

    python -m train.distil.mix [FOLDER]

writes the two files of the package from FOLDER, as ``train.wordnet`` reads it; the default is /usr/share/wordnet.
"""

import gzip
import sys
from importlib.resources import files
from pathlib import Path

from m2d_export.errors import DataError, SpecError

from ..wordnet import FILES, LICENSE, definitions, examples
from .texts import sample_texts

NONE = "none"
MIX, MIX_LICENSE = "mix.txt.gz", "WORDNET-LICENSE"
OF_EACH_KIND = 30_000


def mix_texts(name: str | None, count: int, characters: int, seed: int) -> list[str]:
    """At most ``count`` texts of the mix ``name``: None for that of the package, "none", or a file of texts.

    Raises DataError for a file that cannot be read, and SpecError for one without texts.
    """
    if name == NONE:
        return []
    source = str(files(__package__).joinpath(MIX)) if name is None else name
    try:
        found = sample_texts([source], count, characters, seed).take(count)
    except DataError as error:
        raise DataError(f"--mix {error}, or --mix {NONE}") from error
    if not found:
        raise SpecError(f"--mix {name} has no texts: give a file of texts, or --mix {NONE}")
    return found


def write(folder: Path, target: Path) -> None:
    """Write as many definitions as examples, taken evenly, and the licence; the same bytes every time."""
    chosen = set()
    for texts in (definitions(folder), examples(folder)):
        places = (number * len(texts) // OF_EACH_KIND for number in range(OF_EACH_KIND))
        chosen |= {texts[place] for place in places}
    (target / MIX).write_bytes(gzip.compress("".join(f"{text}\n" for text in sorted(chosen)).encode(), mtime=0))
    lines = (folder / FILES[0]).read_text(encoding="utf-8").splitlines()
    licence = (line.lstrip(" 0123456789").rstrip() for line in lines if line.startswith(LICENSE))
    (target / MIX_LICENSE).write_text("\n".join(licence) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(*sys.argv[1:] or ["/usr/share/wordnet"]), Path(__file__).parent)
