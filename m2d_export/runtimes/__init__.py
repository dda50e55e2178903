"""What runs a variant: batches in, vectors out. A library is imported when its runtime is checked or opened."""

from m2d_export.runtimes.runtime import Closing, Runtime, RuntimeOptions
from m2d_export.runtimes.table import check_runtime, open_runtime

__all__ = ["Closing", "Runtime", "RuntimeOptions", "check_runtime", "open_runtime"]
