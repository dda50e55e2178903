"""PyTorch, running the checkpoint itself cut to the exit: the honest baseline at equal depth."""

from typing import Any

from m2d_export.errors import CheckpointError, RuntimeUnavailable, SpecError
from m2d_export.host.extras import require
from m2d_export.host.machine import cores
from m2d_export.runtimes import CLOSED, GPU_TOKENS, Runtime
from m2d_export.spec import Variant
from m2d_export.text.batches import TOKEN_BUDGET, Batch
from m2d_export.vectors import FloatArray

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class PytorchRuntime(Runtime):
    """The truncated encoder with the attention that transformers chooses by itself, SDPA where there is one.

    ``compute`` is what all of it is computed in, pooling too, as PyTorch users do. It needs the checkpoint a bundle was
    built from: CheckpointError where it is gone, or has changed; RuntimeUnavailable where torch has no CUDA.
    """

    def __init__(
        self, variant: Variant, threads: int | None = None, compute: str = "fp32", on_gpu: bool = False
    ) -> None:
        torch = require("torch", "build")
        from m2d_export.checkpoints.exits import ExitEncoder, truncate
        from m2d_export.checkpoints.load import load_checkpoint

        if on_gpu and not torch.cuda.is_available():
            raise RuntimeUnavailable(f"torch {torch.__version__} has no CUDA here: install one that was built with it")
        self.name = "pytorch-cuda" if on_gpu else "pytorch"
        self.provider = torch.cuda.get_device_name() if on_gpu else "cpu"
        self.token_budget = GPU_TOKENS if on_gpu else TOKEN_BUDGET
        torch.set_num_threads(threads or cores())  # one number for the whole process: torch has no other
        checkpoint = load_checkpoint(variant.origin.name, variant.origin.revision)
        if checkpoint.origin.fingerprint != variant.origin.fingerprint:
            raise CheckpointError(
                f"{variant.origin.name} has changed since this bundle was built from it "
                f"({checkpoint.origin.fingerprint[:12]} now, {variant.origin.fingerprint[:12]} then): build again"
            )
        module: Any = ExitEncoder(truncate(checkpoint, variant.layer), [variant.layer]).eval()
        self._exit: ExitEncoder | None = module.to("cuda" if on_gpu else "cpu", getattr(torch, DTYPES[compute]))

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        if self._exit is None:
            raise SpecError(CLOSED)
        return self._exit.vectors(batch)[0]

    def close(self) -> None:
        """Free the encoder."""
        self._exit = None
