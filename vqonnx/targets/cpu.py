"""ONNX Runtime's CPU provider: what its QDQ fusions turn into integer kernels, and what is worth it.

Measured on ONNX Runtime 1.31: an operator is listed only if DequantizeLinear -> operator -> QuantizeLinear
becomes one integer kernel in the optimized graph and that kernel is not slower than the float one. So these are
left out, though they fuse: Softmax (4 x slower than float), AveragePool (13 x), Where and int8 MaxPool in NCHW.
A MatMul of two activations gains no time and costs accuracy. A Conv breaks even between 16 and 32 products an output
element; so the first one of an image network, with 27, and depthwise ones beside it are faster in float.

The QOperator form has the same operators and some that no fusion reaches. Of those that are slower than float it writes
what users name in ``op_types_to_quantize``.
"""

from dataclasses import replace

from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Form, Kernel, OpSupport, Target

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

# What kernels of integer operators take in ONNX Runtime 1.24 and 1.31: weights' types by that of activations.
_CODES: dict[str, tuple[str, ...]] = {"uint8": (), "int8": ()}
_PRODUCTS = {"uint8": ("int8", "uint8"), "int8": ("int8",)}

_QOPERATOR = {
    **{
        name: replace(support, types=_CODES if support.weight is None else _PRODUCTS)
        for name, support in _OPS.items() if name != "SpaceToDepth"
    },
    "Conv": replace(_OPS["Conv"], types=_PRODUCTS, one_zero_point=True),
    "DepthToSpace": replace(_MOVES, types={"uint8": ()}),
    "com.microsoft::Attention": OpSupport(
        activations=(0,), weight=1, weight_axis=1, float_output=True, heavy_from=1, types={"uint8": ("int8", "uint8")},
        attributes={
            "do_rotary": (0,), "past_present_share_buffer": (0,), "qkv_hidden_sizes": (), "rotary_embedding_dim": (0,),
        },
        absent=(5, 6),
    ),
    "ArgMax": OpSupport(types=_CODES),
    "GatherElements": replace(_MOVES, types=_CODES),
    "Pad": replace(_MOVES, types=_CODES, opset=11),
    "Resize": replace(
        _MOVES, types=_CODES, opset=11,
        attributes={
            # A crop's fill value would be taken for a code.
            "coordinate_transformation_mode": (
                "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
            ),
            # On codes, linear truncates and is slower than in float; cubic fails.
            "mode": ("nearest",),
        },
    ),
    # Several times slower than the float operator between two conversions. QLinearSoftmax fails on empty tensors.
    "AveragePool": OpSupport(
        types=_CODES, on_request=True, attributes={"dilations": ((1,), (1, 1), (1, 1, 1))}, opset=7
    ),
    "Softmax": OpSupport(types=_CODES, on_request=True, output_bounds=(0.0, 1.0), opset=13),
    "Where": OpSupport(types=_CODES, on_request=True),
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
    other_ops={Form.QOPERATOR: _QOPERATOR},
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
