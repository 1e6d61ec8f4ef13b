"""ONNX Runtime's CPU provider: what its QDQ fusions turn into integer kernels, and what is worth it.

Measured on ONNX Runtime 1.31: an operator is listed only if DequantizeLinear -> operator -> QuantizeLinear
becomes one integer kernel in the optimized graph and that kernel is not slower than the float one. So these are
left out, though they fuse: Softmax (4 x slower than float), AveragePool (13 x), Where and int8 MaxPool in NCHW.
A MatMul of two activations gains no time and costs accuracy. A Conv breaks even between 16 and 32 products an output
element; so the first one of an image network, with 27, and depthwise ones beside it are faster in float.
"""

from dataclasses import replace

from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel, OpSupport, Target

_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))
_LIGHT = OpSupport()

_OPS = {
    "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=32),
    "Gemm": OpSupport(
        activations=(0,), weight=1, weight_axis=1, transposed="transB", bias=2, float_output=True, heavy_from=1
    ),
    "MatMul": OpSupport(
        activations=(0,), weight=1, weight_axis=1, float_output=True, heavy_from=1
    ),
    "Add": _LIGHT,
    "Mul": _LIGHT,
    "Concat": _LIGHT,
    "LeakyRelu": _LIGHT,
    "Sigmoid": _LIGHT,
    "GlobalAveragePool": _LIGHT,
    "Relu": OpSupport(kernel=Kernel.CLIPS),
    "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,)),
    **dict.fromkeys(
        (
            "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth",
            "Split", "Squeeze", "Transpose", "Unsqueeze",
        ),
        _MOVES,
    ),
    "MaxPool": replace(_MOVES, opset=12),
    "Resize": replace(_MOVES, opset=11),
}  # fmt: skip

_ACTIVATION = QuantSpec(qtype=UINT8)
_WEIGHT = QuantSpec(qtype=INT8, symmetric=True)

CPU_X86_VNNI = Target(
    name="cpu-x86-vnni",
    provider="CPUExecutionProvider",
    description="ONNX Runtime on x86 with VNNI or AMX: uint8 activations, int8 weights per channel",
    activation=_ACTIVATION,
    weight=_WEIGHT,
    ops=_OPS,
    sources=("ONNX Runtime 1.31, qdq_selector_action_transformer.cc; measured",),
)

CPU_X86_AVX2 = replace(
    CPU_X86_VNNI,
    name="cpu-x86-avx2",
    description="ONNX Runtime on x86 without VNNI: 7-bit weights, since u8 x s8 pairs saturate in 16 bits there",
    weight=replace(_WEIGHT, reduce_range=True),
    sources=(*CPU_X86_VNNI.sources, "Intel SDM, VPMADDUBSW: two products are added with signed saturation"),
)

CPU_ARM = replace(
    CPU_X86_VNNI,
    name="cpu-arm",
    description="ONNX Runtime on 64-bit Arm: uint8 activations, int8 weights per channel",
    sources=("ONNX Runtime, MLAS sdot/udot/ummla kernels; not measured here",),
)

TARGETS = (CPU_X86_VNNI, CPU_X86_AVX2, CPU_ARM)
