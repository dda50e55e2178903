"""The systems on the GPU: an exit in PyTorch, in sentence-transformers and in each of our runtimes.

Each turns token ids on the host into float32 vectors on the host, so all do the same work.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.unpadded import PACKED, VARLEN, features_of, moved
from m2d_export import Bundle, build
from m2d_export.checkpoints.exits import ExitEncoder, cut_checkpoint
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.engines.library import LIBRARIES, library
from m2d_export.errors import ExportError, M2DError, RuntimeUnavailable, first_line
from m2d_export.runtimes.table import check_runtime, open_runtime
from m2d_export.spec import ShapeRange
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

Call = Callable[[Batch], FloatArray]
OURS = "m2d-export, "


@dataclass(frozen=True)
class Setting:
    """Device, precision and amount of work: those of a GPU, or of a trial on the CPU."""

    device: str
    precision: str
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    rounds: int
    matrix: int
    compiler: str
    runtimes: tuple[str, ...]
    made_up: dict[str, int]  # sizes of the encoder with random weights
    texts: int  # texts of mixed lengths

    @property
    def dtype(self) -> torch.dtype:
        """The type of the torch systems."""
        return {"fp16": torch.float16, "fp32": torch.float32}[self.precision]


@dataclass(frozen=True)
class Subject:
    """One exit of one encoder."""

    checkpoint: Checkpoint
    layer: int
    setting: Setting


def on_device(batch: Batch, device: str) -> tuple[Tensor, Tensor]:
    """Token ids and mask as tensors on the device."""
    return torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.attention_mask).to(device)


def on_host(vectors: Tensor) -> FloatArray:
    """Vectors on the host in float32; waits for the device."""
    return vectors.float().cpu().numpy()


def called(subject: Subject, module: Callable[[Tensor, Tensor], Tensor]) -> Call:
    """A torch module as a system."""
    return lambda batch: on_host(module(*on_device(batch, subject.setting.device)))


def exit_of(subject: Subject) -> nn.Module:
    """The encoder cut to the layer, with the default attention of transformers (SDPA)."""
    module = ExitEncoder(cut_checkpoint(subject.checkpoint, subject.layer), [subject.layer]).eval()
    # A copy, because the float32 reference uses the same head and tail.
    return copy.deepcopy(module).to(subject.setting.device, subject.setting.dtype)


def exit_without_mask(subject: Subject) -> nn.Module:
    """The same without a mask, for texts without padding.

    transformers drops a mask of ones, but not while a graph is traced or captured. The fastest
    kernel of SDPA takes no mask.
    """
    module: Any = exit_of(subject)
    module.encoder = WithoutMask(module.encoder)
    return module


class WithoutMask(nn.Module):
    """An encoder that ignores its mask."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        """The encoder's output for texts without padding."""
        return self.encoder(input_ids=input_ids, **options)


def eager(subject: Subject) -> Call:
    """PyTorch in eager mode."""
    module = exit_of(subject)
    return called(subject, lambda ids, mask: module(ids, mask)[0])


def compiled(subject: Subject) -> Call:
    """torch.compile for each shape. A shape outside the grid raises an error.

    By default torch compiles eight shapes and silently runs the others in eager mode.
    """
    dynamo, setting = torch._dynamo, subject.setting
    dynamo.reset()  # drop what was compiled for an earlier encoder
    dynamo.config.recompile_limit = len(setting.batch_sizes) * len(setting.tokens) + 1  # one for the example
    dynamo.config.fail_on_recompile_limit_hit = True
    module = torch.compile(exit_without_mask(subject), dynamic=False, backend=setting.compiler)
    return called(subject, lambda ids, mask: module(ids, mask)[0])


def graphed(subject: Subject) -> Call:
    """PyTorch captured as one CUDA graph per shape, so that Python launches no kernel."""
    if subject.setting.device != "cuda":
        raise RuntimeUnavailable("CUDA graphs need a GPU: run this on a machine with one")
    module = exit_without_mask(subject)
    captured: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}

    def replayed(ids: Tensor, mask: Tensor) -> Tensor:
        shape = tuple(ids.shape)
        if shape not in captured:
            own_ids, own_mask = ids.clone(), mask.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # a first run allocates memory, and a capture must not
                for _ in range(3):
                    module(own_ids, own_mask)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = module(own_ids, own_mask)[0]
            captured[shape] = graph, own_ids, own_mask, output
        graph, own_ids, own_mask, output = captured[shape]
        own_ids.copy_(ids)
        own_mask.copy_(mask)
        graph.replay()
        return output

    return called(subject, replayed)


def modules_of(subject: Subject, **options: Any) -> list[nn.Module]:
    """The modules of sentence-transformers at the same depth, from token ids to vectors, without Normalize."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(subject.checkpoint.folder),
        device=subject.setting.device,
        model_kwargs={"dtype": subject.setting.dtype, **options},
        config_kwargs={"num_hidden_layers": subject.layer},
    ).eval()
    return [module for module in model if type(module).__name__ != "Normalize"]


def through(modules: Sequence[nn.Module], features: dict[str, Any]) -> Tensor:
    """Run the modules in order, as sentence-transformers does."""
    for module in modules:
        features = module(features)
    vectors: Tensor = features["sentence_embedding"]
    return vectors


def sentence_transformers(subject: Subject) -> Call:
    """sentence-transformers on padded texts."""
    modules = modules_of(subject)
    return called(subject, lambda ids, mask: through(modules, {"input_ids": ids, "attention_mask": mask}))


def unpadded(subject: Subject, attention: str) -> Call:
    """sentence-transformers on texts packed without padding, as it packs them for flash attention.

    Packing is not timed, and neither is the padding of the other systems.
    """
    modules = modules_of(subject, attn_implementation=attention)
    transformer: Any = modules[0]
    if not transformer.model._supports_attention_backend:
        raise RuntimeUnavailable(f"{type(transformer.model).__name__} cannot run packed texts: measure it padded")
    if transformer.model_forward_params is not None:  # the inputs that it passes on to the model
        transformer.model_forward_params |= PACKED
    first_position = transformer._infer_flatten_position_offset()

    packed: dict[int, tuple[Batch, dict[str, Any]]] = {}  # by id of the batch; holding the batch keeps the id valid

    def run(batch: Batch) -> FloatArray:
        if id(batch) not in packed:
            packed[id(batch)] = batch, features_of(batch, first_position)
        _, features = packed[id(batch)]
        return on_host(through(modules, moved(features, subject.setting.device)))

    return run


def unpadded_by_torch(subject: Subject) -> Call:
    """The same with torch's own kernel for packed texts, which needs no further package."""
    if subject.setting.device != "cuda":
        raise RuntimeUnavailable("torch has a kernel for packed texts on GPUs only: run this on a machine with one")
    return unpadded(subject, VARLEN)


BASELINES: dict[str, Callable[[Subject], Call]] = {
    "pytorch": eager,
    "pytorch, compiled": compiled,
    "pytorch, CUDA graph": graphed,
    "sentence-transformers": sentence_transformers,
    "sentence-transformers, unpadded by flash attention": partial(unpadded, attention="flash_attention_2"),
    "sentence-transformers, unpadded by torch": unpadded_by_torch,
}

# They compile or capture each shape, which takes too long for the many shapes of mixed lengths.
OF_ONE_SHAPE = {"pytorch, compiled", "pytorch, CUDA graph"}


def profiles(setting: Setting) -> list[ShapeRange]:
    """One for each length of the grid, tuned at that length for the larger batches."""
    starts = (1, *(length + 1 for length in setting.tokens))
    best, most = setting.batch_sizes[-2], setting.batch_sizes[-1]
    ends = zip(starts, setting.tokens, strict=False)
    return [ShapeRange((1, start), (best, end), (most, end)) for start, end in ends]


def bundle_of(subject: Subject, target: Path, absent: dict[str, str]) -> Bundle:
    """The exit, built for each of our runtimes that can run here. ``absent`` gets the reason for each other one."""
    setting, kinds = subject.setting, []
    for name in setting.runtimes:
        try:
            check_runtime(name, setting.precision, setting.precision)
            if name in LIBRARIES:
                library(name)
                kinds.append(name)
        except M2DError as error:
            absent[OURS + name] = first_line(error)
    try:
        return build(
            str(subject.checkpoint.folder),
            target,
            layers=[subject.layer],
            precisions=[setting.precision],
            engines=kinds,
            shapes=profiles(setting) if kinds else None,
        )
    except ExportError as error:
        if not target.is_dir():
            raise
        # The bundle was published without the engines that failed.
        built = Bundle.open(target)
        lacking = set(kinds) - {engine.key.kind for engine in built.manifest.engines}
        absent.update(dict.fromkeys([OURS + kind for kind in lacking], first_line(error)))
        return built


def set_up(subject: Subject, example: Batch, opened: ExitStack) -> tuple[dict[str, Call], dict[str, str]]:
    """The systems that can run a batch here, and for each other system the reason."""
    ready: dict[str, Call] = {}
    absent: dict[str, str] = {}
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="m2d-gpu-")))
    try:
        variant = bundle_of(subject, folder / "exit.m2d", absent).variant(subject.layer, subject.setting.precision)
    except M2DError as error:  # the other systems are measured nevertheless
        absent = {OURS + name: first_line(error) for name in subject.setting.runtimes} | absent
    makers: dict[str, Callable[[], Call]] = {name: partial(make, subject) for name, make in BASELINES.items()}
    for name in subject.setting.runtimes:
        if OURS + name not in absent:
            makers[OURS + name] = lambda name=name: opened.enter_context(open_runtime(name, variant)).vectors
    for name, make in makers.items():
        try:
            call = make()
            call(example)
            ready[name] = call
        except Exception as error:
            absent[name] = first_line(error)
    return ready, absent


def random_distilbert(folder: Path, like: Path, sizes: dict[str, int]) -> Path:
    """A DistilBERT with random weights and the tokenizer of the checkpoint ``like``, for timing only."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    torch.manual_seed(0)
    tokenizer, plain = AutoTokenizer.from_pretrained(str(like)), folder / "plain"
    config = AutoConfig.for_model("distilbert", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)
    AutoModel.from_config(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    modules = [Transformer(str(plain), max_seq_length=config.max_position_embeddings), Pooling(config.dim, "mean")]
    made = folder / "distilbert of random weights"
    SentenceTransformer(modules=modules, device="cpu").save(str(made), create_model_card=False)
    return made
