"""Sentences without scores: WordNet's own examples, from Debian's package ``wordnet-base``.

    python -m train.wordnet [FOLDER] > sentences.txt

FOLDER holds data.noun, data.verb, data.adj and data.adv, /usr/share/wordnet by default.
"""

import re
import sys
from pathlib import Path

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
LICENSE_LINE = "  "  # what the files begin with
FEWEST_WORDS = 4


def examples(folder: Path) -> list[str]:
    """The examples quoted in the glosses, without repeats, in the files' order; those of few words left out."""
    found: dict[str, None] = {}
    for name in FILES:
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if not line.startswith(LICENSE_LINE):
                quoted = re.findall(r'"([^"]+)"', line.partition(" | ")[2])
                found |= dict.fromkeys(text.strip(" ;") for text in quoted)
    return [text for text in found if len(text.split()) >= FEWEST_WORDS]


if __name__ == "__main__":
    sys.stdout.writelines(f"{text}\n" for text in examples(Path(*sys.argv[1:] or ["/usr/share/wordnet"])))
