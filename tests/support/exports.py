"""Exports that are made once per run: torch.onnx takes five seconds for the smallest encoder."""

import hashlib
from functools import cache
from pathlib import Path

import onnx_ir as ir

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.graphs import export as graphs
from m2d_export.spec import TextSpec
from tests.support.shared import made_once


@cache
def share_exports(root: Path) -> None:
    """From now on, builds in this process take a graph from ``root`` if a test of this run has exported it."""
    export = graphs.export_exits

    def shared(exits: ExitEncoder, width: int, text: TextSpec) -> ir.Model:
        def make(folder: Path) -> None:
            ir.save(export(exits, width, text), folder / "all.onnx")

        return ir.load(made_once(root, f"export-{_digest(exits, width, text)}", make) / "all.onnx")

    graphs.export_exits = shared


def _digest(exits: ExitEncoder, width: int, text: TextSpec) -> str:
    """The sha256 of everything that the graph depends on: weights, modules, settings and inputs."""
    settings = (exits, exits.layers, exits.pooling, exits.specs, width, text.input_names, text.max_tokens)
    digest = hashlib.sha256(f"{settings}{exits.encoder.config.to_json_string()}".encode())
    for name, weight in exits.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
