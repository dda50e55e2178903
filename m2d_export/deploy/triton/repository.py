"""Write a model repository for Triton Inference Server. Each cell has a text model, and some have an encoder model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from m2d_export import __version__
from m2d_export.bundle.disk import Bundle
from m2d_export.deploy.folder import padding_tokenizer
from m2d_export.deploy.graph import write_deployed
from m2d_export.deploy.triton import BACKENDS, PYTHON_RUNTIMES
from m2d_export.errors import SpecError
from m2d_export.host import templates
from m2d_export.host.checks import whole_from
from m2d_export.host.files import sha256_of
from m2d_export.host.folders import new_folder
from m2d_export.host.machine import versions
from m2d_export.runtimes.onnxrt import SERVER_SETTINGS
from m2d_export.runtimes.runtime import RuntimeOptions
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import OUTPUT, Cell, Precision
from m2d_export.text.batches import ATTENTION_BUDGET, MIN_FILL, TOKEN_BUDGET

TRITON = "26.07"  # release of NVIDIA's images that the Dockerfile starts from
SMALLEST_LIMIT, BYTES_PER_TOKEN = 1 << 16, 64  # they limit the bytes of a text, because a tokenizer reads all of it
WARM_TOKENS = 16
CHECKSUMS = "SHA256SUMS"
template = partial(templates.template, "m2d_export.deploy.triton")


@dataclass(frozen=True)
class Service:
    """How cells are served.

    ``runtime`` and ``threads`` are for the Python backend only. If ``threads`` is None, there is one thread per core.
    ``max_batch_size`` is a number of texts. Raises SpecError for a value that Triton or this package does not know.
    """

    backend: str = "python"
    runtime: str = "onnxrt"
    max_batch_size: int = 64
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.backend == "trt-rtx":
            raise SpecError(
                "Triton's TensorRT backend cannot load engines of TensorRT for RTX: use --backend tensorrt, which "
                "writes the graph and a script that builds an engine in the server's container"
            )
        if self.backend not in BACKENDS:
            raise SpecError(f"no backend {self.backend!r}: there are {', '.join(BACKENDS)}")
        if self.runtime not in PYTHON_RUNTIMES:
            known = ", ".join(PYTHON_RUNTIMES)
            raise SpecError(f"Triton's Python backend does not run {self.runtime!r} here: choose one of {known}")
        if self.threads is not None:
            RuntimeOptions(self.runtime, self.threads)  # raises SpecError if the number is impossible
        try:
            whole_from(1)(self.max_batch_size)
        except ValueError as error:
            raise SpecError(f"max_batch_size: {error}") from None

    @property
    def encodes_in_python(self) -> bool:
        """Whether the text model runs the graph itself; if not, it calls another model of the server."""
        return self.backend == "python"

    @property
    def graph_runtime(self) -> str:
        """The runtime that loads the graph."""
        return {"python": self.runtime, "onnxruntime": "onnxrt", "tensorrt": "trt"}[self.backend]

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that the server's Python needs; NumPy is in its image already."""
        return ("tokenizers", *([RUNTIMES[self.runtime].package] if self.encodes_in_python else []))


def write_repository(
    bundle: Bundle,
    cells: Sequence[Cell],
    target: str | Path,
    *,
    precision: str = Precision.FP32,
    service: Service = Service(),
    normalize: bool | None = None,
    prompt_name: str | None = None,
) -> dict[str, Cell]:
    """Write a model repository that serves ``cells``; returns the names of the text models.

    The server puts the checkpoint's prompt ``prompt_name`` before every text; None means the default prompt. Raises
    SpecError if the options do not fit, OutputError if ``target`` exists, and the errors of ``write_deployed``.
    """
    if not cells:
        raise SpecError("no cell was given: name at least one, such as 3x128")
    if service.backend == "tensorrt" and precision != Precision.FP32:
        raise SpecError(
            f"--backend tensorrt serves fp32 only, not {precision}: TensorRT refuses the zero points of int8 graphs, "
            "and fp16 was not tested. Use --precision fp32, or another backend"
        )
    prompt = bundle.manifest.text.prompt(None, prompt_name)
    names = {model_name(cell, precision): cell for cell in sorted(set(cells))}
    with new_folder(target) as staging:
        for name, cell in names.items():
            encoder = name if service.encodes_in_python else f"{name}_encoder"
            graph = _version(staging / encoder) / "model.onnx"
            write_deployed(bundle, cell, graph, precision, normalize, service.graph_runtime)
            if encoder != name:
                config = encoder_config(bundle, cell, encoder, name, service)
                (staging / encoder / "config.pbtxt").write_text(config, encoding="utf-8")
            _write_text_model(bundle, cell, staging / name, service, prompt, encoder)
        unit_length = bundle.manifest.normalize if normalize is None else normalize
        _write_dockerfile(staging, service)
        _write_readme(bundle, names, staging, service, prompt, unit_length)
        if service.backend == "tensorrt":
            _write_engine_script(bundle, staging, service)
        written = sorted(file for file in staging.rglob("*") if file.is_file())
        lines = [f"{sha256_of(file)}  {file.relative_to(staging).as_posix()}\n" for file in written]
        (staging / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    return names


def model_name(cell: Cell, precision: str) -> str:
    """The name of a cell's text model."""
    return f"embedding_{cell}" + ("" if precision == Precision.FP32 else f"_{precision}")


def max_bytes(max_tokens: int) -> int:
    """The largest size of a text that is accepted, in bytes of UTF-8."""
    return max(SMALLEST_LIMIT, BYTES_PER_TOKEN * max_tokens)


def encoder_config(bundle: Bundle, cell: Cell, name: str, caller: str, service: Service) -> str:
    """The config.pbtxt of an encoder: a backend of the server runs it, and the text model ``caller`` calls it."""
    inputs = bundle.manifest.text.input_names
    declared = [f'  {{\n    name: "{key}"\n    data_type: TYPE_INT64\n    dims: [ -1 ]\n  }}' for key in inputs]
    length = min(WARM_TOKENS, bundle.manifest.text.max_tokens)
    value = f"{{\n        data_type: TYPE_INT64\n        dims: [ {length} ]\n        zero_data: true\n      }}"
    warmup = [f'    inputs {{\n      key: "{key}"\n      value {value}\n    }}' for key in inputs]
    return template(
        "encoder.pbtxt",
        name=name,
        caller=caller,
        backend=service.backend,
        max_batch_size=service.max_batch_size,
        inputs=",\n".join(declared),
        warmup="\n".join(warmup),
        output=OUTPUT,
        dim=cell.dim,
    )


def _write_text_model(bundle: Bundle, cell: Cell, folder: Path, service: Service, prompt: str, encoder: str) -> None:
    text, version, here = bundle.manifest.text, _version(folder), service.encodes_in_python
    # If a text model calls an encoder, there is no warm-up: this call would crash a server that is still starting.
    warmup = template("warmup.pbtxt") if here else ""
    limit, name = service.max_batch_size, folder.name
    config = template("text.pbtxt", name=name, max_batch_size=limit, output=OUTPUT, dim=cell.dim, warmup=warmup)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    (version / "model.py").write_text(template("model.py"), encoding="utf-8")
    (version / "tokenizer.json").write_text(padding_tokenizer(bundle).to_str(), encoding="utf-8")
    shipped = sorted(file for file in version.iterdir() if file.name != "model.py")
    settings = {
        "bundle": bundle.id,
        "cell": str(cell),
        "dim": cell.dim,
        "runtime": service.runtime if here else "server",
        "encoder": encoder,
        "threads": service.threads or 0,
        "session": SERVER_SETTINGS,
        # An encoder that is a Triton model of its own is called once for all texts, if ``attention_budget`` allows it.
        # An encoder in the text model is called more often, because calls in Python cost less than padding.
        "token_budget": TOKEN_BUDGET if here else limit * text.max_tokens,
        "attention_budget": ATTENTION_BUDGET,
        "min_fill": MIN_FILL if here else 0.0,
        "max_tokens": text.max_tokens,
        "max_bytes": max_bytes(text.max_tokens),
        "pad_id": text.pad_id,
        "prompt": prompt,
        "unpooled": None if text.include_prompt else bundle.tokenizer.encode([""], prompt)[0].prompt_length,
        "sha256": {file.name: sha256_of(file) for file in shipped},
    }
    (version / "settings.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_dockerfile(staging: Path, service: Service) -> None:
    installed = versions(service.packages)
    pinned = [f"{name}=={installed[name]}" if name in installed else name for name in service.packages]
    page = template("Dockerfile", triton=TRITON, packages=" ".join(pinned))
    (staging / "Dockerfile").write_text(page, encoding="utf-8")


def _write_readme(
    bundle: Bundle, names: Mapping[str, Cell], staging: Path, service: Service, prompt: str, unit_length: bool
) -> None:
    manifest, first = bundle.manifest, next(iter(names))
    length = ", unit length" if unit_length else ""
    rows = [
        f"| `{name}` | layer {cell.layer}, the first {cell.dim} numbers | float32, {cell.dim}{length} |"
        for name, cell in names.items()
    ]
    on_gpu = service.backend == "tensorrt"
    page = template(
        "README.md",
        version=__version__,
        bundle=bundle.id[:12],
        origin=templates.markdown_text(manifest.origin.name),
        models="\n".join(rows),
        engines="\nFirst build the engines on the GPU that serves: `build_engines.sh` says how.\n" if on_gpu else "",
        gpus="" if service.encodes_in_python else "--gpus all ",
        hint="\nWithout a GPU, leave out `--gpus all`.\n" if service.backend == "onnxruntime" else "",
        packages=" and ".join(service.packages),
        name=first,
        output=OUTPUT,
        dim=names[first].dim,
        max_bytes=f"{max_bytes(manifest.text.max_tokens):,}",
        max_tokens=manifest.text.max_tokens,
        max_batch_size=service.max_batch_size,
        prompt=f" The prompt {templates.markdown_text(json.dumps(prompt, ensure_ascii=False))} is put before it."
        if prompt
        else "",
    )
    (staging / "README.md").write_text(page, encoding="utf-8")


def _write_engine_script(bundle: Bundle, staging: Path, service: Service) -> None:
    """Write the script that builds TensorRT's engines in a container, with one profile for all requests."""
    text, batch = bundle.manifest.text, service.max_batch_size
    profile = {"min": (1, 1), "opt": (min(16, batch), min(32, text.max_tokens)), "max": (batch, text.max_tokens)}
    shapes = {
        name: ",".join(f"{key}:{texts}x{tokens}" for key in text.input_names)
        for name, (texts, tokens) in profile.items()
    }
    script = template("build_engines.sh", triton=TRITON, **shapes)
    (staging / "build_engines.sh").write_text(script, encoding="utf-8")


def _version(model: Path) -> Path:
    folder = model / "1"  # each model has one version
    folder.mkdir(parents=True, exist_ok=True)
    return folder
