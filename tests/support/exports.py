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
        own: list[ir.Model] = []  # as a user's build has it, and not read from a file

        def make(folder: Path) -> None:
            own.append(export(exits, width, text))
            ir.save(own[0], folder / "all.onnx")

        folder = made_once(root, f"export-{_digest(exits, width, text)}", make)
        return own[0] if own else ir.load(folder / "all.onnx")

    graphs.export_exits = shared


def _digest(exits: ExitEncoder, width: int, text: TextSpec) -> str:
    """The sha256 of what differs between the encoders of tests: weights, modules, settings and inputs."""
    config = exits.encoder.config
    settings = (exits, exits.layers, exits.depth, exits.pooling, exits.specs, width, text.input_names, text.max_tokens)
    digest = hashlib.sha256(f"{settings}{config.to_json_string()}{config._attn_implementation}".encode())
    for name, weight in exits.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
