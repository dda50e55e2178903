"""Sentences without scores: the examples that WordNet quotes, from Debian's package ``wordnet-base``.

    python -m train.wordnet [--definitions] [FOLDER] > sentences.txt

FOLDER holds data.noun, data.verb, data.adj and data.adv, /usr/share/wordnet by default. The definitions are for
looking at what a model does on text that it was not trained on.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
LICENSE = "  "  # what the lines of its licence begin with
QUOTED = re.compile(r'"([^"]*)"')
FEWEST_WORDS = 4


def examples(folder: Path) -> list[str]:
    """The quoted examples of all entries, without repeats, in the files' order; those of few words left out."""
    return _distinct(text for gloss in _glosses(folder) for text in QUOTED.findall(gloss))


def definitions(folder: Path) -> list[str]:
    """The definitions of all entries, likewise."""
    return _distinct(QUOTED.sub("", gloss) for gloss in _glosses(folder))


def _glosses(folder: Path) -> Iterator[str]:
    for name in FILES:
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if not line.startswith(LICENSE):
                yield line.partition(" | ")[2]


def _distinct(texts: Iterator[str]) -> list[str]:
    found = dict.fromkeys(text.strip(" ;") for text in texts)
    return [text for text in found if len(text.split()) >= FEWEST_WORDS]


if __name__ == "__main__":
    wanted = [word for word in sys.argv[1:] if word != "--definitions"]
    read = definitions if "--definitions" in sys.argv else examples
    sys.stdout.writelines(f"{text}\n" for text in read(Path(*wanted or ["/usr/share/wordnet"])))
