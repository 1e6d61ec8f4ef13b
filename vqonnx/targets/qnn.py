"""Qualcomm's NPU (HTP) through ONNX Runtime's QNN provider. Never executed by the developers.

The provider takes a DequantizeLinear -> operator -> QuantizeLinear group as one integer operator; what stays float
leaves the NPU or runs there in float16. So everything that the table has is quantized, wherever it stands. It takes no
dynamic shapes (fix them first) and no Loop. MatMul takes uint8 pairs and one scale a weight; Conv and ConvTranspose
take int8 weights with a scale a channel. 16-bit activations: ``activation_type=QuantType.QUInt16``.

Sources: ONNX Runtime, docs/execution_providers/QNN-ExecutionProvider.md (operators, types, fusions, shapes) and
get_qnn_qdq_config (types, granularity, fixed ranges); Qualcomm QAIRT SDK, HTP Backend Op Definition Supplement.
"""

from dataclasses import replace

from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel, OpSupport, Target

_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))
_LIGHT = OpSupport()
_FIRST = OpSupport(activations=(0,))
_MATRIX = QuantSpec(qtype=UINT8)

_OPS = {
    "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=1),
    "ConvTranspose": OpSupport(activations=(0,), weight=1, weight_axis=1, bias=2, heavy_from=1),
    "Gemm": OpSupport(activations=(0,), weight=1, weight_spec=_MATRIX, bias=2, heavy_from=1),
    "MatMul": OpSupport(activations=(0, 1), weight=1, weight_spec=_MATRIX, dynamic_weight=True, heavy_from=1),
    "Relu": OpSupport(kernel=Kernel.CLIPS),
    "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,)),
    **dict.fromkeys(
        (
            "Abs", "Add", "AveragePool", "Concat", "Div", "Elu", "Exp", "GlobalAveragePool", "InstanceNormalization",
            "LeakyRelu", "Log", "LpNormalization", "Max", "Min", "Mul", "Neg", "PRelu", "Pow", "Softplus", "Sqrt",
            "Sub", "Sum",
        ),
        _LIGHT,
    ),
    "Gelu": replace(_LIGHT, opset=20),
    "HardSwish": replace(_LIGHT, opset=14),
    "LayerNormalization": replace(_LIGHT, opset=17),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _FIRST),
    "Resize": replace(_FIRST, opset=11),
    "Sigmoid": OpSupport(output_bounds=(0.0, 1.0)),
    "Softmax": OpSupport(output_bounds=(0.0, 1.0)),
    "Tanh": OpSupport(output_bounds=(-1.0, 1.0)),
    "Where": OpSupport(activations=(1, 2)),
    **dict.fromkeys(
        (
            "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Pad", "ReduceMax",
            "ReduceMin", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
        ),
        _MOVES,
    ),
    "MaxPool": replace(_MOVES, opset=12),
}  # fmt: skip

QNN_HTP = Target(
    name="qnn-htp",
    provider="QNNExecutionProvider",
    description="Qualcomm's NPU (QNN HTP), from its documentation; not executed by the developers",
    activation=QuantSpec(qtype=UINT8),
    weight=QuantSpec(qtype=INT8, symmetric=True),
    everything=True,
    ops=_OPS,
    sources=(
        "ONNX Runtime, docs/execution_providers/QNN-ExecutionProvider.md and get_qnn_qdq_config",
        "Qualcomm QAIRT SDK, HTP Backend Op Definition Supplement",
    ),
)

TARGETS = (QNN_HTP,)
