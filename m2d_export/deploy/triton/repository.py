"""Cells as a model repository for Triton Inference Server: a text model for each, and the encoder it calls."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from m2d_export import __version__
from m2d_export.bundle.disk import Bundle
from m2d_export.deploy.folder import padding_tokenizer
from m2d_export.deploy.graph import write_deployed
from m2d_export.errors import SpecError
from m2d_export.host.files import new_folder, sha256_of
from m2d_export.host.machine import versions
from m2d_export.spec import Cell, Precision
from m2d_export.text.batches import MIN_FILL, TOKEN_BUDGET

BACKENDS = ("python", "onnxruntime", "tensorrt")
RUNTIMES = {"onnxrt": "onnxruntime", "openvino": "openvino"}
TRITON = "26.07"  # release of NVIDIA's images that the Dockerfile starts from
LEAST_BYTES, BYTES_PER_TOKEN = 1 << 16, 64  # what a text may have: tokenizers read all of it before they cut
WARM_TOKENS = 16
CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Service:
    """What serves the cells: a backend, what runs the graph in the Python backend, and the texts of a batch."""

    backend: str = "python"
    runtime: str = "onnxrt"
    max_batch_size: int = 64
    threads: int | None = None  # None: every core

    def __post_init__(self) -> None:
        if self.backend == "trt-rtx":
            raise SpecError(
                "Triton's TensorRT backend cannot load plans of TensorRT for RTX: --backend tensorrt writes the graph, "
                "and a script that builds its plan in the server's container"
            )
        if self.backend not in BACKENDS:
            raise SpecError(f"no backend {self.backend!r}: there are {', '.join(BACKENDS)}")
        if self.runtime not in RUNTIMES:
            raise SpecError(f"{self.runtime!r} does not run in Triton's Python backend: {', '.join(RUNTIMES)} do")
        for name in ("max_batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SpecError(f"{name} must be a whole number from 1, got {value!r}")

    @property
    def packages(self) -> tuple[str, ...]:
        """What the server's Python must have beside the NumPy that its image brings."""
        return ("tokenizers", *([RUNTIMES[self.runtime]] if self.backend == "python" else []))


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
    """Write a model repository that serves ``cells``; returns the text models by name.

    Every graph is compared with ``Encoder`` of its cell first. ``prompt_name`` picks one of the checkpoint's prompts to
    put before every text, else its default. Raises SpecError, OutputError if ``target`` exists, and what
    ``write_deployed`` raises.
    """
    path = Path(target).expanduser().absolute()
    if not cells:
        raise SpecError("name at least one cell, such as 3x128")
    if service.backend == "tensorrt" and precision != Precision.FP32:
        reason = "activations have zero points, which TensorRT refuses" if precision == Precision.INT8 else "not tried"
        raise SpecError(
            f"--backend tensorrt takes fp32 alone ({precision}: {reason}): use --precision fp32, or another backend"
        )
    prompt = bundle.manifest.text.prompt(None, prompt_name)
    names = {model_name(cell, precision): cell for cell in sorted(set(cells))}
    with new_folder(path) as staging:
        for name, cell in names.items():
            holder = name if service.backend == "python" else f"{name}_encoder"
            graph = _version(staging / holder) / "model.onnx"
            write_deployed(bundle, cell, graph, precision, normalize)
            if holder != name:
                config = encoder_config(bundle, cell, holder, name, service)
                (staging / holder / "config.pbtxt").write_text(config, encoding="utf-8")
            _write_text_model(bundle, cell, staging / name, service, prompt, holder)
        unit = bundle.manifest.normalize if normalize is None else normalize
        _write_pages(bundle, names, staging, service, prompt, unit)
        sums = sorted(file for file in staging.rglob("*") if file.is_file())
        lines = [f"{sha256_of(file)}  {file.relative_to(staging).as_posix()}\n" for file in sums]
        (staging / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    return names


def model_name(cell: Cell, precision: str) -> str:
    """The name of a cell's text model."""
    return f"embedding_{cell}" + ("" if precision == Precision.FP32 else f"_{precision}")


def encoder_config(bundle: Bundle, cell: Cell, name: str, caller: str, service: Service) -> str:
    """The config.pbtxt of a graph that a backend of the server runs."""
    inputs = ["input_ids", "attention_mask", *([] if bundle.manifest.text.include_prompt else ["pooling_mask"])]
    declared = [f'  {{\n    name: "{key}"\n    data_type: TYPE_INT64\n    dims: [ -1 ]\n  }}' for key in inputs]
    length = min(WARM_TOKENS, bundle.manifest.text.max_tokens)
    value = f"{{\n        data_type: TYPE_INT64\n        dims: [ {length} ]\n        zero_data: true\n      }}"
    warmup = [f'    inputs {{\n      key: "{key}"\n      value {value}\n    }}' for key in inputs]
    return _filled(
        "encoder.pbtxt",
        name=name,
        caller=caller,
        backend=service.backend,
        max_batch_size=service.max_batch_size,
        inputs=",\n".join(declared),
        warmup="\n".join(warmup),
        dim=cell.dim,
    )


def _write_text_model(bundle: Bundle, cell: Cell, folder: Path, service: Service, prompt: str, encoder: str) -> None:
    text, version, here = bundle.manifest.text, _version(folder), service.backend == "python"
    # The encoder inside the server warms itself up: to be called while the server still starts makes it crash.
    config = _filled(
        "text.pbtxt",
        name=folder.name,
        max_batch_size=service.max_batch_size,
        dim=cell.dim,
        warmup=_template("warmup.pbtxt") if here else "",
    )
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    (version / "model.py").write_text(_template("model.py"), encoding="utf-8")
    (version / "tokenizer.json").write_text(padding_tokenizer(bundle).to_str(), encoding="utf-8")
    shipped = sorted(file for file in version.iterdir() if file.name != "model.py")
    settings = {
        "bundle": bundle.id,
        "cell": str(cell),
        "dim": cell.dim,
        "runtime": service.runtime if here else "server",
        "encoder": encoder,
        "threads": service.threads or 0,
        # An encoder inside the server is called once for all texts; here a second call costs less than much padding.
        "token_budget": TOKEN_BUDGET if here else service.max_batch_size * text.max_tokens,
        "least_fill": MIN_FILL if here else 0.0,
        "max_tokens": text.max_tokens,
        "max_bytes": max_bytes(text.max_tokens),
        "pad_id": text.pad_id,
        "prompt": prompt,
        "unpooled": None if text.include_prompt else bundle.tokenizer.encode([""], prompt)[0].prompt_length,
        "sha256": {file.name: sha256_of(file) for file in shipped},
    }
    (version / "settings.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def max_bytes(max_tokens: int) -> int:
    """The longest text that is not refused, in bytes of UTF-8."""
    return max(LEAST_BYTES, BYTES_PER_TOKEN * max_tokens)


def _write_pages(
    bundle: Bundle, names: Mapping[str, Cell], staging: Path, service: Service, prompt: str, unit: bool
) -> None:
    """The README, the Dockerfile and, for TensorRT, what builds its engines."""
    manifest, tensorrt = bundle.manifest, service.backend == "tensorrt"
    installed = versions(service.packages)
    pinned = [f"{name}=={installed[name]}" if name in installed else name for name in service.packages]
    docker = _filled("Dockerfile", triton=TRITON, packages=" ".join(pinned))
    (staging / "Dockerfile").write_text(docker, encoding="utf-8")
    length = ", unit length" if unit else ""
    rows = [
        f"| `{name}` | layer {cell.layer}, the first {cell.dim} numbers | float32, {cell.dim}{length} |"
        for name, cell in names.items()
    ]
    first = next(iter(names))
    page = _filled(
        "README.md",
        version=__version__,
        bundle=bundle.id[:12],
        origin=Path(manifest.origin.name).name,
        models="\n".join(rows),
        engines="\nFirst build the engines, on the GPU that serves: `build_engines.sh` says how.\n" if tensorrt else "",
        gpus="" if service.backend == "python" else "--gpus all ",
        hint="(without a GPU, leave out `--gpus all`)\n" if service.backend == "onnxruntime" else "",
        packages=", ".join(service.packages),
        name=first,
        dim=names[first].dim,
        max_bytes=f"{max_bytes(manifest.text.max_tokens):,}",
        max_tokens=manifest.text.max_tokens,
        max_batch_size=service.max_batch_size,
        prompt=f", behind the prompt {json.dumps(prompt, ensure_ascii=False)}" if prompt else "",
    )
    (staging / "README.md").write_text(page, encoding="utf-8")
    if tensorrt:
        longest = manifest.text.max_tokens
        shapes = {
            "least": (1, 1),
            "usual": (min(16, service.max_batch_size), min(32, longest)),
            "most": (service.max_batch_size, longest),
        }
        inputs = ("input_ids", "attention_mask", *(() if manifest.text.include_prompt else ("pooling_mask",)))
        filled = {
            name: ",".join(f"{key}:{batch}x{tokens}" for key in inputs) for name, (batch, tokens) in shapes.items()
        }
        script = staging / "build_engines.sh"
        script.write_text(_filled("build_engines.sh", triton=TRITON, **filled), encoding="utf-8")


def _version(model: Path) -> Path:
    """The folder of a model's only version."""
    folder = model / "1"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _template(name: str) -> str:
    return files("m2d_export.deploy.triton").joinpath("templates", name).read_text(encoding="utf-8")


def _filled(template: str, /, **values: object) -> str:
    """A template with its places filled; every place must be."""
    return Template(_template(template)).substitute({key: str(value) for key, value in values.items()})
