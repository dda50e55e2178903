"""PyTorch on the CPU, running the checkpoint itself cut to the exit: the honest baseline at equal depth."""

from m2d_export.batching import Batch
from m2d_export.errors import CheckpointError, SpecError
from m2d_export.extras import require
from m2d_export.machine import cores
from m2d_export.runtimes import Runtime
from m2d_export.spec import Variant
from m2d_export.vectors import FloatArray


class PytorchRuntime(Runtime):
    """The truncated encoder in fp32, with the attention that transformers chooses by itself.

    It needs the checkpoint a bundle was built from: CheckpointError where it is gone, or has changed.
    """

    name = "pytorch"
    provider = "cpu"

    def __init__(self, variant: Variant, threads: int | None = None) -> None:
        torch = require("torch", "build")
        from m2d_export.checkpoint import load_checkpoint
        from m2d_export.exits import ExitEncoder, truncate

        torch.set_num_threads(threads or cores())  # one number for the whole process: torch has no other
        checkpoint = load_checkpoint(variant.origin.name, variant.origin.revision)
        if checkpoint.origin.fingerprint != variant.origin.fingerprint:
            raise CheckpointError(
                f"{variant.origin.name} has changed since this bundle was built from it "
                f"({checkpoint.origin.fingerprint[:12]} now, {variant.origin.fingerprint[:12]} then): build again"
            )
        self._exit: ExitEncoder | None = ExitEncoder(truncate(checkpoint, variant.layer), [variant.layer])

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        if self._exit is None:
            raise SpecError("this runtime is closed: open it again")
        return self._exit.vectors(batch)[0]

    def close(self) -> None:
        """Free the encoder."""
        self._exit = None
