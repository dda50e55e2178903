"""Every pass has one contract: it is a function of its module's name, and returns whether it changed the graph."""

import pkgutil
from importlib import import_module

import pytest

from m2d_export.graphs import passes
from tests.support.graph_files import data_of, parsed

NAMES = sorted({module.name for module in pkgutil.iter_modules(passes.__path__)} - {"common"})


def test_there_are_passes() -> None:
    assert {"fold_prologue", "fuse_attention", "fuse_qkv"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_returns_false_and_changes_nothing_where_its_pattern_is_not_found(name: str) -> None:
    model = parsed("""
        g (float[batch, 2] x) => (float[batch, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}>
        {
          a = MatMul(x, w)
          c = Add(a, b)
          unused = Relu(a)
          y = Erf(c)
        }
    """)
    before = data_of(model)
    apply = getattr(import_module(f"{passes.__name__}.{name}"), name)
    assert apply(model) is False
    assert data_of(model) == before
