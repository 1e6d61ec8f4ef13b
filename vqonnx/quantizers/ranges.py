"""From the ranges or statistics of activations to their scales and zero points."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.statistics import Statistic
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Plan, TensorPlan
from vqonnx.core.qtype import Kind
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import OptionError, QuantRangeError, SampleError
from vqonnx.kernels.affine import affine_params, block_ranges
from vqonnx.kernels.constants import constant_params
from vqonnx.kernels.ranges import RangeOptions

Array = npt.NDArray[np.generic]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeRules:
    """How ranges are turned into parameters.

    Attributes:
        options: Options of the range methods.
        symmetric: Centre every measured range on zero first, whatever the type.
        least_range: Smallest width that a range with 0 may have; 0 allows any.
        restricted: Give unsigned types a zero point of 0 or the middle code.
    """

    options: RangeOptions = RangeOptions()  # noqa: RUF009 - frozen
    symmetric: bool = False
    least_range: float = 0.0
    restricted: bool = False


def activation_params(
    plan: Plan,
    ranges: Mapping[str, object],
    rules: RangeRules,
    dtype_of: Callable[[str], np.dtype[np.generic]],
) -> dict[str, QuantParams]:
    """Scale and zero point of every planned activation, by key; those of a group are the same.

    Args:
        plan: The plan.
        ranges: A statistic, a (low, high) pair or an object with ``range_value``, by tensor name.
        rules: How ranges are read.
        dtype_of: Scale type of a tensor, by key.

    Raises:
        OptionError: A tensor has no range.
        QuantRangeError: A range is not finite.
        SampleError: Nothing was observed of a tensor.
    """
    groups: dict[str, list[TensorPlan]] = {}
    for tensor in plan.activations():
        groups.setdefault(tensor.group, []).append(tensor)
    found: dict[str, QuantParams] = {}
    for members in groups.values():
        common = _union(_range_of(tensor, ranges, rules) for tensor in members if _has_range(tensor))
        fixed = next((tensor for tensor in members if tensor.fixed is not None), None)
        for tensor in members:
            found[tensor.key] = planned_params(fixed or tensor, common, dtype_of(tensor.key))
    return {tensor.key: found[tensor.key] for tensor in plan.activations()}


def planned_params(tensor: TensorPlan, measured: Range, dtype: np.dtype[np.generic]) -> QuantParams:
    """The parameters that the user fixed for a tensor, or those of its range."""
    if tensor.fixed is not None:
        scale, zero_point = (np.asarray(part).reshape(()) if np.size(part) == 1 else part for part in tensor.fixed)
        return QuantParams(scale.astype(dtype), zero_point.astype(tensor.spec.qtype.dtype), tensor.spec)
    low, high = measured
    try:
        return affine_params(low, high, tensor.spec, dtype)
    except QuantRangeError as error:
        raise QuantRangeError(f"tensor {tensor.tensor!r}: {error}", tensor=tensor.tensor) from error


def measured_params(
    values: Array, spec: QuantSpec, method: RangeMethod, rules: RangeRules, dtype: np.dtype[np.generic]
) -> QuantParams:
    """Scale and zero point of a constant by its own range, no smaller than the rules allow.

    Raises:
        QuantRangeError: It holds NaN or infinite values.
    """
    if rules.least_range == 0 or method is not RangeMethod.MIN_MAX:
        return constant_params(values, spec, method, rules.options, dtype)
    low, high = block_ranges(values, spec)
    return affine_params(low, np.maximum(high, np.minimum(low, 0) + rules.least_range), spec, dtype)


def _has_range(tensor: TensorPlan) -> bool:
    return tensor.method is not None or tensor.bounds is not None


def _range_of(tensor: TensorPlan, ranges: Mapping[str, object], rules: RangeRules) -> Range:
    if tensor.bounds is not None:
        return tensor.bounds
    if tensor.tensor not in ranges:
        raise OptionError(
            f"tensors_range has no range for tensor {tensor.tensor!r}; calibrate it, give it a range, or exclude "
            f"the nodes around it.",
            option="tensors_range",
        )
    low, high = _read(ranges[tensor.tensor], tensor, rules)
    if low == high == 0 and tensor.if_dead is not None:
        low, high = tensor.if_dead
    if rules.symmetric:
        low, high = min(low, -high), max(high, -low)
    if low <= high:  # else an error, told where the scale is made
        high = max(high, min(low, 0.0) + rules.least_range)
    return _centred(low, high, tensor.spec) if rules.restricted else (low, high)


def _centred(low: float, high: float, spec: QuantSpec) -> Range:
    """The least range around this one for which 0 has the middle code of an unsigned type, if it is below 0 at all."""
    if low >= 0 or spec.symmetric or spec.qtype.signed or spec.qtype.kind is not Kind.INTEGER:
        return low, high
    below = (spec.qmin + spec.qmax + 1) // 2 - spec.qmin
    above = spec.qmax - spec.qmin - below
    step = max(-low / below, high / above)
    return -step * below, step * above


def _read(known: object, tensor: TensorPlan, rules: RangeRules) -> Range:
    if isinstance(known, Statistic):
        if known.is_empty:
            raise SampleError(
                f"tensor {tensor.tensor!r} is empty in every calibration sample, so nothing tells its range. Add "
                "samples in which it has elements, or exclude the nodes around it (nodes_to_exclude).",
                tensor=tensor.tensor,
            )
        return known.range(tensor.method or RangeMethod.MIN_MAX, tensor.spec, rules.options)
    low, high = known.range_value if hasattr(known, "range_value") else known  # type: ignore[misc]
    return float(np.min(low)), float(np.max(high))


def _union(ranges: Iterable[Range]) -> Range:
    pairs = list(ranges)
    return min((low for low, _ in pairs), default=0.0), max((high for _, high in pairs), default=0.0)


def not_finite(name: str, fact: str) -> QuantRangeError:
    """The error about a constant that has no range."""
    return QuantRangeError(
        f"constant {name!r} cannot be quantized: {fact}. Exclude the nodes that read it with nodes_to_exclude, or "
        f"repair the model.",
        tensor=name,
    )
