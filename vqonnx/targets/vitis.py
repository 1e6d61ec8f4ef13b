"""AMD's NPU (Ryzen AI, the DPU's successor): what it runs, and in its int8 form the shifts that it can do.

``vitis-npu-cnn`` is that form: int8 everywhere, power-of-two scales, one a tensor. ``vitis`` takes every type that AMD
Quark's QDQ models have, quantizes products of two activations too, and knows no rules; ``vitis-npu-transformer`` is the
same with Quark's types for transformers. Never executed on the device by the developers.

Source: the compiler's constraints as AMD Quark 0.13 states them; "position" is -log2 of a scale. A product shifts its
accumulator, of position weight + input, to the output's ("cut") and its bias to the accumulator's ("bias"); a sum
shifts its inputs to one position ("read") and the result to the output's ("write").
"""

from dataclasses import replace

from vqonnx.core.positions import AlignRule, Allowance, NodeKind, Operand, PositionRule, ShiftRule
from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec, ScaleGrid
from vqonnx.core.target import Form, Kernel, OpSupport, Target

_PRODUCTS = frozenset({NodeKind.PRODUCT, NodeKind.LEAKY_PRODUCT})
_SHIFTED_BIAS = (Operand.WEIGHT, Operand.INPUTS)

NPU_RULES: tuple[PositionRule, ...] = (
    AlignRule(option="AlignConcat", kinds=frozenset({NodeKind.CONCAT})),
    AlignRule(option="AlignPool", kinds=frozenset({NodeKind.POOL})),
    AlignRule(option="AlignPad", kinds=frozenset({NodeKind.PAD})),
    AlignRule(option="AlignSlice", kinds=frozenset({NodeKind.SLICE})),
    AlignRule(option="AlignTranspose", kinds=frozenset({NodeKind.TRANSPOSE}), default=False),
    AlignRule(option="AlignReshape", kinds=frozenset({NodeKind.RESHAPE}), default=False),
    ShiftRule(
        option="AdjustShiftRead",
        kinds=frozenset({NodeKind.ADD, NodeKind.SUB}),
        plus=(Operand.LARGEST_INPUT,),
        minus=(Operand.SMALLEST_INPUT,),
        low=0,
        high=7,
        moves=Operand.LARGEST_INPUT,
    ),
    ShiftRule(
        option="AdjustShiftWrite",
        kinds=frozenset({NodeKind.ADD}),
        plus=(Operand.SMALLEST_INPUT,),
        minus=(Operand.OUTPUT,),
        low=-7,
        high=25,
        moves=Operand.OUTPUT,
    ),
    ShiftRule(
        option="AdjustShiftWrite",
        kinds=frozenset({NodeKind.MUL, NodeKind.SWISH}),
        plus=(Operand.INPUTS,),
        minus=(Operand.OUTPUT,),
        low=0,
        high=32,
        moves=Operand.OUTPUT,
    ),
    ShiftRule(
        option="AdjustShiftCut",
        kinds=_PRODUCTS,
        plus=_SHIFTED_BIAS,
        minus=(Operand.OUTPUT,),
        low=0,
        high=16,
        moves=Operand.WEIGHT,
    ),
    # A bias may be finer than the accumulator: down to min(0, cut - 16), which is 0 or output - bias >= -16.
    ShiftRule(
        option="AdjustShiftBias",
        kinds=frozenset({NodeKind.PRODUCT}),
        plus=_SHIFTED_BIAS,
        minus=(Operand.BIAS,),
        low=0,
        high=15,
        moves=Operand.BIAS,
        allowance=Allowance(plus=(Operand.OUTPUT,), minus=(Operand.BIAS,), low=-16),
    ),
    ShiftRule(
        option="AdjustShiftBias",
        kinds=frozenset({NodeKind.LEAKY_PRODUCT}),
        plus=_SHIFTED_BIAS,
        minus=(Operand.BIAS,),
        low=0,
        high=15,
        moves=Operand.BIAS,
    ),
    ShiftRule(
        option="AdjustHardSigmoid",
        kinds=frozenset({NodeKind.HARD_SIGMOID}),
        plus=(Operand.INPUTS,),
        low=0,
        high=15,
        moves=Operand.INPUTS,
    ),
    ShiftRule(
        option="AdjustHardSigmoid",
        kinds=frozenset({NodeKind.HARD_SIGMOID}),
        plus=(Operand.OUTPUT,),
        low=7,
        high=None,
        moves=Operand.OUTPUT,
    ),
    ShiftRule(
        option="AdjustHardSigmoid",
        kinds=frozenset({NodeKind.HARD_SIGMOID}),
        plus=(Operand.INPUTS,),
        minus=(Operand.OUTPUT,),
        offset=14,
        low=0,
        high=31,
        moves=Operand.OUTPUT,
    ),
    ShiftRule(
        option="AdjustShiftSwish",
        kinds=frozenset({NodeKind.SWISH}),
        plus=(Operand.INPUTS,),
        minus=(Operand.OUTPUT,),
        low=0,
        high=15,
        moves=Operand.OUTPUT,
    ),
)
"""In the order in which broken ones are mended."""

_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))
_LIGHT = OpSupport()
_FUSED = OpSupport(
    kernel=Kernel.FUSED,
    behind=("Add", "AveragePool", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool"),
)

_OPS = {
    "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=1),
    "ConvTranspose": OpSupport(activations=(0,), weight=1, weight_axis=1, bias=2, heavy_from=1),
    "Gemm": OpSupport(activations=(0,), weight=1, weight_axis=1, transposed="transB", bias=2, heavy_from=1),
    "MatMul": OpSupport(activations=(0,), weight=1, weight_axis=1, heavy_from=1),
    "Relu": _FUSED,
    "Clip": replace(_FUSED, activations=(0,), bounds=((0.0, 6.0), (0.0, 1.0))),
    "LeakyRelu": _FUSED,
    "PRelu": _FUSED,
    **dict.fromkeys(
        (
            "Add", "AveragePool", "Concat", "Div", "Erf", "GlobalAveragePool", "HardSigmoid", "InstanceNormalization",
            "LpNormalization", "Max", "Min", "Mul", "Sub", "Tanh",
        ),
        _LIGHT,
    ),
    "Gelu": replace(_LIGHT, opset=20),
    "LayerNormalization": replace(_LIGHT, opset=17),
    "ReduceMean": replace(_LIGHT, activations=(0,)),
    "Sigmoid": OpSupport(output_bounds=(0.0, 1.0)),
    "Softmax": OpSupport(output_bounds=(0.0, 1.0)),
    "Where": OpSupport(activations=(1, 2)),
    **dict.fromkeys(
        (
            "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth",
            "Split", "Squeeze", "Transpose", "Unsqueeze",
        ),
        _MOVES,
    ),
    "MaxPool": replace(_MOVES, opset=12),
    "Resize": replace(_MOVES, opset=11),
}  # fmt: skip
_ANY_OPS = {**_OPS, "MatMul": replace(_OPS["MatMul"], activations=(0, 1), dynamic_weight=True)}

_INTEGERS: dict[str, tuple[str, ...]] = {"uint8": (), "int8": ()}
_WEIGHTS = {"uint8": ("int8", "uint8"), "int8": ("int8",)}
# The integer operators are ONNX Runtime's; the NPU's compiler reads QDQ models.
_QOPERATOR = {
    **{
        name: replace(_OPS[name], types=_INTEGERS)
        for name in (
            "Add", "Concat", "Expand", "Flatten", "Gather", "GlobalAveragePool", "Identity", "MaxPool", "Mul",
            "Reshape", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
        )
    },
    **{name: replace(_OPS[name], types=_WEIGHTS) for name in ("Gemm", "MatMul")},
    "Conv": replace(_OPS["Conv"], types=_WEIGHTS, one_zero_point=True),
    "LeakyRelu": replace(_LIGHT, types=_INTEGERS),
    "Relu": OpSupport(kernel=Kernel.CLIPS, types=_INTEGERS),
    "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,), types=_INTEGERS),
}  # fmt: skip

_PROVIDER = "VitisAIExecutionProvider"
_POWER = QuantSpec(qtype=INT8, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)
_INT8 = QuantSpec(qtype=INT8, symmetric=True)
_SOURCES = ("AMD Quark 0.13, the operators and rules of its ONNX flow; not executed on the device",)

VITIS = Target(
    name="vitis",
    provider=_PROVIDER,
    description="AMD's NPU without rules: any types, int8 by default, float scales, one a tensor",
    activation=_INT8,
    weight=_INT8,
    per_channel=False,
    everything=True,
    family="vitis",
    ops=_ANY_OPS,
    other_ops={Form.QOPERATOR: _QOPERATOR, Form.FIX_NEURON: _ANY_OPS},
    sources=_SOURCES,
)

VITIS_NPU_CNN = replace(
    VITIS,
    name="vitis-npu-cnn",
    description="AMD's NPU, int8 form (XINT8): power-of-two scales, int8 biases, shifts that its registers hold",
    activation=_POWER,
    weight=_POWER,
    own_bias=_POWER,
    positions=NPU_RULES,
    ops=_OPS,
    other_ops={Form.QOPERATOR: _QOPERATOR, Form.FIX_NEURON: _OPS},
)

VITIS_NPU_TRANSFORMER = replace(
    VITIS,
    name="vitis-npu-transformer",
    description="AMD's NPU for transformers: uint8 asymmetric activations, int8 weights, float scales, one a tensor",
    activation=QuantSpec(qtype=UINT8),
)

TARGETS = (VITIS, VITIS_NPU_CNN, VITIS_NPU_TRANSFORMER)
