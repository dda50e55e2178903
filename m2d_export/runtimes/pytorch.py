"""PyTorch with the checkpoint itself, cut to the exit: the baseline at equal depth."""

from typing import Any

from m2d_export.errors import CheckpointError, RuntimeUnavailable, SpecError
from m2d_export.host.extras import require
from m2d_export.precisions import PRECISIONS
from m2d_export.runtimes.runtime import CLOSED, GPU_TOKENS, Runtime, RuntimeOptions
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import Precision, Variant
from m2d_export.text.batches import TOKEN_BUDGET, Batch
from m2d_export.vectors import FloatArray


def _place(variant: Variant) -> tuple[str, str | None]:
    """The folder, or the Hub id and revision, of a variant's checkpoint; CheckpointError if nobody said the folder."""
    name, revision = variant.origin.name, variant.origin.revision
    if variant.checkpoint is not None:
        return variant.checkpoint, revision if variant.checkpoint == name else None
    if revision is None:
        raise CheckpointError(
            f"this bundle was built from the folder {name}, and a bundle does not hold its path: say where the "
            "checkpoint lies, with --checkpoint or Bundle.open(path, checkpoint=...)"
        )
    return name, revision


class PytorchRuntime(Runtime):
    """The cut checkpoint with the attention that transformers chooses: SDPA where the architecture has it.

    All of it is computed in ``options.compute``, pooling included. Raises CheckpointError if the checkpoint that the
    bundle was built from is missing or has changed; RuntimeUnavailable if torch has no CUDA.
    """

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None:
        torch = require("torch", "build")
        from m2d_export.checkpoints.exits import ExitEncoder, cut_checkpoint
        from m2d_export.checkpoints.load import load_checkpoint

        on_gpu = RUNTIMES[options.name].device == "gpu"
        if on_gpu and not torch.cuda.is_available():
            raise RuntimeUnavailable(f"torch {torch.__version__} has no CUDA here: install torch with CUDA")
        self.name = options.name
        self.provider = torch.cuda.get_device_name() if on_gpu else "cpu"
        self.token_budget = GPU_TOKENS if on_gpu else TOKEN_BUDGET
        torch.set_num_threads(options.threads)  # for the whole process: torch has no other setting
        checkpoint = load_checkpoint(*_place(variant), otherwise=variant.pooling)
        if checkpoint.origin.fingerprint != variant.origin.fingerprint:
            raise CheckpointError(
                f"{checkpoint.origin.name} is not what this bundle was built from: the sha256 of its weights and "
                f"settings is {checkpoint.origin.fingerprint[:12]}, expected {variant.origin.fingerprint[:12]}. Name "
                "the right checkpoint with --checkpoint, or build again"
            )
        module: Any = ExitEncoder(cut_checkpoint(checkpoint, variant.layer), [variant.layer]).eval()
        dtype = getattr(torch, PRECISIONS[Precision(options.compute)].torch)
        self._exit: ExitEncoder | None = module.to("cuda" if on_gpu else "cpu", dtype)

    def _vectors(self, batch: Batch) -> FloatArray:
        if self._exit is None:
            raise SpecError(CLOSED)
        return self._exit.vectors(batch)[0]

    def _close(self) -> None:
        self._exit = None
