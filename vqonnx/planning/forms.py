"""The plan of one tensor, with what the user fixed for it."""

from dataclasses import replace

import numpy as np

from vqonnx.core.granularity import PerAxis
from vqonnx.core.plan import Role, TensorPlan
from vqonnx.core.qtype import Kind
from vqonnx.core.spec import QuantSpec, ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.kernels.affine import affine_params
from vqonnx.kernels.scale_grid import on_grid
from vqonnx.planning.rules import Override


def form_of(name: str, role: Role, spec: QuantSpec, override: Override | None) -> TensorPlan:
    """A tensor's plan with what the user fixed for it."""
    spec = _typed(spec, override)
    plan = TensorPlan(key=name, tensor=name, role=role, spec=spec)
    if not spec.has_scale:
        return replace(plan, fixed=(np.array(1.0), np.array(0)))
    if override is None:
        return plan
    spec = replace(
        spec,
        symmetric=spec.symmetric if override.symmetric is None else override.symmetric,
        reduce_range=spec.reduce_range if override.reduce_range is None else override.reduce_range,
    )
    if override.scale is not None and override.zero_point is not None:
        _check_fixed(name, spec, override.scale, override.zero_point)
        fixed = (np.asarray(override.scale, np.float64), np.asarray(override.zero_point, np.int64))
        return replace(plan, spec=spec, fixed=fixed)
    if override.channel_ranges:
        if not isinstance(spec.granularity, PerAxis):
            count = len(override.channel_ranges)
            raise override_error(name, f"has {count} ranges, but only weights take one a channel")
        low, high = np.transpose(override.channel_ranges)
        params = affine_params(low, high, spec)
        return replace(plan, spec=spec, fixed=(params.scale, params.zero_point))
    if override.low is not None and override.high is not None:
        return replace(plan, spec=spec, bounds=(override.low, override.high))
    return replace(plan, spec=spec)


def _typed(spec: QuantSpec, override: Override | None) -> QuantSpec:
    """The spec with the user's type; small floats have no zero point."""
    if override is not None and override.qtype is not None:
        spec = replace(spec, qtype=override.qtype)
    return replace(spec, symmetric=True) if spec.qtype.kind is Kind.FLOAT else spec


def _check_fixed(name: str, spec: QuantSpec, scale: tuple[float, ...], zero_point: tuple[int, ...]) -> None:
    qtype = spec.qtype
    if any(not qtype.qmin <= zero <= qtype.qmax for zero in zero_point):
        raise override_error(name, f"zero_point {list(zero_point)} does not fit {qtype.name}")
    if spec.grid is ScaleGrid.POWER_OF_TWO:
        for one in scale:
            nearest = float(on_grid(one, spec.grid))
            if nearest != one:
                raise override_error(name, f"has scale {one}, and its scale is to be a power of two, such as {nearest}")
    if len(scale) != len(zero_point):
        raise override_error(name, f"has {len(scale)} scales but {len(zero_point)} zero points")
    if len(scale) > 1 and not isinstance(spec.granularity, PerAxis):
        raise override_error(name, f"has {len(scale)} scales, but only weights take one a channel")


def override_error(name: str, text: str) -> OptionError:
    """The error about what a user fixed for a tensor."""
    return OptionError(f"TensorQuantOverrides: {name!r} {text}.", option="TensorQuantOverrides")
