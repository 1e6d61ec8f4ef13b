"""Move positions until a device accepts them, losing as little as can be.

AMD's tools change scales behind the codes, rule after rule, at most five times, and leave what is broken then. Here
positions are moved before any code exists: first aligned ones become one; then each broken constraint is mended by the
cheapest set of moves that breaks no other, found by uniform-cost search. So each step lowers the sum of what is out of
bounds, and none is taken back. Positions that break nothing stay as they are.
"""

import heapq
import itertools
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vqonnx.core.positions import Move, PositionNode, PositionRule, Refinement
from vqonnx.planning.alignment import Group, Loss, align
from vqonnx.planning.constraints import Constraint, Positions, aligned, constraints, spread

_LIMIT = 126
"""Largest magnitude of a position."""
_STATES = 1000
"""Sets of moves that are looked at for one constraint."""
_ATTEMPTS = 8
"""Beginnings, each with what was left before at the front."""

_Cost = tuple[float, int, int]  # loss, moves that the rules do not name, distance


def refine(
    nodes: Sequence[PositionNode],
    start: Positions,
    rules: Sequence[PositionRule],
    losses: Mapping[str, Loss] | None = None,
    fixed: Iterable[str] = (),
) -> Refinement:
    """Positions near ``start`` for which the rules hold at all nodes.

    Args:
        nodes: The nodes, in graph order.
        start: Position of every key that a node names.
        rules: Those that are to hold.
        losses: What a position of a key costs. Where sets of moves cost the same (all, without losses), the one wins
            that moves what the rules themselves name, then the one of the shortest way.
        fixed: Keys that must stay where they are.

    Returns:
        Positions, moves and the state of every rule; ``violations`` names what could not be mended.
    """
    groups, moves = align(nodes, start, rules, losses or {}, fixed)
    representative = {key: group.members[0] for key, group in groups.items()}
    found = constraints(nodes, rules, representative)
    repairs = _repaired(found, groups, {key: groups[key].position for key in representative.values()})
    positions = {key: repairs.positions[representative[key]] for key in start}
    shifts = (
        *(spread(rule, node, positions) for rule, node in aligned(nodes, rules)),
        *(one.shift(repairs.positions) for one in found),
    )
    return Refinement(positions, (*moves, *repairs.moves), shifts)


def _repaired(found: Sequence[Constraint], groups: Mapping[str, Group], start: dict[str, int]) -> "_Repairs":
    """Mend all constraints; begin anew with those first that could not be mended, a few times."""
    first: tuple[int, ...] = ()
    best: _Repairs | None = None
    for _ in range(_ATTEMPTS):
        repairs = _Repairs(found, groups, dict(start))
        left = repairs.run(first)
        if best is None or repairs.excess() < best.excess():
            best = repairs
        if not left:
            break
        first = (*left, *(number for number in first if number not in left))
    assert best is not None
    return best


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Moves under trial.

    Attributes:
        changed: New positions, by key.
        foreign: How many of them were no rule's choice.
    """

    changed: Mapping[str, int]
    foreign: int


@dataclass(slots=True, eq=False)
class _Repairs:
    """Positions, mended one constraint after the other."""

    constraints: Sequence[Constraint]
    groups: Mapping[str, Group]
    positions: dict[str, int]
    moves: list[Move] = field(default_factory=list)
    readers: dict[str, list[int]] = field(default_factory=dict)

    def run(self, first: Sequence[int]) -> list[int]:
        """Mend what can be mended, ``first`` at the start; again as long as that helps. Returns what is left."""
        for number, constraint in enumerate(self.constraints):
            for key in constraint.operand_keys():
                self.readers.setdefault(key, []).append(number)
        order = dict.fromkeys((*first, *range(len(self.constraints))))
        broken = [number for number in order if self.constraints[number].excess(self.positions)]
        while broken:
            left = [number for number in broken if not self._mend(number)]
            if len(left) == len(broken):
                break
            broken = left  # one repair can make way for another
        return broken

    def excess(self) -> int:
        """How far the positions are out of all bounds."""
        return sum(constraint.excess(self.positions) for constraint in self.constraints)

    def _mend(self, target: int) -> bool:
        changed = self._cheapest(target) if self.constraints[target].excess(self.positions) else {}
        if changed is None:
            return False
        constraint = self.constraints[target]
        for key, after in changed.items():
            for member in self.groups[key].members:
                self.moves.append(
                    Move(member, self.positions[key], after, constraint.rule.option, constraint.node.name)
                )
        self.positions.update(changed)
        return True

    def _cheapest(self, target: int) -> Mapping[str, int] | None:
        """The cheapest moves after which ``target`` holds and no other constraint is more broken than before."""
        order = itertools.count()
        queue: list[tuple[_Cost, int, _State]] = [((0.0, 0, 0), next(order), _State({}, 0))]
        seen: set[frozenset[tuple[str, int]]] = set()
        while queue and len(seen) < _STATES:
            _, _, state = heapq.heappop(queue)
            moves = frozenset(state.changed.items())
            if moves in seen:
                continue
            seen.add(moves)
            broken = self._first_broken(target, state)
            if broken is None:
                return state.changed
            for new in self._next(broken, broken == target, state):
                heapq.heappush(queue, (self._cost(new), next(order), new))
        return None

    def _first_broken(self, target: int, state: _State) -> int | None:
        touched = {number for key in state.changed for number in self.readers.get(key, ())}
        at = ChainMap(dict(state.changed), self.positions)
        for number in sorted({target} | touched):
            excess = self.constraints[number].excess(at)
            if excess and (number == target or excess > self.constraints[number].excess(self.positions)):
                return number
        return None

    def _next(self, number: int, wholly: bool, state: _State) -> Iterator[_State]:
        """The states after one more move, each of which mends a constraint; a key is moved in one direction only."""
        constraint = self.constraints[number]
        at = ChainMap(dict(state.changed), self.positions)
        allowed = 0 if wholly else constraint.excess(self.positions)
        preferred = constraint.preferred(at)
        for key in constraint.operand_keys():
            if self.groups[key].fixed:
                continue
            gone = at[key] - self.positions[key]
            for direction in (-1, 1):
                if gone * direction < 0:
                    continue
                value = _mending(constraint, at, key, direction, allowed)
                if value is not None:
                    yield _State({**state.changed, key: value}, state.foreign + (key not in preferred))

    def _cost(self, state: _State) -> _Cost:
        loss = sum(
            self.groups[key].loss(after) - self.groups[key].loss(self.positions[key])
            for key, after in state.changed.items()
        )
        distance = sum(abs(after - self.positions[key]) for key, after in state.changed.items())
        return loss, state.foreign, distance


def _mending(constraint: Constraint, at: Positions, key: str, direction: int, allowed: int) -> int | None:
    """The nearest position of ``key`` in a direction at which the constraint is broken by no more than allowed.

    If there is none, the one up to which each step helps (the smallest input may stop to be that); None if none does.
    """
    near = {name: at[name] for name in constraint.operand_keys()}
    excess, value = constraint.excess(near), near[key]
    while excess > allowed and abs(value + direction) <= _LIMIT:
        further = constraint.excess({**near, key: value + direction})
        if further >= excess:
            break
        excess, value = further, value + direction
    return None if value == near[key] else value
