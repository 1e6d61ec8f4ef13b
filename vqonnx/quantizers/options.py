"""All options of the quantizer classes, typed, in one frozen value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from vqonnx.core.positions import PositionRule
from vqonnx.core.qtype import FLOAT32, INT8, INT16, Kind
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.core.target import Form, Target
from vqonnx.errors import OptionError
from vqonnx.kernels.ranges import RangeOptions
from vqonnx.planning.layer_types import with_qtype
from vqonnx.planning.rules import Override, Pattern, PlanRules, Selection
from vqonnx.quantizers.extra_options import ExtraOptions, parse_extra_options
from vqonnx.quantizers.ranges import RangeRules
from vqonnx.quantizers.types import PowerOfTwoMethod, QuantType
from vqonnx.quantizers.vitis_options import KNOWN, VitisOptions, parse_vitis_options, range_method, split_options
from vqonnx.runtime.machine import cpu_target_name
from vqonnx.stages.adapt import Adaptation
from vqonnx.stages.layer_equalization import Equalization
from vqonnx.stages.smooth import Smoothing
from vqonnx.targets.registry import get_target
from vqonnx.transforms.cross_layer import CrossLayerEqualization

_CPU = "CPUExecutionProvider"
DEFAULT_METHODS = (RangeMethod.MSE, RangeMethod.MEAN)
"""Neither is best on all models, so that both are tried where held-back samples can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerOptions:
    """What a quantizer was asked for.

    Attributes:
        target: The device.
        rules: What shapes the plan; ``rules.method`` is the first of ``methods``.
        methods: The range methods to try.
        ranges: How ranges become parameters.
        weight_method: How the ranges of weights are chosen.
        moving_average: Weight of a new sample in a moving average.
        grow_weight_scale: Grow a weight's scale where the bias would not fit int32.
        adaptation: What is done to the float model first.
        equalizations: Ways to equalize layers, of which held-back samples choose one.
        cross_layer: How each of them balances the weights.
        positions: Rules on positions that hold in the result.
        smoothing: How outliers of activations go into weights first; None: not at all.
        default_type: Type of tensors that have none after inference, by ONNX's number.
    """

    target: Target
    rules: PlanRules
    methods: tuple[RangeMethod, ...] = DEFAULT_METHODS
    ranges: RangeRules = RangeRules()  # noqa: RUF009 - frozen
    weight_method: RangeMethod = RangeMethod.MIN_MAX
    moving_average: float = 0.01
    grow_weight_scale: bool = True
    adaptation: Adaptation = field(default_factory=Adaptation)
    equalizations: tuple[Equalization, ...] = (Equalization.NONE,)
    cross_layer: CrossLayerEqualization = CrossLayerEqualization()  # noqa: RUF009 - frozen
    positions: tuple[PositionRule, ...] = ()
    smoothing: Smoothing | None = None
    default_type: int | None = None

    @classmethod
    def of(
        cls,
        *,
        form: Form = Form.QDQ,
        target: Target | str = "cpu",
        per_channel: bool | None = None,
        reduce_range: bool | None = None,
        weight_type: object = None,
        activation_type: object = None,
        nodes_to_quantize: Sequence[Pattern] | None = None,
        nodes_to_exclude: Sequence[Pattern] | None = None,
        op_types_to_quantize: Sequence[str] | None = None,
        calibrate_method: object = None,
        tensor_types: Mapping[str, object] | None = None,
        extra_options: Mapping[str, object] | None = None,
    ) -> Self:
        """Parse the arguments of a quantizer class; None leaves a choice to the target.

        ``calibrate_method`` is a member of ``CalibrationMethod`` or ``PowerOfTwoMethod``, or the name of one;
        ``tensor_types`` has the element types of single tensors, by name.

        Raises:
            OptionError: An option is unknown, or a value makes no sense.
        """
        own, others = split_options(extra_options)
        extra = parse_extra_options(others, KNOWN)
        device = resolve_target(extra.target if extra.target is not None else target)
        _check_family(device, own)
        vitis = parse_vitis_options(own)
        device = vitis.target_for(device)
        _check_granularity(device, per_channel)
        methods = _methods(device, calibrate_method, extra, vitis)
        grid = _grid(device, calibrate_method, vitis)
        activation = replace(_activation_spec(device, activation_type, extra), grid=grid)
        if calibrate_method is None and (grid is ScaleGrid.POWER_OF_TWO or not activation.has_scale):
            methods = (RangeMethod.MSE,)
        rules = PlanRules(
            activation=activation,
            weight=replace(_weight_spec(device, weight_type, reduce_range, per_channel, extra), grid=grid),
            form=form,
            per_channel=device.per_channel if per_channel is None else per_channel,
            quantize_bias=device.bias and extra.quantize_bias,
            own_bias=_own_bias(device, activation_type, weight_type, grid, vitis),
            dynamic_matmul=not extra.mat_mul_const_b_only,
            method=methods[0],
            selection=Selection(
                nodes=tuple(nodes_to_quantize or ()),
                exclude=tuple(nodes_to_exclude or ()),
                op_types=tuple(op_types_to_quantize or ()),
                strict=not device.as_given,
            ),
            overrides=_with_types(extra.tensor_quant_overrides, tensor_types or {}),
            keep_clips=extra.qdq_keep_removable_activations,
            contrib=extra.use_qdq_contrib_ops,
            custom_ops=vitis.custom_ops,
            clip_bfloat16=vitis.clip_bfloat16,
            everything=extra.force_quantize_no_input_check,
            layers=vitis.layers,
            unsigned_relu=vitis.unsigned_relu,
            activations=vitis.activations,
            bodies=not device.as_given if extra.enable_subgraph is None else extra.enable_subgraph,
            float_outputs=frozenset(extra.op_types_to_exclude_output_quantization),
            channel_axes=dict(extra.qdq_op_type_per_channel_support_to_axis),
            block_size=extra.block_size,
            weight_pairs=extra.add_qdq_pair_to_weight,
            own_pairs=extra.dedicated_qdq_pair,
            keep_stored=device.as_given and form is Form.QDQ,
            half_biases=device.provider == _CPU and device.family == "" and form is Form.QDQ,
            sigmoid_256=extra.sigmoid_nnapi,
        )
        percentile = RangeOptions(percentile=extra.calib_percentile)
        ranges = RangeRules(
            options=percentile if vitis.ranges == RangeOptions() else vitis.ranges,
            symmetric=extra.calib_tensor_range_symmetric,
            least_range=extra.minimum_real_range or 0.0,
            restricted=extra.activation_restricted_asymmetric,
        )
        return cls(
            target=device,
            rules=rules,
            methods=methods,
            ranges=ranges,
            weight_method=vitis.weight_method or _weight_method(device, rules.weight),
            moving_average=extra.calib_moving_average_constant,
            grow_weight_scale=not extra.qdq_disable_weight_adjust_for_int32_bias,
            adaptation=vitis.adaptation_for(device) if device.family == "vitis" else Adaptation(),
            equalizations=vitis.equalizations if device.family == "vitis" else (Equalization.NONE,),
            cross_layer=vitis.cross_layer,
            positions=vitis.positions_for(device) if grid is ScaleGrid.POWER_OF_TWO else (),
            smoothing=Smoothing(extra.smooth_quant_alpha, extra.smooth_quant_folding) if extra.smooth_quant else None,
            default_type=extra.default_tensor_type,
        )


def resolve_target(target: Target | str) -> Target:
    """The target itself or of that name; ``"cpu"`` is this machine's."""
    if isinstance(target, Target):
        return target
    return get_target(cpu_target_name() if target == "cpu" else target)


def _check_family(device: Target, given: Mapping[str, object]) -> None:
    if given and device.family != "vitis":
        key = next(iter(given))
        raise OptionError(
            f"extra_options: {key!r} is an option of the targets for AMD's NPU, and the target is {device.name!r}. "
            "Choose target='vitis', 'vitis-npu-cnn' or 'vitis-npu-transformer', or leave it out.",
            option=key,
        )


def _check_granularity(device: Target, per_channel: bool | None) -> None:
    if per_channel and device.positions:
        raise OptionError(
            f"per_channel: target {device.name} shifts whole tensors, so that a weight has one scale. Leave it out, or "
            "choose target='vitis'.",
            option="per_channel",
        )


def _methods(device: Target, method: object, extra: ExtraOptions, vitis: VitisOptions) -> tuple[RangeMethod, ...]:
    if is_power_of_two(method):
        return (PowerOfTwoMethod.of(method).method(vitis.mode),)
    found = None if method is None else range_method(method)
    if extra.calib_moving_average and found in (None, RangeMethod.MIN_MAX):
        return (RangeMethod.MOVING_AVERAGE,)
    if found is None and device.as_given:
        return (RangeMethod.MIN_MAX,)
    return DEFAULT_METHODS if found is None else (found,)


def _grid(device: Target, method: object, vitis: VitisOptions) -> ScaleGrid:
    """The values that scales may take: the target's, unless the method or an option names others."""
    if vitis.int16_scale:
        return ScaleGrid.INT16
    return ScaleGrid.POWER_OF_TWO if is_power_of_two(method) else device.activation.grid


def is_power_of_two(method: object) -> bool:
    """Whether a range method is one of ``PowerOfTwoMethod``, or the name of one."""
    return str(getattr(method, "name", method)) in PowerOfTwoMethod.__members__


def _own_bias(
    device: Target, activation_type: object, weight_type: object, grid: ScaleGrid, vitis: VitisOptions
) -> QuantSpec | None:
    """What biases become where they have scales of their own: 16-bit floats where all is; float beside other floats."""
    types = [QuantType.of(asked).qtype for asked in (activation_type, weight_type) if asked is not None]
    if any(qtype.kind is not Kind.INTEGER for qtype in types):
        spec = replace(device.weight, qtype=types[-1])
        return replace(spec, qtype=FLOAT32) if spec.has_scale or spec.qtype.kind is not Kind.FLOAT else spec
    if vitis.int32_bias or (vitis.int32_bias is None and not vitis.int16_bias and device.own_bias is None):
        return None
    spec = device.own_bias or replace(device.weight, qtype=INT8, symmetric=True)
    return replace(spec, qtype=INT16 if vitis.int16_bias else spec.qtype, grid=grid)


def _with_types(overrides: Mapping[str, Override], types: Mapping[str, object]) -> dict[str, Override]:
    """The overrides with the types of single tensors; what an override itself says wins."""
    found = dict(overrides)
    for name, qtype in types.items():
        override = found.get(name, Override())
        found[name] = replace(override, qtype=override.qtype or QuantType.of(qtype).qtype)
    return found


def _activation_spec(target: Target, asked: object, extra: ExtraOptions) -> QuantSpec:
    spec = target.activation
    if asked is not None:
        spec = with_qtype(spec, QuantType.of(asked).qtype)
    return spec if extra.activation_symmetric is None else replace(spec, symmetric=extra.activation_symmetric)


def _weight_method(target: Target, weight: QuantSpec) -> RangeMethod:
    """How the ranges of weights are chosen where the user does not say it; the peer lets float8 ones spread."""
    if weight.grid is ScaleGrid.POWER_OF_TWO:
        return RangeMethod.MSE
    spreads = target.as_given and weight.qtype.kind is Kind.FLOAT and weight.has_scale
    return RangeMethod.DISTRIBUTION if spreads else RangeMethod.MIN_MAX


def _weight_spec(
    target: Target, asked: object, reduce_range: bool | None, per_channel: bool | None, extra: ExtraOptions
) -> QuantSpec:
    spec = target.weight
    if asked is not None:
        qtype = QuantType.of(asked).qtype
        spec = replace(spec, qtype=qtype, symmetric=qtype.signed)
    if extra.weight_symmetric is not None:
        spec = replace(spec, symmetric=extra.weight_symmetric)
    if per_channel and target.as_given:
        spec = replace(spec, symmetric=True)  # one zero point for all channels, which integer operators want
    return spec if reduce_range is None else replace(spec, reduce_range=reduce_range)
