"""Tensors that a device wants at one position."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vqonnx.core.positions import Move, PositionNode, PositionRule
from vqonnx.planning.constraints import Positions, aligned

Loss = Callable[[int], float]
"""What a position costs: the share of the tensor's energy that is noise there."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Keys that have one position.

    Attributes:
        members: The keys; the first stands for all.
        position: Theirs.
        fixed: Whether it must stay.
        losses: What a position costs, of those members that know.
    """

    members: tuple[str, ...]
    position: int
    fixed: bool
    losses: tuple[Loss, ...]

    def loss(self, position: int) -> float:
        """What a position costs all members together."""
        return sum(loss(position) for loss in self.losses)


def align(
    nodes: Sequence[PositionNode],
    start: Positions,
    rules: Sequence[PositionRule],
    losses: Mapping[str, Loss],
    fixed: Iterable[str],
) -> tuple[dict[str, Group], list[Move]]:
    """Put the keys around each node that the rules align into one group, at the position that costs least.

    Of positions between those of the members; the smallest, which clips nothing, where they cost the same. A fixed
    member decides; nodes between keys that are fixed at different positions are left as they are.

    Returns:
        The group of every key, and the moves.
    """
    pinned = {key: start[key] for key in fixed if key in start}
    roots = {key: key for key in start}
    reasons: dict[str, tuple[str, str]] = {}
    for rule, node in aligned(nodes, rules):
        found = dict.fromkeys(_root(roots, key) for key in (*node.inputs, node.output))
        if len({pinned[root] for root in found if root in pinned}) > 1:
            continue
        first, *others = found
        for other in others:
            roots[other] = first
            pinned.update({first: pinned[other]} if other in pinned else {})
        reasons.update({key: (rule.option, node.name) for key in (*node.inputs, node.output) if others})
    members: dict[str, list[str]] = {}
    for key in start:
        members.setdefault(_root(roots, key), []).append(key)
    groups = [_group(keys, start, losses, pinned.get(root)) for root, keys in members.items()]
    moves = [
        Move(key, start[key], group.position, *reasons[key])
        for group in groups
        for key in group.members
        if start[key] != group.position
    ]
    return {key: group for group in groups for key in group.members}, moves


def _root(roots: dict[str, str], key: str) -> str:
    while roots[key] != key:
        roots[key] = key = roots[roots[key]]
    return key


def _group(keys: Sequence[str], start: Positions, losses: Mapping[str, Loss], pinned: int | None) -> Group:
    known = tuple(losses[key] for key in keys if key in losses)
    group = Group(tuple(keys), min(start[key] for key in keys), pinned is not None, known)
    if pinned is not None:
        return Group(group.members, pinned, True, known)
    highest = max(start[key] for key in keys)
    best = min(range(group.position, highest + 1), key=group.loss)
    return Group(group.members, best, False, known)
