"""``extra_options`` of dynamic quantization, and the types that it knows, parsed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Target
from vqonnx.errors import OptionError, nearest
from vqonnx.planning.dynamic.plan import DynamicRules
from vqonnx.planning.rules import Pattern, Selection
from vqonnx.quantizers.options import resolve_target
from vqonnx.quantizers.types import QuantType
from vqonnx.targets.dynamic import dynamic_kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicExtraOptions:
    """The keys of onnxruntime.quantization that mean something here, in this language's case.

    Attributes:
        weight_symmetric: Centre the ranges of weights; None lets the type decide (int8 is).
        mat_mul_const_b_only: Leave a MatMul of two activations float; there is nothing else.
        enable_subgraph: Quantize nodes in bodies of If, Loop and Scan.
        activation_symmetric: Not to be had: DynamicQuantizeLinear is asymmetric.
        force_quantize_no_input_check: Accepted; only nodes with weights are quantized here.
        target: A target, or the name of one; vqonnx's own key ``Target``.
    """

    weight_symmetric: bool | None = None
    mat_mul_const_b_only: bool = True
    enable_subgraph: bool = True
    activation_symmetric: bool = False
    force_quantize_no_input_check: bool = False
    target: Target | str | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, object] | None) -> "DynamicExtraOptions":
        """Read ``extra_options``.

        Raises:
            OptionError: A key is unknown, or a value has the wrong type or cannot be had.
        """
        given: dict[str, Any] = {}
        for key, value in (raw or {}).items():
            if key not in _FIELDS:
                raise OptionError(
                    f"extra_options: {key!r} is no option of dynamic quantization{nearest(key, _FIELDS)}. Known are "
                    f"{', '.join(sorted(_FIELDS))}.",
                    option=key,
                )
            _check_type(key, value)
            given[_FIELDS[key]] = value
        options = cls(**given)
        _check_possible(options)
        return options


_FIELDS = {
    "ActivationSymmetric": "activation_symmetric",
    "EnableSubgraph": "enable_subgraph",
    "ForceQuantizeNoInputCheck": "force_quantize_no_input_check",
    "MatMulConstBOnly": "mat_mul_const_b_only",
    "Target": "target",
    "WeightSymmetric": "weight_symmetric",
}
DYNAMIC_OPTIONS = frozenset(_FIELDS)
"""The keys."""


def _check_type(key: str, value: object) -> None:
    fits, taken = isinstance(value, (bool, np.bool_)), "True or False"
    if key == "Target":
        fits, taken = value is None or isinstance(value, (str, Target)), "a target or the name of one"
    if not fits and not (key == "WeightSymmetric" and value is None):
        raise OptionError(f"extra_options: {key!r} takes {taken}, got {value!r}.", option=key)


def _check_possible(options: DynamicExtraOptions) -> None:
    if options.activation_symmetric:
        raise OptionError(
            "extra_options: 'ActivationSymmetric' cannot be had: DynamicQuantizeLinear (ONNX 11) gives asymmetric "
            "uint8. Leave it out, or quantize statically.",
            option="ActivationSymmetric",
        )
    if not options.mat_mul_const_b_only:
        raise OptionError(
            "extra_options: 'MatMulConstBOnly' must stay True: a MatMul of two activations gains no time in integers "
            "and costs accuracy. Quantize it statically if you need it.",
            option="MatMulConstBOnly",
        )


def dynamic_rules(
    *,
    target: Target | str | None,
    weight_type: object,
    per_channel: bool | None,
    reduce_range: bool | None,
    op_types_to_quantize: Sequence[str] | None,
    nodes_to_quantize: Sequence[Pattern] | None,
    nodes_to_exclude: Sequence[Pattern] | None,
    extra_options: Mapping[str, object] | None,
) -> DynamicRules:
    """The arguments of ``quantize_dynamic`` as rules; None leaves a choice to the target.

    Raises:
        OptionError: An option is unknown, or a value makes no sense.
    """
    extra = DynamicExtraOptions.parse(extra_options)
    device = resolve_target(target if target is not None else extra.target or "cpu")
    return DynamicRules(
        target=device.name,
        weight=_weight(device, weight_type, reduce_range, extra.weight_symmetric),
        per_channel=device.per_channel if per_channel is None else per_channel,
        selection=Selection(
            nodes=tuple(nodes_to_quantize or ()),
            exclude=tuple(nodes_to_exclude or ()),
            op_types=tuple(op_types_to_quantize or ()),
            strict=not device.as_given,
        ),
        bodies=bool(extra.enable_subgraph),
        kernels=dynamic_kernels(device),
    )


def _weight(device: Target, asked: object, reduce_range: bool | None, symmetric: bool | None) -> QuantSpec:
    qtype = device.weight.qtype if asked is None else QuantType.of(asked).qtype
    if qtype not in (INT8, UINT8):
        raise OptionError(
            f"weight_type: integer products at run time have int8 and uint8 weights, not {qtype.name}. For fewer bits "
            "use quantize_weight_only.",
            option="weight_type",
        )
    spec = QuantSpec(
        qtype=qtype,
        symmetric=qtype.signed if symmetric is None else bool(symmetric),
        reduce_range=device.weight.reduce_range and qtype.signed,  # u8 x u8 products do not saturate in 16 bits
        wide=device.weight.wide,
    )
    return spec if reduce_range is None else replace(spec, reduce_range=reduce_range)
