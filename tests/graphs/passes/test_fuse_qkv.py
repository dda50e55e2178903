"""Linear layers of one input become one."""

import numpy as np

from m2d_export.graphs.passes.fuse_qkv import fuse_qkv
from tests.support.graph_files import kinds, parsed, run

TWO = """
    g (float[2, 4] x) => (float[2, 3] y1, float[2, 3] y2)
    {
      input = Identity(x)
      p1 = MatMul(input, w1)
      p2 = MatMul(input, w2)
      s1 = Add(b1, p1)
      s2 = Add(p2, b2)
      y1 = Relu(s1)
      y2 = Relu(s2)
    }
"""


def test_layers_of_one_input_are_fused_whichever_input_of_the_add_their_bias_is() -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.normal(size=(4, 3)).astype(np.float32) for name in ("w1", "w2")}
    constants |= {name: rng.normal(size=3).astype(np.float32) for name in ("b1", "b2")}
    model, feeds = parsed(TWO, **constants), {"x": rng.normal(size=(2, 4)).astype(np.float32)}
    expected = run(model, feeds)
    assert fuse_qkv(model)
    assert kinds(model) == {"Identity": 1, "MatMul": 1, "Add": 1, "Split": 1, "Relu": 2}
    np.testing.assert_allclose(run(model, feeds), expected, rtol=1e-4, atol=1e-6)
    assert not fuse_qkv(model)


def test_the_old_weights_are_gone() -> None:
    ones = {name: np.ones((4, 3), np.float32) for name in ("w1", "w2")}
    model = parsed(TWO, **ones, b1=np.ones(3, np.float32), b2=np.ones(3, np.float32))
    fuse_qkv(model)
    assert not set(model.graph.initializers) & {"w1", "w2", "b1", "b2"}
