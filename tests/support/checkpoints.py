"""Tiny random checkpoints of every supported architecture: 3 layers, vectors of 64 numbers."""

import json
from pathlib import Path

from m2d_export.spec import parse_shapes

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
    after the pooling), ``prompts``, ``default_prompt_name``, ``heads`` (layers to give a head), ``dims``,
    ``table`` (whether there is an exit 0), ``spare_rows`` (rows of the token table beyond the tokenizer).
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import AutoModel

    torch.manual_seed(7)
    plain = folder.parent / f"{folder.name}-plain"
    tokenizer = tiny_tokenizer()
    rows = len(tokenizer) + settings.get("spare_rows", 0)
    AutoModel.from_config(tiny_config(architecture, rows)).save_pretrained(plain)
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
        described = {"format": 1, "layers": list(range(1, LAYERS + 1)), "dims": dims}
        described["heads"] = [{"layer": layer, "reads": [layer], "mean": []} for layer in heads]
        (folder / "m2d.json").write_text(json.dumps(described))
        for layer in heads:
            head = Dense(WIDTH, WIDTH, activation_function=torch.nn.Identity())
            (folder / "exits" / str(layer)).mkdir(parents=True)
            head.save(str(folder / "exits" / str(layer)))
    if settings.get("table"):
        pooling = settings.get("pooling", "mean")
        save_table(folder, rows, WIDTH * (1 if isinstance(pooling, str) else len(pooling)))
    return folder


def save_table(folder: Path, vocabulary: int, width: int = WIDTH) -> None:
    """Give a checkpoint an exit 0: a table of random rows, those of special tokens too."""
    import torch
    from safetensors.torch import save_file

    (folder / "exits" / "0").mkdir(parents=True)
    save_file({"embedding.weight": torch.randn(vocabulary, width)}, folder / "exits" / "0" / "model.safetensors")
