"""The operators that are allowed in a graph of a bundle, and their attributes.

They have no control flow, read no other files and run no other code.
"""

OPSETS = (18, 23)  # opset 18 is for all runtimes, opset 23 is for ONNX Runtime only
AXES = range(-8, 8)

TYPES = {"f": 1, "i": 2, "s": 3, "t": 4, "ints": 7}  # AttributeProto.type for each field that can hold the value
ATTRIBUTES = {
    "allowzero": "i",
    "alpha": "f",
    "approximate": "s",
    "axes": "ints",
    "axis": "i",
    "batch_dims": "i",
    "beta": "f",
    "end": "i",
    "epsilon": "f",
    "equation": "s",
    "exclusive": "i",
    "fmod": "i",
    "interleaved": "i",
    "is_causal": "i",
    "keepdims": "i",
    "kv_num_heads": "i",
    "noop_with_empty_axes": "i",
    "num_heads": "i",
    "num_outputs": "i",
    "output_dtype": "i",
    "perm": "ints",
    "q_num_heads": "i",
    "qk_matmul_output_mode": "i",
    "reduction": "s",
    "reverse": "i",
    "rotary_embedding_dim": "i",
    "saturate": "i",
    "scale": "f",
    "softcap": "f",
    "softmax_precision": "i",
    "start": "i",
    "stash_type": "i",
    "to": "i",
    "transA": "i",
    "transB": "i",
    "value": "t",
}
REDUCTIONS = "ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split()
AXES_INPUT = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1, **dict.fromkeys(REDUCTIONS, 1)}  # the input that holds the axes
OPERATORS = {
    **dict.fromkeys(
        "Abs Add And Ceil Clip Cos Div Equal Erf Exp Expand Floor Greater GreaterOrEqual HardSwish Identity IsInf "
        "IsNaN Less LessOrEqual Log MatMul Max Mean Min Mish Mul Neg Not Or Pow PRelu Range Reciprocal Relu Round "
        "Sigmoid Sign Sin Size Softplus Softsign Sqrt Sub Sum Tanh Tile Where Xor".split(),
        "",
    ),
    **dict.fromkeys(REDUCTIONS, "keepdims noop_with_empty_axes axes"),
    **dict.fromkeys("Concat Flatten Gather GatherElements LogSoftmax Softmax Hardmax".split(), "axis"),
    **dict.fromkeys("Celu Elu LeakyRelu ThresholdedRelu".split(), "alpha"),
    "Attention": "is_causal kv_num_heads q_num_heads qk_matmul_output_mode scale softcap softmax_precision",
    "Cast": "saturate to",
    "Constant": "value",
    "ConstantOfShape": "value",
    "CumSum": "exclusive reverse",
    "DequantizeLinear": "axis output_dtype",
    "Einsum": "equation",
    "GatherND": "batch_dims",
    "Gelu": "approximate",
    "Gemm": "alpha beta transA transB",
    "HardSigmoid": "alpha beta",
    "LayerNormalization": "axis epsilon stash_type",
    "Mod": "fmod",
    "QuantizeLinear": "axis output_dtype saturate",
    "RMSNormalization": "axis epsilon stash_type",
    "Reshape": "allowzero",
    "RotaryEmbedding": "interleaved num_heads rotary_embedding_dim",
    "ScatterElements": "axis reduction",
    "ScatterND": "reduction",
    "Selu": "alpha",
    "Shape": "end start",
    "Slice": "",
    "Split": "axis num_outputs",
    "Squeeze": "",
    "Transpose": "perm",
    "Trilu": "",
    "Unsqueeze": "",
}
