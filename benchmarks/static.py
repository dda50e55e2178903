"""How many texts a second does exit 0 encode, beside model2vec with the same table?

    python -m benchmarks.static DISTILLED minilm.m2d -o benchmarks/results/static.json

DISTILLED is the checkpoint with a table that the bundle was built from. It is sliced to a folder that model2vec loads,
so both have the same rows and the same tokenizer. Tokenization is included. Short texts are the sentences of STS-B test
($M2D_STSB); long texts join ten of them.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import common
from m2d_export import Bundle, Encoder
from m2d_export.checkpoints.slice import slice_checkpoint
from m2d_export.host.extras import require
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.vectors import cosine

PEER = "model2vec"
OURS = ("onnxrt", "openvino")


def main() -> None:
    """Measure, write."""
    parser = common.parser("static", __doc__, rounds=15)
    parser.add_argument("checkpoint")
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    sentences = common.sentences(common.stsb_test(parser))
    texts = {"short": sentences, "long": common.paragraphs(sentences)}
    bundle = Bundle.open(arguments.bundle)
    runtimes = [name for name in OURS if find_spec(RUNTIMES[name].package)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "static"
        slice_checkpoint(arguments.checkpoint, 0, folder, dim=bundle.grid.width)
        systems: dict[str, Any] = {PEER: require("model2vec", "dev").StaticModel.from_pretrained(folder)}
        for runtime in runtimes:
            for precision in common.fp32_and_int8(bundle):
                encoder = Encoder(bundle, 0, bundle.grid.width, runtime=runtime, precision=precision)
                systems[f"{runtime} {precision}"] = stack.enter_context(encoder)
        rows = []
        for kind, some in texts.items():
            expected = systems[PEER].encode(some)
            least = {name: float(cosine(system.encode(some), expected).min()) for name, system in systems.items()}
            turns = {name: common.timed(partial(system.encode, some)) for name, system in systems.items()}
            for name, seconds in common.take_turns(turns, arguments.rounds).items():
                row = {"texts": kind, "count": len(some), "system": name, "per_second": len(some) / median(seconds)}
                rows.append({**row, "seconds": seconds, "least_cosine": least[name]})
                print(kind, name, f"{row['per_second']:,.0f} texts/s", flush=True)
    common.write_results(arguments, {"dim": bundle.grid.width, "rounds": arguments.rounds, "rows": rows})


if __name__ == "__main__":
    main()
