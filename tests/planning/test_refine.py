import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.position_problems import broken, problems
from vqonnx.core.positions import NodeKind, PositionNode, ShiftRule
from vqonnx.planning.refine import refine
from vqonnx.targets.vitis import NPU_RULES


def product(weight="w", bias="b", kind=NodeKind.PRODUCT):
    return PositionNode(name="conv", kind=kind, inputs=("x",), output="y", weight=weight, bias=bias)


def pair(kind):
    return PositionNode(name="n", kind=kind, inputs=("a", "b"), output="y")


def single(kind):
    return PositionNode(name="n", kind=kind, inputs=("x",), output="y")


@settings(max_examples=300)
@given(problems())
def test_all_rules_hold_in_the_end(problem):
    nodes, start = problem
    found = refine(nodes, start, NPU_RULES)
    assert found.violations == ()
    assert found.positions.keys() == start.keys()
    assert not any(broken(node, found.positions) for node in nodes)


@settings(max_examples=60)
@given(problems(max_nodes=10), st.integers(0, 2**16))
def test_all_rules_hold_whatever_the_losses(problem, seed):
    nodes, start = problem
    losses = {
        key: lambda at, best=position + (seed >> number % 12) % 3: 4.0 ** (best - at) + 50 * max(0, at - best)
        for number, (key, position) in enumerate(start.items())
    }
    found = refine(nodes, start, NPU_RULES, losses)
    assert found.violations == ()
    assert not any(broken(node, found.positions) for node in nodes)


@given(problems(least=4, most=9))
def test_positions_that_break_nothing_stay(problem):
    nodes, start = problem
    found = refine(nodes, start, NPU_RULES)
    if not any(broken(node, start) for node in nodes):
        assert found.positions == start
        assert found.moves == ()
    again = refine(nodes, found.positions, NPU_RULES)
    assert again.positions == found.positions
    assert again.moves == ()


@settings(max_examples=60)
@given(problems(), st.data())
def test_fixed_positions_stay_and_what_they_break_is_named(problem, data):
    nodes, start = problem
    fixed = data.draw(st.sets(st.sampled_from(sorted(start))))
    found = refine(nodes, start, NPU_RULES, fixed=fixed)
    assert all(found.positions[key] == start[key] for key in fixed)
    named = {(shift.option, shift.node) for shift in found.violations}
    assert named == {(option, node.name) for node in nodes for option in broken(node, found.positions)}


@settings(max_examples=60)
@given(problems(), st.randoms(use_true_random=False))
def test_equal_problems_have_equal_results(problem, random):
    nodes, start = problem
    keys = list(start)
    random.shuffle(keys)
    one, other = refine(nodes, start, NPU_RULES), refine(nodes, {key: start[key] for key in keys}, NPU_RULES)
    assert one.positions == other.positions
    assert one.moves == refine(nodes, start, NPU_RULES).moves


@given(problems(), st.data())
def test_rules_that_are_off_change_nothing(problem, data):
    nodes, start = problem
    off = data.draw(st.sampled_from(sorted({rule.option for rule in NPU_RULES})))
    found = refine(nodes, start, [rule for rule in NPU_RULES if rule.option != off])
    assert all(broken(node, found.positions) <= {off} for node in nodes)
    assert off not in {shift.option for shift in found.shifts} | {move.option for move in found.moves}
    assert refine(nodes, start, []).positions == start


@given(problems())
def test_moves_lead_from_the_start_to_the_result(problem):
    nodes, start = problem
    found, at = refine(nodes, start, NPU_RULES), dict(start)
    for move in found.moves:
        assert at[move.key] == move.before != move.after
        at[move.key] = move.after
    assert at == found.positions


@pytest.mark.parametrize(
    ("node", "start", "expected"),
    [
        (product(bias=None), {"x": 5, "w": 3, "y": 10}, {"w": 5}),  # cut -2: the weight moves
        (product(bias=None), {"x": 12, "w": 12, "y": 5}, {"w": 9}),  # cut 19
        (product(), {"x": 5, "w": 7, "y": 4, "b": -5}, {"b": -3}),  # shift 17
        (product(), {"x": 5, "w": 7, "y": 4, "b": 21}, {"b": 20}),  # below min(0, -(24 - (8 + 8)))
        (product(kind=NodeKind.LEAKY_PRODUCT), {"x": 5, "w": 7, "y": 4, "b": 14}, {"b": 12}),
        (pair(NodeKind.ADD), {"a": 1, "b": 12, "y": 3}, {"b": 8}),  # read: the larger is lowered
        (pair(NodeKind.ADD), {"a": 1, "b": 2, "y": 11}, {"y": 8}),  # write
        (pair(NodeKind.SUB), {"a": 12, "b": 1, "y": 11}, {"a": 8}),
        (pair(NodeKind.MUL), {"a": 1, "b": 2, "y": 7}, {"y": 3}),
        (pair(NodeKind.MUL), {"a": 20, "b": 20, "y": 7}, {"y": 8}),
        (pair(NodeKind.SWISH), {"a": 10, "b": 10, "y": 2}, {"y": 5}),
        (single(NodeKind.HARD_SIGMOID), {"x": -1, "y": 5}, {"x": 0, "y": 7}),
        (single(NodeKind.HARD_SIGMOID), {"x": 18, "y": 7}, {"x": 15}),
        (single(NodeKind.HARD_SIGMOID), {"x": 0, "y": 15}, {"y": 14}),
        (pair(NodeKind.CONCAT), {"a": 4, "b": 6, "y": 5}, {"b": 4, "y": 4}),
        (single(NodeKind.POOL), {"x": 4, "y": 6}, {"y": 4}),
        (single(NodeKind.PAD), {"x": 7, "y": 6}, {"x": 6}),
        (single(NodeKind.SLICE), {"x": 7, "y": 6}, {"x": 6}),
    ],
)
def test_without_losses_the_rules_move_what_amds_move(node, start, expected):
    found = refine([node], start, NPU_RULES)
    assert found.positions == {**start, **expected}
    assert {move.key for move in found.moves} == expected.keys()


def test_losses_lower_a_wasted_output_instead_of_clipping_the_weight():
    start = {"x": 5, "w": 3, "y": 10}
    losses = {
        "w": lambda at: 1e-4 if at <= 3 else 0.3,
        "x": lambda at: 1e-4 if at <= 5 else 0.3,
        "y": lambda at: 1e-5 * 4.0 ** (10 - at),
    }
    assert refine([product(bias=None)], start, NPU_RULES, losses).positions == {**start, "y": 8}


def test_a_move_that_breaks_another_node_takes_it_along():
    chain = [
        PositionNode(name="one", kind=NodeKind.PRODUCT, inputs=("x",), output="y", weight="v"),
        PositionNode(name="two", kind=NodeKind.PRODUCT, inputs=("y",), output="z", weight="w"),
    ]
    start = {"x": 4, "v": 4, "y": 10, "w": 2, "z": 12}
    dear = {"v": lambda at: float(at != 4), "w": lambda at: float(at != 2), "x": lambda at: float(at != 4)}
    found = refine(chain, start, NPU_RULES, dear)
    assert found.positions == {**start, "y": 8, "z": 10}


def test_the_cheapest_position_of_a_concatenation_is_not_always_the_smallest():
    start = {"a": 2, "b": 7, "y": 2}
    losses = {"a": lambda at: 0.01 * (at - 2), "b": lambda at: 4.0**-at, "y": lambda at: 0.0}
    expected = min(range(2, 8), key=lambda at: 0.01 * (at - 2) + 4.0**-at)
    found = refine([pair(NodeKind.CONCAT)], start, NPU_RULES, losses)
    assert set(found.positions.values()) == {expected}
    assert expected > 2


def test_of_two_ways_the_cheaper_sum_of_moves_wins():
    rules = [rule for rule in NPU_RULES if rule.option == "AdjustShiftRead"]
    start = {"a": 0, "b": 10, "y": 0}
    raising = refine([pair(NodeKind.ADD)], start, rules, {"a": lambda at: 0.1, "b": lambda at: 1.0 * (10 - at)})
    assert raising.positions == {"a": 3, "b": 10, "y": 0}
    lowering = refine([pair(NodeKind.ADD)], start, rules, {"a": lambda at: 1.0 * at, "b": lambda at: 0.1})
    assert lowering.positions == {"a": 0, "b": 7, "y": 0}


def test_what_cannot_be_mended_is_left_and_named():
    start = {"x": 30, "y": 7}
    found = refine([single(NodeKind.HARD_SIGMOID)], start, NPU_RULES, fixed=["x"])
    assert found.positions["x"] == 30
    (violation, *_) = found.violations
    assert str(violation) == "AdjustHardSigmoid at 'n': 30, must be [0, 15]"
    assert violation.slack == -15


def test_an_unreachable_bound_is_reported_and_nothing_moves():
    rule = ShiftRule(
        option="Impossible", kinds=frozenset({NodeKind.POOL}), plus=(), low=1, high=2, moves=NPU_RULES[7].moves
    )
    found = refine([single(NodeKind.POOL)], {"x": 1, "y": 1}, [rule])
    assert (found.moves, found.violations[0].value) == ((), 0)


def test_slack_says_how_far_a_value_may_move():
    found = refine([product()], {"x": 5, "w": 7, "y": 4, "b": 10}, NPU_RULES)
    slack = {shift.option: shift.slack for shift in found.shifts}
    assert slack == {"AdjustShiftCut": 8, "AdjustShiftBias": 10}
    assert math.prod(slack.values()) > 0
