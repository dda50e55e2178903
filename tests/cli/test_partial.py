"""``build --partial``: what passes is published, what does not is named on standard error, and the exit code is 1."""

from dataclasses import replace
from pathlib import Path

import pytest

from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Precision
from tests.cli.commands import Run


@pytest.mark.slow
def test_a_partial_build_ends_with_code_1_and_what_it_published_can_be_used(
    run: Run, folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = PRECISIONS[Precision.FP16]
    monkeypatch.setitem(PRECISIONS, Precision.FP16, replace(row, bounds=replace(row.bounds, cosine_min=1.1)))
    partial = run("build", checkpoint, "-o", "new.m2d", "--layers", "1", "--precision", "fp32,fp16", "--partial")
    assert (partial.code, partial.out) == (1, "")
    assert "layer 1, fp16" in partial.err
    assert run("verify", "new.m2d").code == 0
    assert run("encode", "new.m2d", "texts.txt", "-o", "vectors.npy").code == 0
    missing = run("encode", "new.m2d", "texts.txt", "-o", "half.npy", "--precision", "fp16")
    assert missing.code == 2
    assert "layer 1 in fp32" in missing.err
