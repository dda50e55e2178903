"""Write sentences without scores: the example sentences of WordNet, from Debian's package ``wordnet-base``.

    python -m train.wordnet [--definitions] [FOLDER] > sentences.txt

FOLDER has data.noun, data.verb, data.adj and data.adv; the default is /usr/share/wordnet. With --definitions the output
is the definitions instead, to test a model on text of another kind.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
LICENSE = "  "  # the first characters of a line of the licence
QUOTED = re.compile(r'"([^"]*)"')
MIN_WORDS = 4  # in a sentence; shorter ones are left out


def examples(folder: Path) -> list[str]:
    """The quoted examples of all entries in the order of the files, without repeats and without short ones."""
    return _distinct(text for gloss in _glosses(folder) for text in QUOTED.findall(gloss))


def definitions(folder: Path) -> list[str]:
    """The definitions of all entries in the order of the files, without repeats and without short ones."""
    return _distinct(QUOTED.sub("", gloss) for gloss in _glosses(folder))


def _glosses(folder: Path) -> Iterator[str]:
    for name in FILES:
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if not line.startswith(LICENSE):
                yield line.partition(" | ")[2]


def _distinct(texts: Iterator[str]) -> list[str]:
    found = dict.fromkeys(text.strip(" ;") for text in texts)
    return [text for text in found if len(text.split()) >= MIN_WORDS]


if __name__ == "__main__":
    folders = [word for word in sys.argv[1:] if word != "--definitions"]
    read = definitions if "--definitions" in sys.argv else examples
    sys.stdout.writelines(f"{text}\n" for text in read(Path(*folders or ["/usr/share/wordnet"])))
