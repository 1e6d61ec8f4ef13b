"""The dynamic form: integer weights, and activations that are quantized at run time.

Products are written in ONNX's own operators,

    x -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (scale of x times scales of W) -> Add

which ONNX Runtime (1.24 to 1.31, CPU) fuses to one DynamicQuantizeMatMul, or, where several products read x, to
MatMulIntegerToFloat behind one DynamicQuantizeLinear. Written with those operators the model would run on no other
runtime and no faster: times were equal at 1, 8 and 128 rows.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from vqonnx.core.dynamic_plan import DynamicForm, DynamicNodePlan, DynamicPlan
from vqonnx.emitters.integer_weights import IntegerWeights, RoundedRows
from vqonnx.emitters.weights.products import add_bias, constant_shape, replace_product
from vqonnx.emitters.weights.replacement import Replacement
from vqonnx.graph.edit import insert_before, make_node, remove_dead
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, nodes_by_name

_CONTRIB = "com.microsoft"
_FLOAT = ir.DataType.FLOAT


def emit_dynamic(model: ir.Model, plan: DynamicPlan, weights: Mapping[str, RoundedRows]) -> None:
    """Rewrite the planned nodes of a private model, in place.

    What takes a node's place has its name and gives outputs of the same names.

    Args:
        model: The prepared float model, of opset 11 or newer; 13 where a weight is only dequantized.
        plan: What to quantize.
        weights: The rounded weights, by key.
    """
    emitter = _Emitter(model, weights)
    found = nodes_by_name(model)
    for planned in plan.nodes.values():
        emitter.emit(found[planned.node], planned)
    remove_dead(model)


class _Emitter:
    """The model being rewritten, in graph order."""

    def __init__(self, model: ir.Model, weights: Mapping[str, RoundedRows]) -> None:
        self._imports = model.graph.opset_imports
        self._names = NameAllocator.of(model)
        self._weights = IntegerWeights(model, self._names, weights)
        self._quantized: dict[tuple[ir.Value, ir.Graph], ir.Node] = {}
        self._transposed: dict[tuple[str, ir.Graph], ir.Value] = {}
        self._forms: Mapping[DynamicForm, Callable[[ir.Node, DynamicNodePlan], None]] = {
            DynamicForm.PRODUCT: self._product,
            DynamicForm.BATCH: self._batch,
            DynamicForm.CONV: self._conv,
            DynamicForm.LSTM: self._lstm,
            DynamicForm.ATTENTION: self._attention,
            DynamicForm.EMBEDDING: self._embedding,
            DynamicForm.LOOKUP: self._lookup,
            DynamicForm.DEQUANTIZED: self._dequantized,
        }

    def emit(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        """Write one planned node."""
        self._forms[plan.form](node, plan)

    def _product(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        key = plan.weights[1]
        dtype = node.inputs[1].dtype if node.inputs[1] is not None else None

        def multiply(at: Replacement, x: ir.Value, bias: ir.Value | None) -> ir.Value:
            codes, scale, zero = self._activation(at, x, dtype)
            weight = self._columns(at, key)
            sums = at.add(
                "MatMulInteger", _without_end([codes, weight, zero, self._weights.zero_or_none(key)]), heir=True
            )
            real = _real(at, sums, scale, self._weights.scale(key))
            return add_bias(at, _as(at, real, dtype), bias)

        replace_product(node, self._weights[key].channels, self._names, multiply)

    def _columns(self, at: Replacement, key: str) -> ir.Value:
        """Codes [K, N]: an initializer, or the transpose of the table, which runtimes fold when they load it."""
        if not self._weights[key].table:
            return self._weights.columns(key)
        if (key, at.graph) not in self._transposed:
            self._transposed[key, at.graph] = at.add("Transpose", [self._weights.table(key)], {"perm": [1, 0]})
        return self._transposed[key, at.graph]

    def _batch(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        """A scale a column of each matrix [.., 1, C], or one; MatMulInteger takes one zero point for all."""
        key = plan.weights[1]
        at, (x, weight) = Replacement(node, self._names), node.inputs
        assert x is not None
        assert weight is not None
        assert weight.shape is not None
        *batch, length, columns = shape = tuple(int(size) for size in weight.shape.numpy())
        codes, scale, zero = self._activation(at, x, weight.dtype)
        stored = self._weights.codes(key, shape, lambda rows: rows.reshape(*batch, columns, length).swapaxes(-1, -2))
        inputs = [codes, stored, zero, self._weights.one_zero_point(key)]
        sums = at.add("MatMulInteger", inputs, heir=True)
        scales = (*batch, 1, columns) if self._weights[key].params.scale.ndim else ()
        at.finish(_as(at, _real(at, sums, scale, self._weights.scale(key, scales)), weight.dtype))

    def _conv(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        """ConvInteger takes one zero point for all channels."""
        key = plan.weights[1]
        at, (x, weight, *rest) = Replacement(node, self._names), node.inputs
        assert x is not None
        assert weight is not None
        assert weight.shape is not None
        shape = tuple(weight.shape.numpy())
        codes, scale, zero = self._activation(at, x, weight.dtype)
        stored = self._weights.shaped(key, shape)
        inputs = [codes, stored, zero, self._weights.one_zero_point(key)]
        sums = at.add("ConvInteger", inputs, dict(node.attributes), heir=True)
        channels = (shape[0], *[1] * (len(shape) - 2))
        real = _real(at, sums, scale, self._weights.scale(key, channels))
        bias = rest[0] if rest else None
        at.finish(_as(at, add_bias(at, real, None if bias is None else _shaped(at, bias, channels)), weight.dtype))

    def _lstm(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        """DynamicQuantizeLSTM takes weights [D, I, 4H], and scales behind the float operator's inputs."""
        recurrence = node.inputs[2]
        assert recurrence is not None
        assert recurrence.shape is not None
        directions, gates, hidden = (int(size) for size in recurrence.shape.numpy())
        self._become(node, "DynamicQuantizeLSTM", 12)
        for index, (key, at) in enumerate(((plan.weights[1], 1), (plan.weights[2], 2))):
            inner = self._weights[key].length
            codes = self._weights.codes(
                key, (directions, inner, gates), lambda rows: rows.reshape(directions, gates, -1).transpose(0, 2, 1)
            )
            node.replace_input_with(at, codes)
            shape = (directions, gates) if self._weights[key].params.scale.ndim else (directions,)
            node.replace_input_with(8 + 2 * index, self._weights.scale(key, shape))
            node.replace_input_with(9 + 2 * index, self._weights.zero_point(key, shape))
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", hidden)

    def _attention(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        key, at = plan.weights[1], Replacement(node, self._names)
        x, _, bias, mask = (*node.inputs, None)[:4]
        assert x is not None
        codes, scale, zero = self._activation(at, x, _FLOAT)
        inputs = [codes, self._weights.columns(key), bias, scale, self._weights.scale(key), mask, zero]
        attributes = {name: value for name, value in node.attributes.items() if name not in _ABSENT}
        self._imports.setdefault(_CONTRIB, 1)
        zeros = self._weights.zero_point(key)
        at.finish(at.add(f"{_CONTRIB}::QAttention", [*inputs, zeros], attributes, heir=True))

    def _embedding(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        """Codes of tables, gamma and beta; all scales behind the mask, then all zero points.

        The second output may not be left out, as it may be in float.
        """
        node.attributes.pop("mask_index_type", None)
        self._become(node, "QEmbedLayerNormalization", 18)
        for index, key in plan.weights.items():
            old = node.inputs[index]
            assert old is not None
            assert old.shape is not None
            node.replace_input_with(index, self._weights.shaped(key, tuple(int(size) for size in old.shape.numpy())))
            node.replace_input_with(6 + index, self._weights.scale(key))
            node.replace_input_with(11 + index, self._weights.zero_point(key))
        node.resize_outputs(2)
        node.outputs[1].name = node.outputs[1].name or self._names.unique(f"{node.name}_mask_index")

    def _lookup(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        """Rows of codes, dequantized behind the Gather; with one scale a row that is looked up beside them."""
        key, at = plan.weights[0], Replacement(node, self._names)
        table, indices = node.inputs
        assert table is not None
        axis, weight = {"axis": 0}, self._weights[key]
        codes = at.add("Gather", [self._weights.table(key), indices], axis, heir=True)
        zero = self._weights.one_zero_point(key)
        if not weight.params.scale.ndim:
            real = at.add("DequantizeLinear", [codes, self._weights.scale(key), zero])
        else:
            steps = at.add("DequantizeLinear", [codes, at.constant(np.ones((), np.float32), "step"), zero])
            scales = at.add("Gather", [self._weights.scale(key, (weight.channels, 1)), indices], axis)
            real = at.add("Mul", [steps, scales])
        at.finish(_as(at, real, table.dtype))

    def _dequantized(self, node: ir.Node, plan: DynamicNodePlan) -> None:
        """The operator itself on dequantized weights; runtimes fold them to float when they load the model.

        Zero points are written though they are zero: ONNX Runtime 1.24 moves a DequantizeLinear with one scale behind
        the Reshape, and takes int8 codes for uint8 ones where it has none.
        """
        for index, key in plan.weights.items():
            old = node.inputs[index]
            assert old is not None
            assert old.shape is not None
            scale = self._weights.scale(key)
            inputs = [self._weights.table(key), scale, self._weights.zero_point(key)]
            axis = {"axis": 0} if len(scale.shape or ()) else {}
            real = make_node(self._names, "DequantizeLinear", inputs, axis, name=f"{key}_DequantizeLinear")
            shape = self._weights.shape(key, tuple(int(size) for size in old.shape.numpy()))
            shaped = make_node(self._names, "Reshape", [real.outputs[0], shape], name=f"{key}_Reshape")
            shaped.outputs[0].type, shaped.outputs[0].shape = old.type, old.shape
            insert_before(node, [real, shaped])
            node.replace_input_with(index, shaped.outputs[0])

    def _activation(
        self, at: Replacement, x: ir.Value, dtype: ir.DataType | None
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Codes, scale and zero point of an activation; quantized once in each graph that reads it."""
        made = self._quantized.get((x, at.graph))
        if made is None:
            wide = x if dtype in (None, _FLOAT) else at.add("Cast", [x], {"to": _FLOAT.value})
            name = f"{x.name}_DynamicQuantizeLinear"
            results = [f"{x.name}_{role}" for role in ("quantized", "scale", "zero_point")]
            made = make_node(self._names, "DynamicQuantizeLinear", [wide], name=name, outputs=results)
            at.append(made)
            self._quantized[x, at.graph] = made
        codes, scale, zero = made.outputs
        return codes, scale, zero

    def _become(self, node: ir.Node, op_type: str, inputs: int) -> None:
        """Another operator in the place of a node, which keeps its name, its outputs and its first inputs."""
        self._imports.setdefault(_CONTRIB, 1)
        node.domain, node.op_type = _CONTRIB, op_type
        node.resize_inputs(inputs)


_ABSENT = ("do_rotary", "past_present_share_buffer", "rotary_embedding_dim")
"""Attributes of Attention that QAttention may not have; those of planned nodes are zero."""


def _real(at: Replacement, sums: ir.Value, scale: ir.Value, scales: ir.Value) -> ir.Value:
    """int32 sums of products in float32: times the scale of the activation times those of the weight."""
    return at.add("Mul", [at.add("Cast", [sums], {"to": _FLOAT.value}), at.add("Mul", [scale, scales])])


def _as(at: Replacement, value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    """A float32 value in the type of the model."""
    return value if dtype in (None, _FLOAT) else at.add("Cast", [value], {"to": dtype.value})


def _shaped(at: Replacement, bias: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """A bias [O], float32, as [O, 1, ..]."""
    known = constant(bias) if constant_shape(bias) is not None else None
    if known is not None:
        return at.constant(known.astype(np.float32).reshape(shape), "bias")
    wide = bias if bias.dtype in (None, _FLOAT) else at.add("Cast", [bias], {"to": _FLOAT.value})
    return at.add("Reshape", [wide, at.constant(np.asarray(shape, np.int64), "bias_shape")])


def _without_end(inputs: list[ir.Value | None]) -> list[ir.Value | None]:
    while inputs[-1] is None:
        inputs.pop()
    return inputs
