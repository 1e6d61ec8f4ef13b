from hypothesis import given
from hypothesis import strategies as st

from vqonnx.core.positions import AlignRule, Move, NodeKind, PositionNode
from vqonnx.planning.alignment import align

RULES = [AlignRule(option="AlignConcat", kinds=frozenset({NodeKind.CONCAT}))]


def concat(name, inputs, output):
    return PositionNode(name=name, kind=NodeKind.CONCAT, inputs=tuple(inputs), output=output)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=8), st.data())
def test_groups_are_the_connected_components_at_their_smallest_position(triples, data):
    start = {f"k{number}": data.draw(st.integers(-5, 5)) for number in range(10)}
    nodes = [concat(f"n{n}", (f"k{a}", f"k{b}"), f"k{c}") for n, (a, b, c) in enumerate(triples)]
    groups, moves = align(nodes, start, RULES, {}, ())
    component = {key: {key} for key in start}
    for node in nodes:
        joined = set.union(*(component[key] for key in (*node.inputs, node.output)))
        component.update(dict.fromkeys(joined, joined))
    for key, group in groups.items():
        assert set(group.members) == component[key]
        assert group.position == min(start[member] for member in group.members)
    assert {move.key for move in moves} == {key for key in start if groups[key].position != start[key]}


def test_a_fixed_member_decides():
    groups, moves = align([concat("n", "ab", "y")], {"a": 1, "b": 5, "y": 3}, RULES, {}, ["b"])
    assert {(group.position, group.fixed) for group in groups.values()} == {(5, True)}
    assert moves == [Move("a", 1, 5, "AlignConcat", "n"), Move("y", 3, 5, "AlignConcat", "n")]


def test_between_two_fixed_positions_nothing_is_joined():
    start = {"a": 1, "b": 5, "y": 3}
    groups, moves = align([concat("n", "ab", "y")], start, RULES, {}, ["a", "b"])
    assert {key: group.position for key, group in groups.items()} == start
    assert moves == []


def test_equal_fixed_positions_are_joined():
    groups, _ = align([concat("n", "ab", "y")], {"a": 5, "b": 5, "y": 3}, RULES, {}, ["a", "b"])
    assert groups["y"].position == 5


def test_the_position_of_least_loss_wins_and_a_group_knows_what_it_costs():
    losses = {"a": lambda at: abs(at - 4.0), "y": lambda at: 0.5 * abs(at - 2.0)}
    groups, _ = align([concat("n", "ab", "y")], {"a": 1, "b": 6, "y": 3}, RULES, losses, ())
    assert groups["b"].position == 4
    assert groups["b"].loss(2) == 2
