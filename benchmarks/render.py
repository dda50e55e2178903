"""Put results into the pages, between markers; with --check, only say which page differs.

    python -m benchmarks.render [--check]

A page asks for a block by ``<!-- NAME: FILE -->`` and ``<!-- /NAME -->``, each on a line of its own.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.tables import cost, quality, shipped, summary
from benchmarks.tables.distil import distil, distil_agreement, few_texts, head_cost
from benchmarks.tables.gpu import gpu
from benchmarks.tables.peers import peers

BLOCKS: Mapping[str, Callable[[], str]] = {
    "headline": summary.headline,
    "results": summary.results,
    "shipped": shipped.shipped,
    "stages": shipped.stages,
    "seeds": shipped.seeds,
    "grid": quality.grid,
    "agreement": quality.agreement,
    "runs": quality.runs,
    "elsewhere": quality.elsewhere,
    "ablation": quality.ablation,
    "distil": distil,
    "few_texts": few_texts,
    "distil_agreement": distil_agreement,
    "head_cost": head_cost,
    "static": cost.static,
    "train_speed": cost.train_speed,
    "speed": cost.speed,
    "peers": peers,
    "peers_avx2": partial(peers, "peers_avx2.json"),
    "ceiling": cost.ceiling,
    "settings": cost.settings,
    "cost": cost.cost,
    "int8": cost.int8,
    "open_exits": cost.open_exits,
    "stream": cost.stream,
    "long_texts": cost.long_texts,
    "triton": cost.triton,
    "cpp": cost.cpp,
    "before_after": cost.before_after,
    "gpu": gpu,
}
BLOCK = re.compile(r"^(<!-- (\w+): [^\n]* -->\n).*?^(<!-- /\2 -->)$", re.DOTALL | re.MULTILINE)


def pages() -> Iterator[Path]:
    """The pages that may hold blocks."""
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "models/*/README.md"):
        yield from sorted(ROOT.glob(pattern))


def rendered(text: str) -> str:
    """The text of a page with every block filled in. Raises KeyError for a block that has no function."""
    return BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}\n{found[3]}", text)


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser("python -m benchmarks.render", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page differs from the results")
    check = parser.parse_args().check
    stale = {page: after for page in pages() if (after := rendered(before := page.read_text("utf-8"))) != before}
    if check and stale:
        names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        raise SystemExit(f"{names}: differs from benchmarks/results. Run python -m benchmarks.render")
    for page, after in stale.items():
        page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
