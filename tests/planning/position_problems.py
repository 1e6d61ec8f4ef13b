"""Random problems for the refinement of positions, and AMD's rules said once more, in the plainest way."""

from hypothesis import strategies as st

from vqonnx.core.positions import NodeKind, PositionNode

TWO_INPUTS = {NodeKind.ADD, NodeKind.SUB, NodeKind.MUL, NodeKind.SWISH, NodeKind.CONCAT}
PRODUCTS = {NodeKind.PRODUCT, NodeKind.LEAKY_PRODUCT}


@st.composite
def problems(draw, least=-6, most=20, max_nodes=14):
    """Nodes in a row of random kinds that read any of the last four tensors, some of them shared weights."""
    position = st.integers(least, most)
    nodes, tensors, weights = [], ["x"], []
    start = {"x": draw(position)}
    for number in range(draw(st.integers(1, max_nodes))):
        kind = draw(st.sampled_from([*NodeKind]))
        inputs = tuple(draw(st.sampled_from(tensors[-4:])) for _ in range(2 if kind in TWO_INPUTS else 1))
        weight = bias = None
        if kind in PRODUCTS:
            weight = draw(st.sampled_from([f"w{number}", *weights[-1:]]))
            weights.append(weight)
            start.setdefault(weight, draw(position))
            if draw(st.booleans()):
                bias = f"b{number}"
                start[bias] = draw(position)
        output = f"t{number}"
        start[output] = draw(position)
        tensors.append(output)
        nodes.append(PositionNode(name=f"n{number}", kind=kind, inputs=inputs, output=output, weight=weight, bias=bias))
    return nodes, start


def broken(node, at):
    """The options of the rules that a node breaks: the reference's formulas, word for word."""
    found = []
    ipos, opos = [at[key] for key in node.inputs], at[node.output]
    for kind, option in (
        (NodeKind.CONCAT, "AlignConcat"),
        (NodeKind.POOL, "AlignPool"),
        (NodeKind.PAD, "AlignPad"),
        (NodeKind.SLICE, "AlignSlice"),
        (NodeKind.TRANSPOSE, "AlignTranspose"),
        (NodeKind.RESHAPE, "AlignReshape"),
    ):
        if node.kind is kind and {*ipos} != {opos}:
            found.append(option)
    if node.kind in (NodeKind.ADD, NodeKind.SUB) and not 0 <= max(ipos) - min(ipos) <= 7:
        found.append("AdjustShiftRead")
    if node.kind is NodeKind.ADD and not -7 <= min(ipos) - opos <= 25:
        found.append("AdjustShiftWrite")
    if node.kind in (NodeKind.MUL, NodeKind.SWISH) and not 0 <= sum(ipos) - opos <= 32:
        found.append("AdjustShiftWrite")
    if node.kind is NodeKind.SWISH and not 0 <= sum(ipos) - opos <= 15:
        found.append("AdjustShiftSwish")
    if node.kind is NodeKind.HARD_SIGMOID and not (0 <= ipos[0] <= 15 and opos >= 7 and 0 <= 14 + ipos[0] - opos <= 31):
        found.append("AdjustHardSigmoid")
    if node.weight is not None:
        cut = at[node.weight] + ipos[0] - opos
        if not 0 <= cut <= 16:
            found.append("AdjustShiftCut")
        least = 0 if node.kind is NodeKind.LEAKY_PRODUCT else min(0, -(24 - (8 + cut)))
        if node.bias is not None and not least <= at[node.weight] + ipos[0] - at[node.bias] <= 15:
            found.append("AdjustShiftBias")
    return set(found)
