"""Thousands of damaged files: what reads them raises an M2DError, or works.

``M2D_FUZZ`` is the number of cases of each kind (by default a few hundred), ``M2D_FUZZ_SEED`` the first seed.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from m2d_export import Bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CASES = {"tokenizer": 400, "manifest": 600, "results": 500, "pairs": 600, "collection": 500, "checkpoint": 40}
SECONDS = 300


@pytest.mark.parametrize("kind", list(CASES))
def test_a_damaged_file_is_an_m2d_error_or_usable(kind: str, bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    count = os.environ.get("M2D_FUZZ", str(CASES[kind]))
    # In a child, because damage may crash or hang the process.
    command = [sys.executable, "-m", "tests.fuzz.test_damaged_files", kind, count, str(bundle.root), str(checkpoint)]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * max(1, int(count) // 600)
    )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


def _readers(kind: str, bundle: Path, checkpoint: Path, folder: Path) -> list[tuple[Path, Callable[[], object]]]:
    """The files to damage, each with what reads it."""
    import json

    from m2d_export import Encoder
    from m2d_export.bench.records import read_records
    from m2d_export.bench.retrieval import load_collection
    from m2d_export.bench.sts import load_pairs
    from m2d_export.text.tokenizer import Tokenizer
    from tests.support.made_up import sweep

    if kind == "tokenizer":
        opened = Bundle.open(bundle)
        path = folder / "tokenizer.json"
        shutil.copy(bundle / "tokenizer.json", path)

        def tokenize() -> None:
            text = path.read_bytes().decode("utf-8", errors="replace")
            Tokenizer(text, opened.manifest.text).encode(["A cat.", "", "word " * 100], "query: ")

        return [(path, tokenize)]
    if kind == "manifest":
        copy = shutil.copytree(bundle, folder / "copy.m2d")

        def encode() -> None:
            with Encoder(Bundle.open(copy)) as encoder:
                found = encoder.encode(["a cat"])
                assert found.shape == (1, encoder.cell.dim)

        return [(copy / "manifest.json", encode)]
    if kind == "results":
        path = folder / "results.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in sweep()[:8]))
        return [(path, lambda: read_records(path))]
    if kind == "pairs":
        found = []
        for name, separator in (("p.csv", ","), ("s.csv", ";"), ("p.tsv", "\t")):
            rows = [("sentence1", "sentence2", "score"), ("A cat", '"a dog"', "1"), ("b", "c", "3.5"), ("d", "e", "2")]
            (folder / name).write_text("".join(separator.join(row) + "\n" for row in rows))
            found.append((folder / name, lambda name=name: load_pairs(str(folder / name))))
        lines = [json.dumps({"sentence1": a, "sentence2": b, "score": c}) for a, b, c in (("a", "b", 1), ("c", "d", 2))]
        (folder / "p.jsonl").write_text("\n".join(lines) + "\n")
        return [*found, (folder / "p.jsonl", lambda: load_pairs(str(folder / "p.jsonl")))]
    if kind == "collection":
        (folder / "qrels").mkdir()
        (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "a", "title": "t"}\n{"_id": "2", "text": "b"}\n')
        (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n{"_id": "r", "text": "c"}\n')
        (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\nr\t2\t2\n")
        names = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
        return [(folder / name, lambda: load_collection(folder)) for name in names]
    from m2d_export.checkpoints.exits import ExitEncoder
    from m2d_export.checkpoints.load import load_checkpoint

    made = shutil.copytree(checkpoint, folder / "made")

    def load() -> None:
        loaded = load_checkpoint(str(made))
        ExitEncoder(loaded, [1])
        Tokenizer(loaded.tokenizer_json, loaded.text).encode(["a cat"], loaded.text.prompt())

    names = (
        *("config.json", "m2d.json", "modules.json", "tokenizer.json", "tokenizer_config.json"),
        *("config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json"),
    )
    return [(made / name, load) for name in names if (made / name).exists()]


def _main(kind: str, count: int, bundle: Path, checkpoint: Path, folder: Path) -> None:
    import logging

    from m2d_export.errors import M2DError
    from tests.fuzz.mutate import damaged

    logging.disable(logging.CRITICAL)
    readers = _readers(kind, bundle, checkpoint, folder)
    sound = [path.read_bytes() for path, _ in readers]
    for _, read in readers:
        read()
    first = int(os.environ.get("M2D_FUZZ_SEED", "1"))
    failed = 0
    for seed in range(first, first + count):
        place = seed % len(readers)
        path, read = readers[place]
        path.write_bytes(damaged(sound[place].decode(), random.Random(seed)))
        try:
            read()
        except M2DError:
            pass
        except BaseException as error:
            failed += 1
            sys.stdout.write(f"{kind}, seed {seed}, {path.name}: {type(error).__name__}: {str(error)[:300]}\n")
        path.write_bytes(sound[place])
    sys.exit(failed > 0)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), *(Path(argument) for argument in sys.argv[3:]))
