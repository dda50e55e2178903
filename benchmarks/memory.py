"""How much memory do long texts take: one of 8,000 tokens, 20 of 2,000, one of 10 MB, and a build?

    python -m benchmarks.memory -o benchmarks/results/memory.json

The encoder is a ModernBERT of random weights: 2 layers, 12 heads, 768 wide. Megabyte texts go through all-MiniLM-L6-v2.
Every number is the peak memory of a new process. What the process held after one short text is subtracted. For a build,
what it held after its imports is subtracted.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from m2d_export import Bundle, Encoder, build
from m2d_export.bench.memory import peak_bytes

RUNTIMES = ("onnxrt", "openvino", "pytorch")
SENTENCE_TRANSFORMERS = "sentence-transformers"
LAYERS, HEADS, WIDTH, MAX_TOKENS = 2, 12, 768, 8192
SHAPES = ((1, 8000), (20, 2000))  # texts x tokens
LARGE = 10_000_000
LARGE_TEXTS = {
    "words": "the cat ",
    "one word": "x",
    "spaces": " ",
    "Chinese": "東京は日本",
    "Thai": "กขค",
    "marks": "\u0301\u0323",
}


def save_checkpoint(folder: Path) -> None:
    """A ModernBERT of random weights, with the tokenizer of the tests."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoConfig, AutoModel

    from tests.support.checkpoints import tiny_tokenizer

    tokenizer, plain = tiny_tokenizer(MAX_TOKENS), folder.with_name("plain")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    config = AutoConfig.for_model(
        "modernbert",
        vocab_size=len(tokenizer),
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        hidden_size=WIDTH,
        global_attn_every_n_layers=2,
        bos_token_id=special["cls_token_id"],
        eos_token_id=special["sep_token_id"],
        **special,
    )
    AutoModel.from_config(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    modules = [Transformer(str(plain), max_seq_length=MAX_TOKENS), Pooling(WIDTH, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


def encoded(system: str, bundle: str, checkpoint: str, texts: int, tokens: int) -> Callable[[], object]:
    """A call that encodes; the system is open, and has encoded one short text."""
    long = ["cat " * (tokens - 2)] * texts
    if system == SENTENCE_TRANSFORMERS:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(checkpoint, device="cpu")
        model.encode(["a cat"])
        return lambda: model.encode(long)
    encoder = Encoder(Bundle.open(bundle, checkpoint), runtime=system)
    encoder.encode(["a cat"])
    return lambda: encoder.encode(long)


def large(bundle: str, unit: str) -> Callable[[], object]:
    """A call that encodes one text of ten million bytes or more."""
    encoder, text = Encoder(bundle), unit * (LARGE // len(unit))
    encoder.encode(["a cat"])
    return lambda: encoder.encode([text])


def built(checkpoint: str, target: str) -> Callable[[], object]:
    """A call that builds; its libraries are imported."""
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch  # noqa: F401

    return lambda: build(checkpoint, target)


def megabytes(name: str, *arguments: Any) -> float:
    """The peak memory of the function ``name`` in a new process, without what the process held before the call."""
    job = json.dumps([name, arguments])
    child = subprocess.run([sys.executable, "-m", "benchmarks.memory", job], stdout=subprocess.PIPE, check=True)
    return float(child.stdout.split()[-1])


def child(name: str, arguments: list[Any]) -> None:
    """Run one job, print its megabytes."""
    call = {"encoded": encoded, "large": large, "built": built}[name](*arguments)
    idle = peak_bytes()
    call()
    print((peak_bytes() - idle) / 1e6)


def main() -> None:
    """Measure, write, print."""
    parser = common.parser("memory", __doc__)
    common.add_checkpoint(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, bundle, small = folder / "modernbert", folder / "modernbert.m2d", folder / "minilm.m2d"
        save_checkpoint(checkpoint)
        built_mb = megabytes("built", str(checkpoint), str(bundle))
        build(common.checkpoint_of(arguments), small, layers=[6])
        entry = Bundle.open(bundle).manifest.variants[-1]
        results = {
            "texts": {
                f"{texts} x {tokens}": {
                    system: megabytes("encoded", system, str(bundle), str(checkpoint), texts, tokens)
                    for system in (SENTENCE_TRANSFORMERS, *RUNTIMES)
                }
                for texts, tokens in SHAPES
            },
            "large_texts": {kind: megabytes("large", str(small), unit) for kind, unit in LARGE_TEXTS.items()},
            "build": {
                "over_imports": built_mb,
                "weights": Bundle.open(bundle).manifest.files[entry.weights].size / 1e6,
            },
        }
    common.write_results(arguments, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("["):
        child(*json.loads(sys.argv[1]))
    else:
        main()
