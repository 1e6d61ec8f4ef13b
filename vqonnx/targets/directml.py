"""DirectML: only operators and types that its documentation lists. Never executed by the developers.

Source: ONNX Runtime, docs/OperatorKernels.md, DmlExecutionProvider. QuantizeLinear and DequantizeLinear take uint8
and int8 up to opset 20, and int32 for DequantizeLinear only below opset 21, so models are written with opset 20 at
most: the int32 bias needs it. QGemm, QLinearMul, QLinearLeakyRelu, QLinearSoftmax, QLinearWhere and all 16-bit
types are missing there.
"""

from dataclasses import replace

from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Form, Kernel, OpSupport, Target

_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))
_CODES: dict[str, tuple[str, ...]] = {"uint8": (), "int8": ()}
_PRODUCTS = {"uint8": ("int8", "uint8"), "int8": ("int8", "uint8")}

_OPS = {
    "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=1),
    "MatMul": OpSupport(
        activations=(0, 1), weight=1, weight_axis=1, dynamic_weight=True, float_output=True, heavy_from=1
    ),
    **dict.fromkeys(("Add", "AveragePool", "Concat", "GlobalAveragePool", "Sigmoid"), OpSupport()),
    "Relu": OpSupport(kernel=Kernel.CLIPS),
    "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,)),
    **dict.fromkeys(
        (
            "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split",
            "Squeeze", "Transpose", "Unsqueeze",
        ),
        _MOVES,
    ),
    "MaxPool": replace(_MOVES, opset=12),
}  # fmt: skip
_QOPERATOR = {
    **{name: replace(support, types=_CODES if support.weight is None else _PRODUCTS) for name, support in _OPS.items()},
    "AveragePool": OpSupport(types=_CODES, attributes={"dilations": ((1,), (1, 1), (1, 1, 1))}),
}

DIRECTML = Target(
    name="directml",
    provider="DmlExecutionProvider",
    description="DirectML on Windows, from its documentation; not executed by the developers",
    activation=QuantSpec(qtype=UINT8),
    weight=QuantSpec(qtype=INT8, symmetric=True),
    ops=_OPS,
    other_ops={Form.QOPERATOR: _QOPERATOR},
    max_opset=20,
    sources=("ONNX Runtime, docs/OperatorKernels.md, DmlExecutionProvider",),
)

TARGETS = (DIRECTML,)
