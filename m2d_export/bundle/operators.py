"""The operators that a graph of a bundle may have, with their attributes: no control flow, no other files, no code."""

OPSETS = (18, 23)  # for all runtimes; for one of them
AXES = range(-8, 8)

TYPES = {"f": 1, "i": 2, "s": 3, "t": 4, "ints": 7}  # AttributeProto.type by the field that holds the value
ATTRIBUTES = {
    "allowzero": "i",
    "alpha": "f",
    "approximate": "s",
    "axes": "ints",
    "axis": "i",
    "beta": "f",
    "end": "i",
    "epsilon": "f",
    "exclusive": "i",
    "is_causal": "i",
    "keepdims": "i",
    "kv_num_heads": "i",
    "largest": "i",
    "noop_with_empty_axes": "i",
    "num_outputs": "i",
    "output_dtype": "i",
    "perm": "ints",
    "q_num_heads": "i",
    "qk_matmul_output_mode": "i",
    "reverse": "i",
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
AXES_INPUT = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1, **dict.fromkeys(REDUCTIONS, 1)}  # the input that has axes
OPERATORS = {
    **dict.fromkeys(
        "Abs Add And Ceil Clip Cos Div Equal Erf Exp Expand Floor Greater GreaterOrEqual HardSwish Identity IsInf "
        "IsNaN Less LessOrEqual Log MatMul Max Mean Min Mish Mul Neg Not Or Pow PRelu Range Reciprocal Relu Round "
        "Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tanh Tile Where Xor".split(),
        "",
    ),
    **dict.fromkeys(REDUCTIONS, "keepdims noop_with_empty_axes axes"),
    **dict.fromkeys("Concat Gather GatherElements LogSoftmax Softmax Hardmax".split(), "axis"),
    **dict.fromkeys("Celu Elu LeakyRelu ThresholdedRelu".split(), "alpha"),
    "Attention": "is_causal kv_num_heads q_num_heads qk_matmul_output_mode scale softcap softmax_precision",
    "Cast": "saturate to",
    "Constant": "value",
    "ConstantOfShape": "value",
    "CumSum": "exclusive reverse",
    "DequantizeLinear": "axis output_dtype",
    "Gelu": "approximate",
    "Gemm": "alpha beta transA transB",
    "HardSigmoid": "alpha beta",
    "LayerNormalization": "axis epsilon stash_type",
    "QuantizeLinear": "axis output_dtype saturate",
    "RMSNormalization": "axis epsilon stash_type",
    "Reshape": "allowzero",
    "Selu": "alpha",
    "Shape": "end start",
    "Slice": "",
    "Split": "axis num_outputs",
    "Squeeze": "",
    "Transpose": "perm",
    "Trilu": "",
    "Unsqueeze": "",
}
