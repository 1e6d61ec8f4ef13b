"""Refined plans: every rule holds in what is written, and every stored constant still means what it did."""

from dataclasses import replace

import numpy as np
import pytest

from tests.planning.npu import RULES, S8, normal, parsed, planned
from tests.planning.position_problems import broken
from vqonnx.core.plan import Role
from vqonnx.errors import OptionError
from vqonnx.graph.walk import constant, values_by_name
from vqonnx.kernels.affine import affine_params, dequantize
from vqonnx.kernels.constants import constant_params, histogram_of
from vqonnx.kernels.scale_grid import position_of
from vqonnx.planning.position_nodes import position_key, position_nodes
from vqonnx.planning.rules import Override
from vqonnx.quantizers.qdq_quantizer import QDQQuantizer
from vqonnx.quantizers.ranges import planned_params
from vqonnx.stages.refine import refine_positions
from vqonnx.stages.solve import solve
from vqonnx.targets.vitis import NPU_RULES


def refined(model, plan, ranges, rules=NPU_RULES, histograms=None):
    """A refined plan with ranges given by hand."""
    values = values_by_name(model)

    def array(key):
        return constant(values[plan.tensors[key].tensor])

    params = {}
    for key, tensor in plan.tensors.items():
        if tensor.role is Role.ACTIVATION:
            params[key] = planned_params(tensor, ranges[tensor.tensor], np.dtype(np.float32))
        elif tensor.role is Role.WEIGHT or tensor.own_scale:
            params[key] = constant_params(array(key), tensor.spec)
    for key, tensor in plan.tensors.items():  # a group has the largest range of its members
        if tensor.group in params:
            params[key] = max((params[key], params[tensor.group]), key=lambda one: one.scale)
    return refine_positions(model, plan, params, rules, histograms or {}, array)


def solved(model, plan, ranges):
    quantizer = QDQQuantizer(model, extra_options={"ForceQuantizeNoInputCheck": True})
    quantizer.model, quantizer.plan, quantizer.tensors_range = model, plan, dict(ranges)
    return solve(model, plan, quantizer)


CASES = {
    # A bias of 100 under a narrow output: AMD's 0.13 moves its scale behind the codes and reads 50.
    "bias": (
        "y = Conv (x, w, b)",
        {"w": normal(6, 4, 3, 3, scale=1e-4), "b": np.array([100, -3, 2, 1, 0, 50], np.float32)},
        {"x": (-0.01, 0.01), "y": (-100.0, 100.0)},
    ),
    # A constant of 0.5 in a Concat with a wide neighbour: AMD's reads 32.
    "concat": (
        "y = Concat <axis=1> (x, c)",
        {"c": np.full((1, 2, 8, 8), 0.5, np.float32)},
        {"x": (-90.0, 90.0), "y": (-90.0, 90.0)},
    ),
    "cut": ("y = Conv (x, w)", {"w": normal(6, 4, 1, 1, scale=20.0)}, {"x": (-900.0, 900.0), "y": (-1.0, 1.0)}),
    "add": ("y = Add (x, c)", {"c": normal(1, 4, 8, 8, scale=1e-4)}, {"x": (-99.0, 99.0), "y": (-99.0, 99.0)}),
    "pool": ("y = MaxPool <kernel_shape=[2,2]> (x)", {}, {"x": (-9.0, 9.0), "y": (-1.0, 1.0)}),
    "leaky": (
        "c = Conv (x, w, b)\n y = LeakyRelu <alpha=0.1015625> (c)",
        {"w": normal(6, 4, 3, 3), "b": normal(6, scale=1e-6)},
        {"x": (-50.0, 50.0), "c": (-90.0, 90.0), "y": (-9.0, 90.0)},
    ),
    "swish": (
        "h = HardSigmoid <alpha=0.16666667, beta=0.5> (x)\n y = Mul (x, h)",
        {},
        {"x": (-500.0, 500.0), "h": (0.0, 1.0), "y": (-0.3, 0.001)},
    ),
    "gemm": (
        "m = MatMul (x, w)\n a = Add (m, b)\n y = Relu (a)",
        {"w": normal(8, 5, scale=1e-3), "b": normal(5, scale=30.0)},
        {"x": (-0.1, 0.1), "y": (0.0, 50.0)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rules_hold_and_constants_keep_their_values(case):
    text, constants, ranges = CASES[case]
    model = parsed(text, constants)
    start = planned(model)
    plan, refinement = refined(model, start, ranges)
    assert refinement.violations == ()
    solutions = solved(model, plan, ranges)
    keys = [key for key in plan.tensors if position_key(plan, key) in refinement.positions]
    at = {position_key(plan, key): int(position_of(solutions.params(key).scale)) for key in keys}
    assert at == dict(refinement.positions)
    assert not any(broken(node, at) - {"AlignTranspose", "AlignReshape"} for node in position_nodes(model, plan))
    for key, quantized in solutions.constants.items():
        real, stored = constants[key], dequantize(quantized.codes, quantized.params)
        limit = 127 * float(quantized.params.scale)
        inside = np.abs(real) <= limit
        assert (np.abs(stored - real)[inside] <= float(quantized.params.scale) / 2 * 1.001).all()
        np.testing.assert_array_equal(np.abs(stored[~inside]), np.float32(limit))


@pytest.mark.parametrize(
    ("case", "before"), [("bias", {"AdjustShiftBias"}), ("concat", {"AlignConcat"}), ("cut", {"AdjustShiftCut"})]
)
def test_the_cases_break_rules_before(case, before):
    text, constants, ranges = CASES[case]
    model = parsed(text, constants)
    _, untouched = refined(model, planned(model), ranges, rules=[])
    (node,) = position_nodes(model, planned(model))
    assert before <= broken(node, untouched.positions)


def test_positions_that_break_nothing_are_fixed_where_they_are():
    model = parsed("y = Conv (x, w, b)", {"w": normal(6, 4, 3, 3), "b": normal(6)})
    ranges = {"x": (-3.0, 3.0), "y": (-20.0, 20.0)}
    plan, refinement = refined(model, planned(model), ranges)
    assert refinement.moves == ()
    for key, fixed in ((key, tensor.fixed) for key, tensor in plan.tensors.items()):
        assert fixed is not None, key
        assert fixed[0] == affine_params(*ranges[key], S8).scale if key in ranges else position_of(fixed[0]) is not None


def test_what_the_user_fixed_stays():
    model = parsed("y = Concat <axis=1> (x, c)", {"c": np.full((1, 2, 8, 8), 0.5, np.float32)})
    rules = replace(RULES, overrides={"x": Override(scale=(0.25,), zero_point=(0,))})
    plan, refinement = refined(model, planned(model, rules), {"x": (-1.0, 1.0), "y": (-9.0, 9.0)})
    assert refinement.violations == ()
    assert set(refinement.positions.values()) == {2}
    assert float(plan.tensors["c"].fixed[0]) == 0.25


def test_a_fixed_scale_that_is_no_power_of_two_is_refused():
    model = parsed("y = Add (x, x)")
    rules = replace(RULES, overrides={"x": Override(scale=(0.3,), zero_point=(0,))})
    with pytest.raises(OptionError, match=r"'x' has scale 0\.3, and its scale is to be a power of two"):
        refined(model, planned(model, rules), {"x": (-1.0, 1.0), "y": (-9.0, 9.0)})


def test_an_output_finer_than_its_accumulator_is_lowered_and_the_weight_is_not_clipped():
    weight = np.full((6, 4, 1, 1), 60.0, np.float32)
    model = parsed("y = Conv (x, w)", {"w": weight})
    ranges = {"x": (-1.0, 1.0), "y": (-0.2, 0.2)}
    spreads = {name: histogram_of(np.linspace(*ends, 4000, dtype=np.float32)) for name, ends in ranges.items()}
    _, refinement = refined(model, planned(model), ranges, histograms=spreads)
    assert refinement.violations == ()
    assert {move.key for move in refinement.moves} == {"y"}


def test_group_members_move_together():
    model = parsed("a = Add (x, x)\n t = Transpose <perm=[0,2,3,1]> (a)\n y = Add (t, c)", {"c": np.float32([1e-4])})
    ranges = {"x": (-99.0, 99.0), "a": (-99.0, 99.0), "t": (-99.0, 99.0), "y": (-99.0, 99.0)}
    plan, refinement = refined(model, planned(model), ranges)
    assert refinement.violations == ()
    assert plan.tensors["a"].fixed[0] == plan.tensors["t"].fixed[0]
