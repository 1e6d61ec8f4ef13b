"""All options of the quantizer classes, typed, in one frozen value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.core.target import Form, Target
from vqonnx.kernels.ranges import RangeOptions
from vqonnx.planning.rules import Pattern, PlanRules, Selection
from vqonnx.quantizers.extra_options import ExtraOptions, parse_extra_options
from vqonnx.quantizers.ranges import RangeRules
from vqonnx.quantizers.types import QuantType
from vqonnx.runtime.machine import cpu_target_name
from vqonnx.targets.registry import get_target

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
    """

    target: Target
    rules: PlanRules
    methods: tuple[RangeMethod, ...] = DEFAULT_METHODS
    ranges: RangeRules = RangeRules()  # noqa: RUF009 - frozen
    weight_method: RangeMethod = RangeMethod.MIN_MAX
    moving_average: float = 0.01
    grow_weight_scale: bool = True

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
        method: RangeMethod | None = None,
        extra_options: Mapping[str, object] | None = None,
    ) -> Self:
        """Parse the arguments of a quantizer class; None leaves a choice to the target.

        Raises:
            OptionError: An option is unknown, or a value makes no sense.
        """
        extra = parse_extra_options(extra_options)
        device = resolve_target(extra.target if extra.target is not None else target)
        methods = _methods(method, extra)
        rules = PlanRules(
            activation=_activation_spec(device, activation_type, extra),
            weight=_weight_spec(device, weight_type, reduce_range, extra),
            form=form,
            per_channel=device.per_channel if per_channel is None else per_channel,
            quantize_bias=device.bias and extra.quantize_bias,
            own_bias=device.own_bias,
            dynamic_matmul=not extra.mat_mul_const_b_only,
            method=methods[0],
            selection=Selection(
                nodes=tuple(nodes_to_quantize or ()),
                exclude=tuple(nodes_to_exclude or ()),
                op_types=tuple(op_types_to_quantize or ()),
            ),
            overrides=extra.tensor_quant_overrides,
            keep_clips=extra.qdq_keep_removable_activations,
            contrib=extra.use_qdq_contrib_ops,
            everything=extra.force_quantize_no_input_check,
        )
        ranges = RangeRules(
            options=RangeOptions(percentile=extra.calib_percentile),
            symmetric=extra.calib_tensor_range_symmetric,
            least_range=extra.minimum_real_range or 0.0,
        )
        return cls(
            target=device,
            rules=rules,
            methods=methods,
            ranges=ranges,
            moving_average=extra.calib_moving_average_constant,
            grow_weight_scale=not extra.qdq_disable_weight_adjust_for_int32_bias,
        )


def resolve_target(target: Target | str) -> Target:
    """The target itself or of that name; ``"cpu"`` is this machine's."""
    if isinstance(target, Target):
        return target
    return get_target(cpu_target_name() if target == "cpu" else target)


def _methods(method: RangeMethod | None, extra: ExtraOptions) -> tuple[RangeMethod, ...]:
    if extra.calib_moving_average and method in (None, RangeMethod.MIN_MAX):
        return (RangeMethod.MOVING_AVERAGE,)
    return DEFAULT_METHODS if method is None else (method,)


def _activation_spec(target: Target, asked: object, extra: ExtraOptions) -> QuantSpec:
    spec = target.activation
    if asked is not None:
        spec = replace(spec, qtype=QuantType.of(asked).qtype)
    return replace(spec, symmetric=True) if extra.activation_symmetric else spec


def _weight_spec(target: Target, asked: object, reduce_range: bool | None, extra: ExtraOptions) -> QuantSpec:
    spec = target.weight
    if asked is not None:
        qtype = QuantType.of(asked).qtype
        spec = replace(spec, qtype=qtype, symmetric=qtype.signed)
    if extra.weight_symmetric is not None:
        spec = replace(spec, symmetric=extra.weight_symmetric)
    return spec if reduce_range is None else replace(spec, reduce_range=reduce_range)
