import pytest
from hypothesis import given

from tests.planning.position_problems import broken, problems
from vqonnx.core.positions import AlignRule, NodeKind, Operand, PositionNode, ShiftRule
from vqonnx.planning.constraints import aligned, constraints, keys_of, spread
from vqonnx.targets.vitis import NPU_RULES

CONV = PositionNode(name="c", kind=NodeKind.PRODUCT, inputs=("x",), output="y", weight="w", bias="b")


def found(node, option):
    themselves = {key: key for key in ("x", "y", "w", "b", "a")}
    return [one for one in constraints([node], NPU_RULES, themselves) if one.rule.option == option]


@given(problems(least=-30, most=30))
def test_constraints_are_broken_where_the_plain_formulas_say_so(problem):
    nodes, start = problem
    shifts = constraints(nodes, NPU_RULES, {key: key for key in start})
    for node in nodes:
        from_shifts = {
            one.rule.option for one in shifts if one.node is not node and one.node == node and one.excess(start)
        }
        from_spread = {
            rule.option
            for rule, other in aligned(nodes, NPU_RULES)
            if other is node and spread(rule, node, start).slack
        }
        assert from_shifts | from_spread == broken(node, start)
    for one in shifts:
        assert (one.excess(start) > 0) == (one.shift(start).slack < 0)


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_a_rule_without_one_of_its_operands_does_not_hold(missing):
    node = PositionNode(
        name="c",
        kind=NodeKind.PRODUCT,
        inputs=("x",),
        output="y",
        weight=None if missing == "weight" else "w",
        bias=None if missing == "bias" else "b",
    )
    assert not found(node, "AdjustShiftBias")
    assert bool(found(node, "AdjustShiftCut")) == (missing == "bias")


def test_an_allowance_lowers_the_bound():
    (one,) = found(CONV, "AdjustShiftBias")
    assert set(one.operand_keys()) == {"w", "x", "b", "y"}
    at = {"x": 5, "w": 5, "y": 0, "b": 14}  # cut 10: down to -(24 - (8 + 10))
    assert (one.shift(at).value, one.shift(at).low, one.excess(at)) == (-4, -6, 0)
    assert one.excess({**at, "b": 18}) == 2


def test_each_input_that_is_out_of_bounds_counts():
    rules = [
        ShiftRule(
            option="spread",
            kinds=frozenset({NodeKind.ADD}),
            plus=(Operand.SMALLEST_INPUT,),
            minus=(Operand.OUTPUT,),
            low=0,
            high=9,
            moves=Operand.LARGEST_INPUT,
        )
    ]
    node = PositionNode(name="n", kind=NodeKind.ADD, inputs=("a", "b", "c"), output="y")
    (one,) = constraints([node], rules, {key: key for key in "abcy"})
    at = {"a": 1, "b": 2, "c": 7, "y": 3}
    assert one.shift(at).value == -2
    assert one.excess(at) == 3
    assert one.excess({**at, "y": -9}) == 1
    assert one.preferred(at) == ("c",)


def test_keys_stand_for_others():
    (one, *_) = constraints([CONV], NPU_RULES, {"x": "t", "y": "t", "w": "w", "b": "b"})
    assert (one.node.inputs, one.node.output) == (("t",), "t")
    assert keys_of(one.node, Operand.BIAS) == ("b",)


def test_only_align_rules_align():
    pool = PositionNode(name="p", kind=NodeKind.POOL, inputs=("x",), output="y")
    ((rule, node),) = aligned([pool, CONV], NPU_RULES)
    assert isinstance(rule, AlignRule)
    assert node is pool
    assert spread(rule, pool, {"x": 1, "y": 4}).slack == -3
