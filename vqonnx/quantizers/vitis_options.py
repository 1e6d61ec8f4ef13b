"""``extra_options`` that AMD Quark's flow knows and onnxruntime.quantization does not, parsed into typed values.

Those without a switch here are in ``quark_options``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from vqonnx.core.positions import PositionRule
from vqonnx.core.spec import RangeMethod
from vqonnx.core.target import Form, Kernel, Target
from vqonnx.errors import OptionError, nearest
from vqonnx.kernels.ranges import RangeOptions
from vqonnx.planning.rules import LayerTypes
from vqonnx.quantizers.option_values import flag, mapping, names, negated, number, numbers, text, whole, wrong
from vqonnx.quantizers.quark_options import FIXED_OPTIONS, check_fixed
from vqonnx.quantizers.types import CalibrationMethod, PowerOfTwoMethod, QuantType
from vqonnx.stages.adapt import Adaptation
from vqonnx.stages.layer_equalization import Equalization
from vqonnx.transforms.cross_layer import CrossLayerEqualization
from vqonnx.transforms.dpu_simulation import DpuSimulation

_SIMULATIONS = {
    "ConvertLeakyReluToDPUVersion": "leaky_relu",
    "ConvertSigmoidToHardSigmoid": "sigmoid",
    "ConvertHardSigmoidToDPUVersion": "hard_sigmoid",
    "ConvertAvgPoolToDPUVersion": "average_pool",
    "ConvertReduceMeanToDPUVersion": "reduce_mean",
    "ConvertClipToDPUVersion": "clip",
    "ConvertSoftmaxToDPUVersion": "softmax",
}
_PASSES = {
    "ConvertFP16ToFP32": "half_to_float",
    "ConvertNCHWToNHWC": "channels_last",
    "ConvertNHWCToNCHW": "channels_first",
    "ConvertBNToConv": "batch_norms",
    "ConvertSplitToSlice": "splits",
    "SplitLargeKernelPool": "large_pools",
    "FuseGelu": "gelus",
    "FuseLayerNorm": "layer_norms",
    "FuseInstanceNorm": "instance_norms",
    "FuseL2Norm": "l2_norms",
    "CopyBiasInit": "own_biases",
    "ReplaceClip6Relu": "relus",
    "ConvertClipToRelu": "all_relus",
}
_DEFAULT_PASSES = Adaptation(
    batch_norms=True, splits=True, large_pools=True, gelus=True, layer_norms=True, instance_norms=True, l2_norms=True,
    own_biases=True,
)  # fmt: skip
_RULES = (
    "AlignConcat", "AlignPool", "AlignPad", "AlignSlice", "AlignTranspose", "AlignReshape", "AdjustShiftRead",
    "AdjustShiftWrite", "AdjustShiftCut", "AdjustShiftBias", "AdjustHardSigmoid", "AdjustShiftSwish",
)  # fmt: skip
_BEFORE = {
    "RemoveQDQConvClip": "Clip",
    "RemoveQDQConvRelu": "Relu",
    "RemoveQDQConvLeakyRelu": "LeakyRelu",
    "RemoveQDQConvPRelu": "PRelu",
    "RemoveQDQConvGelu": "Gelu",
    "RemoveQDQInstanceNorm": "InstanceNormalization",
}
"""Operators with or without a pair before them, where they follow another one."""
_CROSS_LAYER = ("CLESteps", "CLEWeightThreshold", "CLEScaleUseThreshold", "CLEScaleAppendBias")
_CLE_THRESHOLD = 0.5
"""Quark's, where it is switched on and not given."""
_EQUALIZATIONS: Mapping[object, tuple[Equalization, ...]] = {
    "auto": (Equalization.NONE, Equalization.LINKS),
    True: (Equalization.LINKS,),
    False: (Equalization.NONE,),
    **{one.value: (one,) for one in Equalization},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VitisOptions:
    """The options; None leaves a choice to the target.

    Attributes:
        int32_bias: ``Int32Bias``: int32 on the accumulator's scale, or else what ``int16_bias`` says.
        int16_bias: ``Int16Bias``: biases are int16 with scales of their own, not int8.
        unsigned_relu: ``UseUnsignedReLU``.
        activations: Not ``WeightsOnly``.
        custom_ops: ``UseQDQVitisCustomOps``: write ExtendedQuantizeLinear and ExtendedDequantizeLinear.
        int16_scale: ``Int16Scale``: scales are M * 2^-N.
        mode: ``MinMSEModePof2Scale``; see ``PowerOfTwoMethod.method``.
        weight_method: ``WeightCalibrateMethod``: a method's name.
        ranges: ``Percentile``, ``PercentileCandidates``, ``LWPMetric`` ("mae" or "mse").
        adaptation: The transforms of the float model.
        simulate: ``SimulateDPU``.
        limits: ``NPULimitationCheck``: whether the device's rules on positions are kept.
        rules: Single rules switched on or off, by option.
        layers: ``LayerTypes``: ``{pattern: {"activation_type": …, "weight_type": …}}``.
        equalizations: ``IncludeCLE``: True, False, "auto": what held-back samples prefer, or "through clips", which
            costs the device an operator a Clip.
        cross_layer: ``CLESteps`` (-1: until nothing changes), ``CLEWeightThreshold``, ``CLEScaleUseThreshold`` and
            ``CLEScaleAppendBias``.
        fused: ``RemoveQDQConvRelu`` and the like: by operator, whether it belongs to the one before it.
        clip_bfloat16: ``BF16WithClip``: what is beyond bfloat16 becomes its largest number, not infinite.
    """

    int32_bias: bool | None = None
    int16_bias: bool = False
    unsigned_relu: bool = False
    activations: bool = True
    custom_ops: bool = False
    int16_scale: bool = False
    mode: str = "All"
    weight_method: RangeMethod | None = None
    ranges: RangeOptions = RangeOptions()  # noqa: RUF009 - frozen
    adaptation: Adaptation = _DEFAULT_PASSES
    simulate: bool | None = None
    limits: bool = True
    rules: Mapping[str, bool] = field(default_factory=dict)
    layers: tuple[LayerTypes, ...] = ()
    equalizations: tuple[Equalization, ...] = _EQUALIZATIONS[True]
    cross_layer: CrossLayerEqualization = CrossLayerEqualization()  # noqa: RUF009 - frozen
    fused: Mapping[str, bool] = field(default_factory=dict)
    clip_bfloat16: bool = False

    def target_for(self, target: Target) -> Target:
        """The target, with its operators fused to those before them as asked."""
        kernels = {name: Kernel.FUSED if fused else Kernel.COMPUTE for name, fused in self.fused.items()}
        ops = {name: replace(op, kernel=kernels.get(name, op.kernel)) for name, op in target.ops.items()}
        others = dict(target.other_ops) | ({Form.FIX_NEURON: ops} if Form.FIX_NEURON in target.other_ops else {})
        return replace(target, ops=ops, other_ops=others) if kernels else target

    def positions_for(self, target: Target) -> tuple[PositionRule, ...]:
        """The target's rules that are to hold."""
        rules = target.positions if self.limits else ()
        return tuple(rule for rule in rules if self.rules.get(rule.option, rule.default))

    def adaptation_for(self, target: Target) -> Adaptation:
        """The transforms, with the device's arithmetic where its rules are to hold, or it is asked for."""
        simulate = bool(target.positions) if self.simulate is None else self.simulate
        return self.adaptation if simulate else replace(self.adaptation, simulation=None)


def split_options(raw: Mapping[str, object] | None) -> tuple[dict[str, object], dict[str, object]]:
    """The options of this module, and the others."""
    given = dict(raw or {})
    own = {key: given.pop(key) for key in list(given) if key in KNOWN or key in FIXED_OPTIONS}
    return own, given


def parse_vitis_options(given: Mapping[str, object]) -> VitisOptions:
    """Read the options of this module.

    Raises:
        OptionError: A value has the wrong type, or asks for what is not offered.
    """
    check_fixed(given)
    passes = {name: flag(key, given[key]) for key, name in _PASSES.items() if key in given}
    parts = {name: flag(key, given[key]) for key, name in _SIMULATIONS.items() if key in given}
    adaptation = replace(
        _DEFAULT_PASSES,
        **passes,  # type: ignore[arg-type]  # flags all
        **{name: read(key, given[key]) for key, (name, read) in _ADAPTED.items() if key in given},  # type: ignore[arg-type]
        simulation=DpuSimulation(**parts),
    )
    ranges = {name: read(key, given[key]) for key, (name, read) in _RANGES.items() if key in given}
    single = {name: read(key, given[key]) for key, (name, read) in _SINGLE.items() if key in given}
    return VitisOptions(
        adaptation=adaptation,
        ranges=RangeOptions(**ranges),  # type: ignore[arg-type]  # checked by the readers
        rules={key: flag(key, given[key]) for key in _RULES if key in given},
        cross_layer=_cross_layer(given),
        fused={op: flag(key, given[key]) for key, op in _BEFORE.items() if key in given},
        **single,  # type: ignore[arg-type]
    )


def _metric(key: str, value: object) -> bool:
    if value not in ("mae", "mse"):
        raise wrong(key, "'mae' or 'mse'", value)
    return value == "mse"


def _method(key: str, value: object) -> RangeMethod:
    del key
    return range_method(value)


def _equalizations(key: str, value: object) -> tuple[Equalization, ...]:
    if not isinstance(value, (bool, str)) or value not in _EQUALIZATIONS:
        raise wrong(key, "True, False or " + ", ".join(repr(k) for k in _EQUALIZATIONS if isinstance(k, str)), value)
    return _EQUALIZATIONS[value]


def _cross_layer(given: Mapping[str, object]) -> CrossLayerEqualization:
    default = CrossLayerEqualization()
    rounds = whole("CLESteps", given.get("CLESteps"))
    uses = flag("CLEScaleUseThreshold", given.get("CLEScaleUseThreshold", "CLEWeightThreshold" in given))
    least = number("CLEWeightThreshold", given.get("CLEWeightThreshold", _CLE_THRESHOLD))
    return CrossLayerEqualization(
        rounds=default.rounds if rounds is None or rounds < 0 else rounds,
        count_bias=flag("CLEScaleAppendBias", given.get("CLEScaleAppendBias", default.count_bias)),
        least=least if uses else default.least,
    )


def _layers(key: str, value: object) -> tuple[LayerTypes, ...]:
    known = ("activation_type", "weight_type")
    found = []
    for pattern, types in mapping(key, value).items():
        for name in mapping(key, types):
            if name not in known:
                raise OptionError(
                    f"extra_options: {key!r} has no type {name!r} for {pattern!r}{nearest(name, known)}.", option=key
                )
        given = {name: QuantType.of(one).qtype for name, one in mapping(key, types).items()}
        found.append(
            LayerTypes(pattern=pattern, activation=given.get("activation_type"), weight=given.get("weight_type"))
        )
    return tuple(found)


def range_method(value: object) -> RangeMethod:
    """The range method that a member of ``CalibrationMethod`` or ``PowerOfTwoMethod``, or its name, stands for."""
    name = str(getattr(value, "name", value))
    if name in PowerOfTwoMethod.__members__:
        return PowerOfTwoMethod[name].method()
    return CalibrationMethod.of(value).method


_Read = Callable[[str, object], object]
_ADAPTED: Mapping[str, tuple[str, _Read]] = {
    "ConvertOpsetVersion": ("opset", whole),
    "FixShapes": ("sizes", mapping),
    "CopySharedInit": ("own_constants", names),
}
_RANGES: Mapping[str, tuple[str, _Read]] = {
    "Percentile": ("percentile", number),
    "PercentileCandidates": ("percentiles", numbers),
    "LWPMetric": ("squared", _metric),
}
_SINGLE: Mapping[str, tuple[str, _Read]] = {
    "Int32Bias": ("int32_bias", flag),
    "Int16Bias": ("int16_bias", flag),
    "UseUnsignedReLU": ("unsigned_relu", flag),
    "WeightsOnly": ("activations", negated),
    "UseQDQVitisCustomOps": ("custom_ops", flag),
    "Int16Scale": ("int16_scale", flag),
    "MinMSEModePof2Scale": ("mode", text),
    "WeightCalibrateMethod": ("weight_method", _method),
    "SimulateDPU": ("simulate", flag),
    "NPULimitationCheck": ("limits", flag),
    "LayerTypes": ("layers", _layers),
    "IncludeCLE": ("equalizations", _equalizations),
    "BF16WithClip": ("clip_bfloat16", flag),
}
KNOWN = frozenset({*_PASSES, *_SIMULATIONS, *_RULES, *_ADAPTED, *_RANGES, *_SINGLE, *_BEFORE, *_CROSS_LAYER})
"""The keys of this module."""
