"""DirectML: only operators and types that its documentation lists. Never executed by the developers.

Source: ONNX Runtime, docs/OperatorKernels.md, DmlExecutionProvider. QuantizeLinear and DequantizeLinear take uint8
and int8 up to opset 20, and int32 for DequantizeLinear only below opset 21, so models are written with opset 20 at
most: the int32 bias needs it. QGemm, QLinearMul, QLinearLeakyRelu, QLinearSoftmax, QLinearWhere and all 16-bit
types are missing there.
"""

from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel, OpSupport, Target

_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))

DIRECTML = Target(
    name="directml",
    provider="DmlExecutionProvider",
    description="DirectML on Windows, from its documentation; not executed by the developers",
    activation=QuantSpec(qtype=UINT8),
    weight=QuantSpec(qtype=INT8, symmetric=True),
    ops={
        "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=1),
        "MatMul": OpSupport(
            activations=(0, 1), weight=1, weight_axis=1, dynamic_weight=True, float_output=True, heavy_from=1
        ),
        **dict.fromkeys(("Add", "AveragePool", "Concat", "GlobalAveragePool", "Sigmoid"), OpSupport()),
        "Relu": OpSupport(kernel=Kernel.CLIPS),
        "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,)),
        **dict.fromkeys(
            ("Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"), _MOVES
        ),
    },
    max_opset=20,
    sources=("ONNX Runtime, docs/OperatorKernels.md, DmlExecutionProvider",),
)

TARGETS = (DIRECTML,)
