"""AMD's NPU (Ryzen AI, the DPU's successor) in its int8 form: power-of-two scales, and the shifts that it can do.

Source: the compiler's constraints as AMD Quark 0.13 states them; "position" is -log2 of a scale. A product shifts its
accumulator, of position weight + input, to the output's ("cut") and its bias to the accumulator's ("bias"); a sum
shifts its inputs to one position ("read") and the result to the output's ("write").
"""

from vqonnx.core.positions import AlignRule, Allowance, NodeKind, Operand, PositionRule, ShiftRule

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
