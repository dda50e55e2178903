"""How good are the exits that `m2d-export distil` makes from text, compared with the untouched checkpoint and BM25?

    python -m benchmarks.distil CHECKPOINT --distilled NAME=FOLDER -o benchmarks/results/distil.json

$M2D_STSB is the folder of STS-B, $M2D_RETRIEVAL a folder of collections in BEIR's layout. All exits run in ONNX Runtime
in float32 on texts of up to 256 tokens. Shares are sums of nDCG@10 over the collections, divided by the sum of the
untouched checkpoint at full depth and width in the same run. A later call adds its checkpoints to the results file, if
base and data are the same. A name that the file has is measured again.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from m2d_export import Bundle, Encoder, build
from m2d_export.agreement import AgreementReference, agreement_reference, correlation
from m2d_export.bench.bm25 import ranks
from m2d_export.bench.deep_index import DeepIndex, IndexSearch
from m2d_export.bench.encoded import Encoded, TextSet
from m2d_export.bench.quality import Reference, Searched
from m2d_export.bench.retrieval import CORPUS, evaluate, evaluate_ranks, load_collection
from m2d_export.bench.similarity import spearman
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.checkpoints.folder import M2D_JSON, read_object
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.vectors import FloatArray, cosine
from train.distil.facts import KIND

UNTOUCHED = "untouched"
DEV, TEST = "dev", "test"
MAX_TOKENS, NARROW = 256, 64
FACTS = ("recipe", "texts", "settings", "steps", "seconds", "stopped", "rotated", "batch", "machine", "versions")
Row = dict[str, Any]
References = Mapping[str, AgreementReference]  # by the name of the texts


@dataclass(frozen=True)
class Data:
    """What every checkpoint is measured on. The sentences of STS-B dev are also the held-out texts."""

    pairs: Mapping[str, Pairs]
    collections: Sequence[Searched]

    @property
    def held_out(self) -> TextSet:
        """Sentences that no training learns from."""
        return TextSet(self.pairs[DEV].texts)

    @property
    def unlabelled(self) -> dict[str, TextSet]:
        """Texts for the agreement with the base, by name: those held out, and the documents of each collection."""
        documents = {searched.collection.name: searched.texts()[1] for searched in self.collections}
        return {DEV: self.held_out, **documents}

    @property
    def of_index(self) -> list[TextSet]:
        """The texts that the deepest exit encodes for other exits."""
        return [self.held_out, *(of for searched in self.collections for of in searched.texts())]

    @property
    def identity(self) -> Row:
        """The names and digests of the data."""
        return {"max_tokens": MAX_TOKENS, "collections": [searched.identity for searched in self.collections]}


def main() -> None:
    """Build, measure, write."""
    parser = common.parser("distil", __doc__)
    parser.add_argument("checkpoint", type=Path, help="the untouched checkpoint, from which the others were distilled")
    options: Row = {"type": common.named_folder, "metavar": "NAME=FOLDER", "action": "append", "default": []}
    parser.add_argument("--distilled", **options, help="a checkpoint that was distilled; may be repeated")
    parser.add_argument("--layers", type=numbers, help="exits to measure, with commas; the deepest is always measured")
    parser.add_argument("--dims", type=numbers, help=f"dims to measure, with commas; default: the width and {NARROW}")
    split = "the split of STS-B besides dev: make choices on dev, and measure test once, at the end"
    parser.add_argument("--split", choices=(DEV, TEST), default=DEV, help=split)
    arguments = parser.parse_args()
    data = read_data(parser, arguments.split)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = built(arguments.checkpoint, folder / "base.m2d", arguments.layers)
        width = base.grid.width
        dims = sorted({width, *(arguments.dims or [min(NARROW, width)])}, reverse=True)
        origin = {"name": base.manifest.origin.name, "fingerprint": base.manifest.origin.fingerprint, "width": width}
        found = earlier(parser, arguments.output, {"base": origin, "data": data.identity})
        known = covers(found["checkpoints"].get(UNTOUCHED), base, data, dims)
        bundles = {} if known else {UNTOUCHED: base}
        bundles |= {
            name: built(distilled, folder / f"{place}.m2d", arguments.layers)
            for place, (name, distilled) in enumerate(arguments.distilled)
        }
        deepest = base_vectors(base, data)
        references = {name: agreement_reference(deepest.vectors(of)) for name, of in data.unlabelled.items()}
        best = [_ndcg(searched, deepest) for searched in data.collections]
        lexical = [evaluate_ranks(s.collection, ranks(s.collection, "english")).ndcg_at_10 for s in data.collections]
        plain = [evaluate_ranks(s.collection, ranks(s.collection, None)).ndcg_at_10 for s in data.collections]
        found |= {
            "ndcg": _named(data, best),
            "bm25": {"ndcg": _named(data, lexical), "share": sum(lexical) / sum(best), "plain": sum(plain) / sum(best)},
        }
        for name, bundle in bundles.items():
            row = measured(bundle, base_index(base, bundle), deepest, references, data, dims, sum(best))
            source = dict(arguments.distilled).get(name)
            found["checkpoints"][name] = {"facts": facts(source) if source else None, **row}
            print(
                name, {layer: round(cells[str(width)]["share"], 3) for layer, cells in row["exits"].items()}, flush=True
            )
            common.write_results(arguments, found)


def numbers(text: str) -> list[int]:
    """An argument with whole numbers and commas."""
    return [int(number) for number in text.split(",")]


def read_data(parser: argparse.ArgumentParser, split: str) -> Data:
    """The data that two variables name; ends the script with its usage if one is not set."""
    root = os.environ.get("M2D_RETRIEVAL", "")
    folders = sorted(path.parent for path in Path(root).glob(f"*/{CORPUS}")) if root else []
    if not folders:
        parser.error(f"set M2D_RETRIEVAL to a folder of collections in BEIR's layout, each with {CORPUS}")
    stsb = common.stsb_folder(parser)
    pairs = {name: load_pairs(str(stsb / f"{name}.csv")) for name in sorted({DEV, split})}
    return Data(pairs, [Searched(load_collection(folder)) for folder in folders])


def earlier(parser: argparse.ArgumentParser, file: Path, shared: Row) -> Row:
    """What an earlier call wrote, or ``shared`` without checkpoints; refuses a file with another base or other data."""
    if not file.exists():
        return {**shared, "checkpoints": {}}
    found: Row = json.loads(file.read_text(encoding="utf-8"))
    if any(found.get(name) != value for name, value in shared.items()):
        parser.error(f"{file} has results of another base or other data: choose another file")
    return {**shared, "checkpoints": found["checkpoints"]}


def built(folder: Path, target: Path, layers: Sequence[int] | None) -> Bundle:
    """A bundle of those of ``layers`` that the checkpoint has, and of its deepest exit."""
    loaded = load_checkpoint(str(folder))
    wanted = {*(loaded.exits if layers is None else layers), loaded.depth} & {*loaded.exits}
    return build(folder, target, layers=sorted(wanted), max_tokens=min(MAX_TOKENS, loaded.text.max_tokens))


def facts(folder: Path) -> Row:
    """What m2d.json says of how the checkpoint was made and, if ``distil`` made it, how many texts it was shown."""
    stated = read_object(folder / M2D_JSON)
    found = {name: stated[name] for name in FACTS if name in stated}
    return found | ({"texts_seen": stated["batch"] * stated["steps"]} if stated.get("recipe") == KIND else {})


def covers(row: Row | None, base: Bundle, data: Data, dims: Sequence[int]) -> bool:
    """Whether the file has all exits, dims and splits of the untouched checkpoint that are asked for."""
    if row is None:
        return False
    exits: Row = row["exits"]
    full = exits[str(base.grid.full.layer)]
    return (
        {str(layer) for layer in base.grid.layers} <= exits.keys()
        and {str(dim) for dim in dims} <= full.keys()
        and data.pairs.keys() <= full[str(base.grid.width)]["sts"].keys()
        and "agreement" in full[str(base.grid.width)]
    )


@contextmanager
def opened(bundle: Bundle, layer: int) -> Iterator[Encoded]:
    """An exit that keeps the vectors of each set of texts."""
    with Encoder(bundle, layer, bundle.grid.width, normalize=False) as encoder:
        yield Encoded(encoder, bundle.manifest.text)


def base_vectors(base: Bundle, data: Data) -> Encoded:
    """The deepest exit of the base with the vectors of all texts."""
    with opened(base, base.grid.full.layer) as exit_:
        for of in (*data.of_index, *(TextSet(pairs.texts) for pairs in data.pairs.values())):
            exit_.vectors(of)
    return exit_


def base_index(base: Bundle, bundle: Bundle) -> DeepIndex | None:
    """The base's index for queries of ``bundle``; None if a training on pairs alone has left the base's space."""
    return DeepIndex(base, bundle) if base.manifest.space == bundle.manifest.space else None


def measured(
    bundle: Bundle,
    index: DeepIndex | None,
    deepest: Encoded,
    references: References,
    data: Data,
    dims: Sequence[int],
    best: float,
) -> Row:
    """Every exit of a bundle. ``deepest`` has the vectors of the base; ``best`` is its sum of nDCG@10.

    ``index`` is the base's. An index of the bundle's own deepest exit gives the asymmetric share.
    """
    own = DeepIndex(bundle, bundle)
    indexes = {"asym": own} if index is None else {"asym": own, "base_index": index}
    if index is not None:
        index.keep(deepest, data.of_index)
    exits: Row = {}
    drift = None
    for layer in reversed(bundle.grid.layers):
        with opened(bundle, layer) as exit_:
            if layer == own.layer:
                if index is not None and index.is_own:
                    exit_.found |= deepest.found
                own.keep(exit_, data.of_index)
                if index is not None:
                    vectors = index.queries(exit_.vectors(data.held_out))
                    drift = float(cosine(vectors, index.vectors(data.held_out)).mean())
            exits[str(layer)] = {str(dim): cell(exit_, dim, data, references) for dim in dims}
            for name, searched_in in indexes.items():
                for dim, value in asymmetric(exit_, layer, dims, data, searched_in).items():
                    exits[str(layer)][str(dim)][name] = value / best
        for row in exits[str(layer)].values():
            row["share"] = sum(row["ndcg"].values()) / best
    manifest = bundle.manifest
    return {
        "fingerprint": manifest.origin.fingerprint,
        "heads": {str(head.layer): {"reads": head.reads, "mean": head.mean} for head in manifest.heads},
        "mean_cosine": drift,
        "exits": dict(sorted(exits.items(), key=lambda item: int(item[0]))),
    }


def cell(exit_: Encoded, dim: int, data: Data, references: References) -> Row:
    """STS-B by split, nDCG@10 by collection, and the agreement with the base on texts without scores."""
    sts = {}
    for split, pairs in data.pairs.items():
        vectors = exit_.vectors(TextSet(pairs.texts))[:, :dim]
        sts[split] = spearman(cosine(vectors[pairs.left], vectors[pairs.right]), pairs.scores)
    return {
        "sts": sts,
        "ndcg": _named(data, [_ndcg(searched, exit_, dim) for searched in data.collections]),
        "agreement": {
            name: agreement_on(references[name], exit_.vectors(of)[:, :dim]) for name, of in data.unlabelled.items()
        },
    }


def agreement_on(pairs: AgreementReference, vectors: FloatArray) -> float | None:
    """Spearman x 100 between the cosines of sampled pairs of texts and those of the base."""
    return correlation("spearmanr", cosine(vectors[pairs.left], vectors[pairs.right]), pairs.cosines)


def asymmetric(exit_: Encoded, layer: int, dims: Sequence[int], data: Data, index: DeepIndex) -> dict[int, float]:
    """The sum of nDCG@10 over the collections by dim, with queries of this exit and documents of ``index``."""
    reference = Reference(index.bundle.grid.full, exit_)
    sums = dict.fromkeys(index.dims(dims), 0.0)
    for searched in data.collections:
        for record in IndexSearch(searched, index).records(layer, dims, exit_, reference):
            sums[record["dim"]] += record["ndcg_at_10"]
    return sums


def _ndcg(searched: Searched, exit_: Encoded, dim: int | None = None) -> float:
    queries, documents = (exit_.vectors(of)[:, :dim] for of in searched.texts())
    return evaluate(searched.collection, queries, documents).ndcg_at_10


def _named(data: Data, values: Sequence[float]) -> dict[str, float]:
    return {searched.collection.name: value for searched, value in zip(data.collections, values, strict=True)}


if __name__ == "__main__":
    main()
