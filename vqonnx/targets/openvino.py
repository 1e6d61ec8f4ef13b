"""Intel OpenVINO, from its documentation. Never executed by the developers.

OpenVINO's low-precision transformations move the DequantizeLinear behind an integer operator through the graph and
fuse it with the next QuantizeLinear. Weights are symmetric with a scale a channel, activations asymmetric with one a
tensor (its "mixed" preset); biases are added in float. All inputs of a Concat share one scale.

Sources: OpenVINO documentation, "OpenVINO Low Precision Transformations", "Quantized models compute and restrictions"
and "Quantization Scheme"; NNCF, nncf/common/hardware/configs/cpu.json (operators, types, granularity).
"""

from dataclasses import replace

from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel, OpSupport, Target

_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))
_LIGHT = OpSupport()
_FIRST = OpSupport(activations=(0,))

_OPS = {
    "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=1),
    "ConvTranspose": OpSupport(activations=(0,), weight=1, weight_axis=1, bias=2, heavy_from=1),
    "Gemm": OpSupport(
        activations=(0,), weight=1, weight_axis=1, transposed="transB", bias=2, float_output=True, heavy_from=1
    ),
    "MatMul": OpSupport(
        activations=(0, 1), weight=1, weight_axis=1, dynamic_weight=True, float_output=True, heavy_from=1
    ),
    **dict.fromkeys(("Add", "AveragePool", "Div", "GlobalAveragePool", "Max", "Min", "Mul", "Sub"), _LIGHT),
    "Concat": OpSupport(same_scale=True),
    "ReduceMean": _FIRST,
    "Resize": replace(_FIRST, opset=11),
    "Relu": OpSupport(kernel=Kernel.CLIPS),
    "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,)),
    **dict.fromkeys(
        (
            "Expand", "Flatten", "Identity", "Pad", "ReduceMax", "Reshape", "Slice", "Split", "Squeeze", "Tile",
            "Transpose", "Unsqueeze",
        ),
        _MOVES,
    ),
    "MaxPool": replace(_MOVES, opset=12),
}  # fmt: skip

OPENVINO = Target(
    name="openvino",
    provider="OpenVINOExecutionProvider",
    description="Intel OpenVINO, float biases, from its documentation; not executed by the developers",
    activation=QuantSpec(qtype=UINT8),
    weight=QuantSpec(qtype=INT8, symmetric=True),
    bias=False,
    ops=_OPS,
    sources=(
        "OpenVINO documentation, Low Precision Transformations and Quantization Scheme",
        "NNCF, nncf/common/hardware/configs/cpu.json",
    ),
)

TARGETS = (OPENVINO,)
