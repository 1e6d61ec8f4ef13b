"""NVIDIA TensorRT, from its documentation. Never executed by the developers.

TensorRT's integers are symmetric: int8 with zero point 0 for activations and weights, one scale an activation tensor,
one a channel for weights. It takes QuantizeLinear and DequantizeLinear only and adds biases in float. A Conv is fused
with the activation behind it, so nothing is quantized between the two. ONNX Runtime's CUDA provider has no integer Conv
or MatMul to fuse such pairs to: it computes these models in float, after dequantizing.

Sources: NVIDIA TensorRT documentation, "Working with Quantized Types" and "Explicit Quantization"; onnx-tensorrt,
docs/operators.md (zero points must be 0; QLinearConv and MatMulInteger are not supported); NVIDIA Model Optimizer,
modelopt.onnx.quantization (operators); ONNX Runtime, docs/OperatorKernels.md, CUDAExecutionProvider.
"""

from dataclasses import replace

from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel, OpSupport, Target

_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))
_LIGHT = OpSupport()
_FUSED = OpSupport(kernel=Kernel.FUSED)
_SYMMETRIC = QuantSpec(qtype=INT8, symmetric=True)

_OPS = {
    "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=1),
    "ConvTranspose": OpSupport(activations=(0,), weight=1, weight_axis=1, bias=2, heavy_from=1),
    "Gemm": OpSupport(
        activations=(0,), weight=1, weight_axis=1, transposed="transB", bias=2, float_output=True, heavy_from=1
    ),
    "MatMul": OpSupport(activations=(0,), weight=1, weight_axis=1, float_output=True, heavy_from=1),
    **dict.fromkeys(("Add", "AveragePool", "GlobalAveragePool", "Mul"), _LIGHT),
    "Concat": OpSupport(same_scale=True),
    "Relu": _FUSED,
    "LeakyRelu": _FUSED,
    "Clip": replace(_FUSED, activations=(0,)),
    **dict.fromkeys(
        ("Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"), _MOVES
    ),
    "MaxPool": replace(_MOVES, opset=12),
}

TENSORRT = Target(
    name="tensorrt",
    provider="TensorrtExecutionProvider",
    description="NVIDIA TensorRT, symmetric int8, float biases, from its documentation; not executed by the developers",
    activation=_SYMMETRIC,
    weight=_SYMMETRIC,
    bias=False,
    ops=_OPS,
    sources=(
        "NVIDIA TensorRT documentation, Working with Quantized Types, Explicit Quantization",
        "onnx-tensorrt, docs/operators.md",
        "NVIDIA Model Optimizer, modelopt.onnx.quantization",
        "ONNX Runtime, docs/OperatorKernels.md, CUDAExecutionProvider",
    ),
)

TARGETS = (TENSORRT,)
