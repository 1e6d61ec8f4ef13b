"""Ranges of what nodes compute that follow from the nodes, without anything being measured."""

import math

from vqonnx.core.target import Form, Kernel
from vqonnx.graph.facts import clip_bounds
from vqonnx.graph.walk import constant
from vqonnx.planning.candidate import Candidate
from vqonnx.planning.rules import PlanRules

Range = tuple[float, float]


def known_bounds(maker: Candidate | None, rules: PlanRules) -> Range | None:
    """The range of what a node computes: that of its operator, or of the constants that it looks values up in."""
    if maker is None:
        return None
    if maker.node.op_type == "Sigmoid" and rules.sigmoid_256 and rules.form is Form.QOPERATOR:
        return 0.0, 255 / 256
    if maker.support.kernel is not Kernel.MOVES:
        return maker.support.output_bounds
    tables = [constant(maker.input(index)) for index in maker.activations()]
    known = [table for table in tables if table is not None and table.size]
    if not known or len(known) < len(tables):
        return None
    return min(float(table.min()) for table in known), max(float(table.max()) for table in known)


def range_if_dead(maker: Candidate | None) -> Range | None:
    """The bounds of a Clip, for where it gave nothing but zeros: no other range holds what it may give later."""
    bounds = clip_bounds(maker.node) if maker is not None and maker.node.op_type == "Clip" else None
    return bounds if bounds is not None and bounds[0] <= 0 < bounds[1] < math.inf and bounds[0] > -math.inf else None
