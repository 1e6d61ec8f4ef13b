"""Check every planned piece by itself: the float model runs, and beside each planned node a quantized copy of it.

What a copy gets is float, so that its error is its own and not inherited; the output of a whole quantized model tells
that something is wrong, this tells where.
"""

from collections.abc import Sequence

import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Kernel
from vqonnx.graph.edit import add_initializer, insert_after, make_node
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes_by_name
from vqonnx.kernels.affine import dequantize
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import add_outputs, open_session

_GROUP = 64
"""Pieces whose outputs are fetched at a time."""


def piece_sqnr(
    model: ir.Model, plan: Plan, solutions: Solutions, feeds: Sequence[Feed], providers: Sequence[str]
) -> dict[str, float]:
    """SQNR in dB of the output of each planned operator when its inputs and constants are quantized and no others.

    Args:
        model: The prepared float model.
        plan: Its plan.
        solutions: Its numbers.
        feeds: A few samples.
        providers: Execution providers.

    Returns:
        By node name; left out are data movers and clips, which compute nothing, and what is inside bodies.
    """
    main = {node.name for node in model.graph}
    computing = (node for node in plan.nodes.values() if node.kernel is Kernel.COMPUTE and any(node.inputs))
    planned = [node for node in computing if node.node in main]
    found: dict[str, float] = {}
    for start in range(0, len(planned), _GROUP):
        group = planned[start : start + _GROUP]
        beside = _Beside(model, plan.on_cpu(), solutions)
        pairs = [beside.add(node) for node in group]
        names = [name for pair in pairs for name in pair]
        session = open_session(add_outputs(beside.model, names), providers=providers)
        sums = [ErrorSums()] * len(group)
        for feed in feeds:
            with runtime_errors("run the planned pieces"):
                values = session.run(names, dict(feed))
            sums = [one.merge(ErrorSums.of(*values[2 * i : 2 * i + 2])) for i, one in enumerate(sums)]
        found |= {node.node: one.sqnr_db for node, one in zip(group, sums, strict=True)}
    return found


class _Beside:
    """A copy of the float model to which quantized copies of its nodes are added."""

    def __init__(self, model: ir.Model, plan: Plan, solutions: Solutions) -> None:
        self.model = load(model)
        self._plan, self._solutions = plan, solutions
        self._names = NameAllocator.of(self.model)
        self._nodes = nodes_by_name(self.model)
        self._rounded: dict[str, ir.Value] = {}

    def add(self, planned: NodePlan) -> tuple[str, str]:
        """Add the copy; the names of the float output and of the copy's."""
        node = self._nodes[planned.node]
        new: list[ir.Node] = []
        inputs = [
            value if key is None or value is None else self._quantized(key, value, new)
            for key, value in zip(planned.inputs, node.inputs, strict=True)
        ]
        copy = ir.node(
            node.op_type,
            inputs,
            attributes=dict(node.attributes),
            domain=node.domain,
            num_outputs=len(node.outputs),
            name=self._names.unique(f"{node.name}_alone"),
        )
        for output, original in zip(copy.outputs, node.outputs, strict=True):
            output.name = self._names.unique(f"{original.name}_alone")
            output.type, output.shape = original.type, original.shape
        insert_after(node, [*new, copy])
        return node.outputs[0].name or "", copy.outputs[0].name or ""

    def _quantized(self, key: str, value: ir.Value, new: list[ir.Node]) -> ir.Value:
        if key not in self._rounded:
            if self._plan.tensors[key].role is Role.ACTIVATION:
                self._rounded[key] = self._pair(key, value, new)
            else:
                constant = self._solutions.constants[key]
                reals = dequantize(constant.codes, constant.params)
                self._rounded[key] = add_initializer(self.model.graph, self._names.unique(f"{key}_rounded"), reals)
        return self._rounded[key]

    def _pair(self, key: str, value: ir.Value, new: list[ir.Node]) -> ir.Value:
        """QuantizeLinear and DequantizeLinear of a float value."""
        params = self._solutions.params(key)
        graph, unique = self.model.graph, self._names.unique
        scale = add_initializer(graph, unique(f"{key}_scale"), params.scale)
        zero = add_initializer(graph, unique(f"{key}_zero_point"), params.zero_point)
        quantizer = make_node(self._names, "QuantizeLinear", [value, scale, zero])
        dequantizer = make_node(self._names, "DequantizeLinear", [quantizer.outputs[0], scale, zero])
        dequantizer.outputs[0].type, dequantizer.outputs[0].shape = value.type, value.shape
        new += [quantizer, dequantizer]
        return dequantizer.outputs[0]
