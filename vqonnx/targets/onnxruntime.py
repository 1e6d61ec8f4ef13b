"""What onnxruntime.quantization quantizes, for programs that come from it: its operators, types and placement.

Not a device: nothing here is chosen for speed. Which operators it lists, and where it puts pairs, was found by running
version 1.31 on graphs of each operator.
"""

from dataclasses import replace

from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Form, Kernel, OpSupport, Target
from vqonnx.targets.cpu import CPU_X86_VNNI

_EMBED = "com.microsoft::EmbedLayerNormalization"
_PAIRS = OpSupport()
"""A pair around each float input and output."""
_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,), follows=True)
_PRODUCT = OpSupport(activations=(0, 1), weight=1, weight_axis=1, dynamic_weight=True)
_NORM = OpSupport(activations=(0, 1), weight=1, dynamic_weight=True, bias=2)

_QDQ = {
    "Conv": replace(_PRODUCT, weight_axis=0, bias=2),
    "ConvTranspose": replace(_PRODUCT, bias=2),
    "Gemm": replace(_PRODUCT, transposed="transB", bias=2),
    "MatMul": _PRODUCT,
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), _NORM),
    **dict.fromkeys(
        (
            "Add", "ArgMax", "Concat", "CumSum", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid",
            _EMBED,
        ),
        _PAIRS,
    ),
    "Softmax": replace(_PAIRS, output_bounds=(0.0, 1.0)),
    "Where": OpSupport(activations=(1, 2), follows=True),
    "Relu": OpSupport(kernel=Kernel.CLIPS, follows=True),
    "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,), follows=True),
    **dict.fromkeys(
        (
            "AveragePool", "Flatten", "Gather", "GatherElements", "Reshape", "Slice", "Squeeze", "TopK", "Transpose",
            "Unsqueeze",
        ),
        _MOVES,
    ),
    "MaxPool": replace(_MOVES, opset=12),
    "Resize": replace(_MOVES, opset=11),
    "Split": replace(_MOVES, follows=False),
    "Pad": OpSupport(kernel=Kernel.MOVES),
}  # fmt: skip

DYNAMIC_OPERATORS = ("Conv", "MatMul", "Attention", "LSTM", "Gather", "Transpose", "EmbedLayerNormalization")
"""Quantized by default where ranges are found at run time."""

_INTEGER = CPU_X86_VNNI.forms[Form.QOPERATOR]
_LISTED = (
    "ArgMax", "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool",
    "GlobalAveragePool", "Split", "Pad", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Resize", "AveragePool",
    "Concat", "Softmax", "Where", "Gather", "Transpose",
)  # fmt: skip
_FOLLOWING = (
    "ArgMax", "Relu", "Clip", "MaxPool", "Pad", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Resize", "Transpose",
    "Gather", "GlobalAveragePool", "Where",
)  # fmt: skip


_TABLES = OpSupport(activations=(2, 3, 4, 5, 6), float_output=True, types={"uint8": (), "int8": ()}, absent=(8,))


def _integer(name: str) -> OpSupport:
    support = replace(_INTEGER[name], heavy_from=None, float_output=False, on_request=False, follows=name in _FOLLOWING)
    if name == "Softmax":
        return replace(support, opset=1)
    if name not in ("Conv", "Gemm", "MatMul"):
        return support
    return replace(support, activations=(0, 1), dynamic_weight=True)


ONNXRUNTIME = Target(
    name="onnxruntime",
    provider="CPUExecutionProvider",
    description="what onnxruntime.quantization quantizes, with its defaults; for programs that come from it",
    activation=QuantSpec(qtype=INT8, wide=True),
    weight=QuantSpec(qtype=INT8, symmetric=True, wide=True),
    per_channel=False,
    as_given=True,
    ops=_QDQ,
    others=_PAIRS,
    other_ops={Form.QOPERATOR: {**{name: _integer(name) for name in _LISTED}, _EMBED: _TABLES}},
    sources=("ONNX Runtime 1.31, its quantizer run on graphs of each operator; docs, Quantize ONNX models",),
)

TARGETS = (ONNXRUNTIME,)
