"""The QOperator form: integer operators that read and write codes, with float only where the plan leaves it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from vqonnx.core.plan import NodePlan, Plan
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Kernel
from vqonnx.emitters.codes import Codes
from vqonnx.emitters.integer_operators import Operands, Operator, integer_operator
from vqonnx.emitters.qdq import clips
from vqonnx.graph.edit import insert_after_value, insert_before, remove_dead, replace_uses
from vqonnx.graph.facts import clip_bounds, linear_add
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, is_float, nodes_by_name
from vqonnx.kernels.affine import dequantize, quantize

_FLOAT = ir.TensorType(ir.DataType.FLOAT)


def emit_qoperator(model: ir.Model, plan: Plan, solutions: Solutions) -> None:
    """Rewrite a private model into QOperator form, in place.

    Integer operators hand codes to each other. A float value that they read is quantized once, and codes that
    anything else reads (float nodes, bodies, the caller) are dequantized once.

    Args:
        model: The prepared float model.
        plan: What to quantize.
        solutions: The numbers.

    Raises:
        OptionError: The target lists an operator that has no integer form.
    """
    if not plan.nodes:
        return
    emitter = _QOperatorEmitter(model, plan, solutions)
    for node in plan.nodes.values():
        emitter.emit(node)
    emitter.connect()
    remove_dead(model)


class _QOperatorEmitter:
    """The model being rewritten; the float nodes stay until all integer ones are there."""

    def __init__(self, model: ir.Model, plan: Plan, solutions: Solutions) -> None:
        self._plan = plan
        self._imports = model.graph.opset_imports
        self._names = NameAllocator.of(model)
        self._codes = Codes(model, plan, solutions, self._names)
        self._nodes = nodes_by_name(model)
        self._instead: dict[ir.Value, ir.Value] = {}
        """What readers of a float node's output read from now on, where that is not codes."""
        self._absorbed: set[str] = set()

    def emit(self, plan: NodePlan) -> None:
        """Add what computes the planned node's result in integers."""
        if plan.kernel is Kernel.CLIPS:
            self._emit_clip(plan)
        elif plan.node not in self._absorbed:
            self._emit_operator(plan)

    def connect(self) -> None:
        """Let everything else read the new nodes."""
        planned = [(self._nodes[plan.node], plan) for plan in self._plan.nodes.values()]
        for node, _ in planned:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        for node, plan in planned:
            for output, key in zip(node.outputs, plan.outputs, strict=True):
                if output.uses() or output.is_graph_output():
                    replace_uses(output, self._replacement(output, key), self._names)

    def _replacement(self, output: ir.Value, key: str | None) -> ir.Value:
        found = self._instead.get(output)
        if found is None:
            assert key is not None, f"{output.name!r} is read, but neither quantized nor computed in float"
            return self._codes.dequantized(key, output)
        return found if found.dtype == output.dtype else self._cast(found, output)

    def _cast(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """float32 results of integer operators in the type of a float16 model."""
        assert like.dtype is not None
        cast = self._node(Operator("Cast", (value,), {"to": like.dtype.value}), f"{like.name}_cast", [like])
        cast.outputs[0].type = like.type
        insert_after_value(value, cast)
        return cast.outputs[0]

    def _emit_operator(self, plan: NodePlan) -> None:
        node = self._nodes[plan.node]
        tail, bias = self._linear(node, plan)
        results = list(zip(tail.outputs, self._written(tail), strict=True))
        operands = Operands(node, plan.inputs, results[0][1], bias, self._codes)
        operator = integer_operator(plan, operands)
        made = self._node(operator, plan.node, tail.outputs)
        insert_before(tail, made)
        for new, (old, key) in zip(made.outputs, results, strict=False):
            if operator.gives_float or key is None:
                self._define_float(new, old, key, operator)
            else:
                self._define_codes(new, key, plan)

    def _define_float(self, new: ir.Value, old: ir.Value, key: str | None, operator: Operator) -> None:
        """Float readers read it as it is, integer ones its codes."""
        new.type = _FLOAT if operator.gives_float and is_float(old) else old.type
        self._instead[old] = new
        if key is not None:
            self._codes.take_from(key, new)

    def _define_codes(self, new: ir.Value, key: str, plan: NodePlan) -> None:
        new.type = self._codes.affine.zero_point(key).type
        moved = plan.inputs[0] if plan.kernel is Kernel.MOVES else None
        self._codes[key] = new if moved is None else self._codes.in_terms_of(new, moved, key)

    def _emit_clip(self, plan: NodePlan) -> None:
        """Drop a clip that the codes' own range repeats; else clip the codes, which rounding puts in the same order."""
        key, node = plan.outputs[0], self._nodes[plan.node]
        bounds = clip_bounds(node)
        assert key is not None
        assert bounds is not None
        params = self._codes.solutions.params(key)
        if clips(self._plan, params, *bounds):
            return
        whole = replace(params, spec=replace(params.spec, symmetric=False, reduce_range=False))
        ends = [
            self._codes.affine.add(f"{key}_{name}", quantize(np.asarray(bound, np.float32), whole))
            if np.isfinite(bound)
            else None
            for name, bound in zip(("low", "high"), bounds, strict=True)
        ]
        made = self._node(Operator("Clip", (self._codes[key], *ends), {}), plan.node, node.outputs)
        made.outputs[0].type = self._codes[key].type
        insert_before(node, made)
        self._codes[key] = made.outputs[0]

    def _linear(self, node: ir.Node, plan: NodePlan) -> tuple[ir.Node, ir.Value | None]:
        """The node that ends a linear layer, and its bias: the Add behind a MatMul, if the plan takes it so."""
        found = linear_add(node) if plan.outputs == (None,) else None
        added = self._plan.nodes.get(found[0].name or "") if found is not None else None
        if found is None or added is None or added.inputs[1 - found[1]] is not None:
            return node, None
        add, index = found
        self._absorbed.add(added.node)
        return add, self._bias(add.inputs[index], added.inputs[index])

    def _bias(self, value: ir.Value | None, key: str | None) -> ir.Value:
        """What the codes of the bias stand for; the bias itself where it is not quantized."""
        if key is not None:
            codes = self._codes.solutions.constants[key]
            return self._codes.affine.add(f"{key}_rounded", dequantize(codes.codes, codes.params).astype(np.float32))
        bias = constant(value)
        assert value is not None
        assert bias is not None
        return (
            value
            if value.dtype == ir.DataType.FLOAT
            else self._codes.affine.add(f"{value.name}_float", bias.astype(np.float32))
        )

    def _written(self, node: ir.Node) -> Sequence[str | None]:
        """Keys of the codes that replace a node's outputs: those of the clip's output where one absorbs it."""
        keys = self._plan.nodes[node.name or ""].outputs
        if len(keys) > 1 or keys[0] is not None:
            return keys
        readers = [self._plan.nodes.get(reader.name or "") for reader, _ in node.outputs[0].uses()]
        clip = readers[0] if len(readers) == 1 else None
        return keys if clip is None or clip.kernel is not Kernel.CLIPS else clip.outputs

    def _node(self, operator: Operator, name: str, results: Sequence[ir.Value]) -> ir.Node:
        """The node, under the name of the float one; its outputs have the shapes of ``results``, and no types yet."""
        domain, _, op_type = operator.op.rpartition("::")
        self._imports.setdefault(domain, 1)
        inputs = list(operator.inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()
        outputs = [ir.Value(name=f"{old.name}_{op_type}" if old.name else "", shape=old.shape) for old in results]
        outputs += [ir.Value(name="") for _ in range(operator.outputs - len(outputs))]
        for number, output in enumerate(outputs):
            if output.name or number < operator.outputs:
                output.name = self._names.unique(output.name or f"{name}_{op_type}_{number}")
        return ir.node(op_type, inputs, operator.attributes, domain=domain, outputs=outputs, name=name)
