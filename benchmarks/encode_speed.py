"""How much faster than sentence-transformers does a bundle encode, with the same weights?

    M2D_STSB=DIR python -m benchmarks.encode_speed minilm.m2d -o benchmarks/results/encode_speed.json

Both encode the sentences of STS-B test at full depth in fp32, on the same number of threads. Both sort texts by length
and batch them as they do by default.
"""

from pathlib import Path
from statistics import median

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks import common
from m2d_export import Bundle, Encoder
from m2d_export.host.machine import cores
from m2d_export.vectors import cosine


def main() -> None:
    """Measure, write, print."""
    parser = common.parser("encode_speed", __doc__, rounds=5)
    parser.add_argument("bundle", type=Path)
    common.add_checkpoint(parser)
    arguments = parser.parse_args()
    texts, threads = common.sentences(common.stsb_test(parser)), cores()
    torch.set_num_threads(threads)
    path = str(common.checkpoint_of(arguments))
    model = SentenceTransformer(path, device="cpu", model_kwargs={"dtype": torch.float32})
    with Encoder(Bundle.open(arguments.bundle), threads=threads) as encoder:
        turns = {
            "sentence_transformers": common.timed(lambda: model.encode(texts, show_progress_bar=False)),
            "m2d_export": common.timed(lambda: encoder.encode(texts)),
        }
        seconds = common.take_turns(turns, arguments.rounds)
        least_cosine = float(cosine(model.encode(texts), encoder.encode(texts)).min())
    peer, ours = seconds.values()
    rates = {f"{system}_per_second": len(texts) / median(spent) for system, spent in seconds.items()}
    results = {
        "texts": len(texts),
        "rounds": arguments.rounds,
        "threads": threads,
        "least_cosine": least_cosine,
        **{f"{system}_seconds": spent for system, spent in seconds.items()},
        **rates,
        "ratio": median(peer) / median(ours),
        "ratio_each_round": np.divide(peer, ours).round(3).tolist(),
    }
    common.write_results(arguments, results)
    for name, rate in rates.items():
        print(f"{name:36} {rate:8.1f}")
    print(f"{'ratio':36} {results['ratio']:8.2f}")


if __name__ == "__main__":
    main()
