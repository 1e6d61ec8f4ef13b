"""The QDQ form: QuantizeLinear -> DequantizeLinear around float operators, which the runtime fuses to integers.

The FixNeuron form is the same with one node in the place of each pair.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from vqonnx.core.block_formats import BLOCK_FORMATS
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import NodePlan, Plan, Role, TensorPlan
from vqonnx.core.qtype import Kind
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Form, Kernel
from vqonnx.emitters.affine_nodes import AffineNodes
from vqonnx.emitters.block_float import emit_rounded
from vqonnx.emitters.fix_neuron import fix_neuron_form
from vqonnx.emitters.float8 import guard_float8
from vqonnx.emitters.unscaled import block_form, form_without_scale, widened
from vqonnx.graph.edit import insert_after, insert_after_value, insert_before, insert_first, remove_dead, replace_uses
from vqonnx.graph.facts import clip_bounds
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes_by_name, values_by_name
from vqonnx.kernels.affine import dequantize, quantize

Uses = list[tuple[str, int]]

KEY = "vqonnx.key"
"""Metadata entry (not serialized) of dequantized activations and of the codes of constants: the key in the plan."""


_HALF = 0.5 + 1e-4
"""A step, with the rounding of the scale."""


def emit_qdq(model: ir.Model, plan: Plan, solutions: Solutions) -> None:
    """Rewrite a private model into QDQ form, or FixNeuron form, as the plan says, in place.

    One pair a tensor: every reader of a value that an integer node computes reads its dequantized form, since
    the float one no longer exists; of other values only the integer nodes do.

    Args:
        model: The prepared float model.
        plan: What to quantize.
        solutions: The numbers.

    Raises:
        OptionError: FixNeuron cannot do what is planned for a tensor.
    """
    emitter = _QdqEmitter(model, plan, solutions)
    for node in plan.nodes.values():
        if node.kernel.is_activation:
            emitter.emit_clip(node)
    for tensor in plan.tensors.values():
        if tensor.role is Role.ACTIVATION:
            emitter.emit_activation(tensor)
        else:
            emitter.emit_constant(tensor)
    remove_dead(model)
    guard_float8(model, marks=[KEY])


class _QdqEmitter:
    """The model being rewritten, with the look-ups that keep the work linear."""

    def __init__(self, model: ir.Model, plan: Plan, solutions: Solutions) -> None:
        self._model = model
        self._solutions = solutions
        self._plan = plan
        self._fixes = plan.form is Form.FIX_NEURON
        self._weight_pairs, self._own_pairs = plan.weight_pairs, plan.own_pairs
        self._names = NameAllocator.of(model)
        self._affine = AffineNodes(model, plan, solutions, self._names)
        self._values = values_by_name(model)
        self._nodes = nodes_by_name(model)
        self._uses = _planned_uses(plan)
        self._computed = {key for node in plan.nodes.values() for key in node.outputs if key is not None}
        self._dequantized: dict[str, ir.Value] = {}

    def emit_clip(self, plan: NodePlan) -> None:
        """Drop a clip that the range of its output repeats exactly; else quantize before it as well as after.

        In the second case the range saturates nothing that the clip would keep, so the extra pair is exact, and
        it lets the node before the clip give integers. A device that fuses the clip needs no such pair.
        """
        key = plan.outputs[0]
        if key is None:
            return
        node = self._nodes[plan.node]
        source, output = node.inputs[0], node.outputs[0]
        name = output.name or ""  # a graph output hands its name on
        bounds = clip_bounds(node) if node.op_type in ("Relu", "Clip") else None
        assert source is not None
        if bounds is not None and clips(self._plan, self._solutions.params(key), *bounds):
            replace_uses(output, source, self._names, keep=(node,))
            self._values[name] = source
        elif plan.kernel is Kernel.CLIPS:
            self._insert_pair(source, key, None)

    def emit_activation(self, tensor: TensorPlan) -> None:
        """Q -> DQ after the value, or after the form that it is converted from; none where codes are stored."""
        if tensor.is_stored:
            self._dequantized[tensor.key] = self._values[tensor.tensor]
            return
        if tensor.converted_from is not None:
            source, everyone = self._to_convert(tensor)
        else:
            source, everyone = self._values[tensor.tensor], tensor.key in self._computed
        uses = None if everyone else self._uses.get(tensor.key, [])
        own = self._uses.get(tensor.key, []) if self._own_pairs else []
        if len(own) > 1:
            pairs = [self._insert_pair(source, tensor.key, [use], number) for number, use in enumerate(own, start=1)]
            result = pairs[0]
        else:
            result = self._insert_pair(source, tensor.key, uses)
        result.meta[KEY] = tensor.key
        self._dequantized[tensor.key] = result

    def _to_convert(self, tensor: TensorPlan) -> tuple[ir.Value, bool]:
        """The dequantized value that a form is converted from, and whether that is an output, which then follows.

        It does where nothing but the form's own nodes reads it. Where others do, the form may get a DequantizeLinear of
        its own, so that each of them is seen to feed one thing.
        """
        assert tensor.converted_from is not None
        source = self._dequantized[tensor.converted_from]
        own = set(self._uses.get(tensor.key, []))
        others = [node.name for node, index in source.uses() if (node.name, index) not in own]
        if not others:
            return source, source.is_graph_output()
        if not any(name in self._plan.nodes for name in others) and not source.is_graph_output():
            return source, False
        maker = source.producer()
        if not self._plan.peer_layout or maker is None or maker.inputs[0] is None:
            return source, False
        again = self._affine.dequantize(tensor.converted_from, maker.inputs[0], source, 1)
        insert_after(maker, [again])
        return again.outputs[0], False

    def emit_constant(self, tensor: TensorPlan) -> None:
        """The codes as an initializer, and a DequantizeLinear that the planned inputs read."""
        uses = self._uses[tensor.key]
        like = self._values[tensor.tensor]
        if self._fixes:
            self._emit_fixed(tensor, like, uses)
            return
        if self._weight_pairs and tensor.role is Role.WEIGHT and tensor.spec.has_scale:
            self._emit_weight_pair(tensor, like, uses)
            return
        codes = self._affine.codes(tensor.key)
        codes.meta[KEY] = tensor.key
        fmt = BLOCK_FORMATS.get(tensor.spec.qtype.name)
        if fmt is not None:
            readers = [(self._nodes[name], index) for name, index in uses]
            emit_rounded(self._model, self._names, codes, block_form(tensor.spec, fmt), uses=readers)
            return
        if tensor.spec.has_scale:
            node = self._affine.dequantize(tensor.key, codes, like)
        elif codes.dtype == like.dtype and not self._plan.peer_layout:
            self._rewire(uses, codes)
            return
        else:
            node = widened(self._names, codes, like)
        self._insert_for(uses, [node])
        self._rewire(uses, node.outputs[0])

    def _emit_fixed(self, tensor: TensorPlan, like: ir.Value, uses: Uses) -> None:
        """A FixNeuron behind the float numbers that the codes stand for."""
        solved, dtype = self._solutions.constants[tensor.key], (like.dtype or ir.DataType.FLOAT).numpy()
        fixed = self._affine.add(f"{tensor.key}_fixed", dequantize(solved.codes, solved.params).astype(dtype))
        form = fix_neuron_form(self._affine, tensor.key, solved.params)
        readers = [(self._nodes[name], index) for name, index in uses]
        emit_rounded(self._model, self._names, fixed, form, uses=readers)

    def _emit_weight_pair(self, tensor: TensorPlan, weight: ir.Value, uses: Uses) -> None:
        """Q -> DQ behind the float constant, for devices that know quantized weights by their pair."""
        quantizer = self._affine.quantize(tensor.key, weight)
        dequantizer = self._affine.dequantize(tensor.key, quantizer.outputs[0], weight)
        dequantizer.outputs[0].meta[KEY] = tensor.key
        self._insert_for(uses, [quantizer, dequantizer])
        self._rewire(uses, dequantizer.outputs[0])

    def _insert_pair(self, source: ir.Value, key: str, uses: Uses | None, number: int = 0) -> ir.Value:
        """Q -> DQ after ``source``, or what rounds to a type without scales; its readers, or uses, read the result."""
        params = self._solutions.params(key)
        unscaled = form_without_scale(params.spec, saturate=self._plan.clip_bfloat16)
        form = fix_neuron_form(self._affine, key, params) if self._fixes else unscaled
        if form is not None:
            readers = None if uses is None else [(self._nodes[name], index) for name, index in uses]
            return emit_rounded(self._model, self._names, source, form, uses=readers)
        quantizer = self._affine.quantize(key, source, number)
        dequantizer = self._affine.dequantize(key, quantizer.outputs[0], source, number)
        insert_after_value(source, [quantizer, dequantizer])
        result = dequantizer.outputs[0]
        if uses is None:
            name = source.name if source.is_graph_output() else None
            replace_uses(source, result, self._names, keep=(quantizer,))
            if name is not None:
                source.name = self._names.unique(f"{name}_QuantizeLinear_Input")
        else:
            self._rewire(uses, result)
        return result

    def _insert_for(self, uses: Uses, new: list[ir.Node]) -> None:
        """Before the first reader of a constant; first of all where readers are in several graphs, or the plan says."""
        readers = [self._nodes[name] for name, _ in uses]
        if len({reader.graph for reader in readers}) == 1 and not self._plan.peer_layout:
            insert_before(readers[0], new)
        else:
            insert_first(self._model.graph, new)

    def _rewire(self, uses: Uses, value: ir.Value) -> None:
        for name, index in uses:
            self._nodes[name].replace_input_with(index, value)


def clips(plan: Plan, params: QuantParams, low: float, high: float) -> bool:
    """Whether a Relu or Clip to [low, high] may go: the parameters clip exactly, or to half a step if so planned."""
    if plan.keep_clips:
        return False
    return clips_exactly(params, low, high) or (plan.half_step_clips and _clips_to_half_a_step(params, low, high))


def clips_exactly(params: QuantParams, low: float, high: float) -> bool:
    """Whether quantizing with these parameters alone gives the codes of clipping to [low, high] first.

    It does when both bounds land on the ends of the type, since everything beyond them then saturates there. The
    operator knows nothing of codes that the spec gives up (int8 -128 where symmetric, one bit where reduced).
    """
    qtype = params.spec.qtype
    if qtype.kind is not Kind.INTEGER:
        return False  # the end of a float type is no bound of a clip's
    whole = replace(params, spec=replace(params.spec, symmetric=False, reduce_range=False))
    codes = quantize(np.array([low, high], np.float32), whole).astype(np.int64)
    return bool(codes[0] == qtype.qmin and codes[1] == qtype.qmax)


def _clips_to_half_a_step(params: QuantParams, low: float, high: float) -> bool:
    """Whether the bounds are no farther from the ends of the type than rounding moves a value.

    [-1, 1] in uint8 ends half a step beyond one bound or the other, so that it never clips exactly.
    """
    qtype = params.spec.qtype
    if qtype.kind is not Kind.INTEGER:
        return False
    scale, zero = float(params.scale), int(params.zero_point)
    return low / scale + zero <= qtype.qmin + _HALF and high / scale + zero >= qtype.qmax - _HALF


def _planned_uses(plan: Plan) -> dict[str, Uses]:
    uses: dict[str, Uses] = {}
    for node in plan.nodes.values():
        for index, key in enumerate(node.inputs):
            if key is not None:
                uses.setdefault(key, []).append((node.node, index))
    for tensor in plan.tensors.values():
        if tensor.readers:
            uses.setdefault(tensor.key, []).extend(tensor.readers)
    return uses
