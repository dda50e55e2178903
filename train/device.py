"""Where a training runs."""

from m2d_export.errors import SpecError
from m2d_export.host.extras import require


def choose_device(asked: str | None, extra: str) -> str:
    """``asked``, or cuda if torch finds one, else cpu; raises SpecError for a cuda that torch does not find."""
    cuda = require("torch", extra).cuda.is_available()
    if asked == "cuda" and not cuda:
        raise SpecError("torch finds no CUDA device: leave --device out to train on the CPU")
    return asked or ("cuda" if cuda else "cpu")
