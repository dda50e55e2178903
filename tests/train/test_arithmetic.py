"""The type in which a training computes."""

import pytest

from train import arithmetic


@pytest.mark.parametrize(("flags", "fast"), [({"avx2"}, False), ({"avx512_bf16"}, True), ({"amx_bf16"}, True)])
def test_a_cpu_with_products_of_bfloat16_uses_them(
    flags: set[str], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "flags", lambda: flags)
    arithmetic.multiplies_bfloat16.cache_clear()
    assert arithmetic.multiplies_bfloat16("cpu") is fast
    arithmetic.multiplies_bfloat16.cache_clear()
