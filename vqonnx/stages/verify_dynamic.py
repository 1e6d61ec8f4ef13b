"""Verify dynamic quantization node by node: what was written runs on random rows, beside the float node.

The float node gets the numbers that the codes stand for, so that only what is quantized at run time differs. One node
is open at a time.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.dynamic_plan import DynamicForm
from vqonnx.emitters.integer_weights import RoundedRows
from vqonnx.errors import VerificationError
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.io import load
from vqonnx.graph.packed import computed_tensor
from vqonnx.graph.segments import around
from vqonnx.graph.walk import constant_tensor, values_by_name
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.kernels.row_codes import row_numbers
from vqonnx.planning.dynamic_nodes import DynamicNode
from vqonnx.progress import Progress, silent
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session

Array = npt.NDArray[np.generic]

LEAST_DB = 20.0
"""8-bit activations cost 35 to 48 dB on random rows, an LSTM's 32 to 40: less means that a node computes otherwise."""

_ROWS = 4
_SEED = 2026


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A float node with the numbers that its codes stand for, and what to feed it.

    Attributes:
        node: Name of the node.
        op_type: Its operator.
        model: The node alone.
        feeds: By the name that the value has in the whole model.
        outputs: Names of its results.
    """

    node: str
    op_type: str
    model: ir.Model
    feeds: Mapping[str, Array]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, model: ir.Model, found: DynamicNode, weights: Mapping[int, RoundedRows]) -> "Trial":
        """The trial of a node of ``model`` that is still float."""
        node = found.node
        feeds = _feeds(found)
        inputs, fed, constants = list[ir.Value | None](), dict[str, ir.Value](), dict[ir.Value, ir.Value]()
        for index, value in enumerate(node.inputs):
            if value is None:
                inputs.append(None)
            elif index in weights:
                constants[value] = _initializer(value, _meant(found, index, weights[index]))
                inputs.append(constants[value])
            elif (tensor := constant_tensor(value)) is not None:
                inputs.append(constants.setdefault(value, _initializer(value, tensor)))
            else:
                name = value.name or ""
                dtype = ir.DataType.from_numpy(feeds[index].dtype)
                inputs.append(fed.setdefault(name, ir.Value(name=name, type=ir.TensorType(dtype))))
        outputs = [ir.Value(name=output.name, type=output.type) for output in node.outputs if output.name]
        own = iter(outputs)
        made = [next(own) if output.name else ir.Value(name="") for output in node.outputs]
        alone = ir.node(node.op_type, inputs, node.attributes, domain=node.domain, outputs=made, name=node.name)
        graph = ir.Graph(
            list(fed.values()),
            outputs,
            nodes=[alone],
            initializers=list(constants.values()),
            opset_imports=dict(model.graph.opset_imports),
            name="trial",
        )
        by_name = {node.inputs[index].name or "": feed for index, feed in feeds.items() if index not in weights}  # type: ignore[union-attr]  # fed
        return cls(
            found.name,
            node.op_type,
            ir.Model(graph, ir_version=model.ir_version),
            {name: by_name[name] for name in fed},
            tuple(output.name or "" for output in outputs),
        )


def _initializer(value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.Value(name=value.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=shape)


def _meant(found: DynamicNode, index: int, weight: RoundedRows) -> ir.TensorProtocol:
    """The numbers that the codes stand for, in the layout that the float node reads."""
    source = found.weights[index]
    dtype = source.source.dtype
    laid: Callable[[], Array] = lambda: source.laid(row_numbers(weight.codes(), weight.params)).astype(dtype.numpy())  # noqa: E731
    return computed_tensor(laid, dtype, source.source.shape)


def _feeds(found: DynamicNode) -> dict[int, Array]:
    """Random numbers for every input that is neither absent nor constant."""
    rng = np.random.default_rng(_SEED)
    shapes = _SHAPES[found.form](found)
    feeds: dict[int, Array] = {}
    for index, value in enumerate(found.node.inputs):
        if value is None or constant_tensor(value) is not None or index in found.weights:
            continue
        given = shapes[index]
        if isinstance(given, tuple):
            weight = next(iter(found.weights.values()))
            feeds[index] = rng.standard_normal(given).astype(weight.source.dtype.numpy())
        else:
            feeds[index] = given
    return feeds


_Given = Mapping[int, "tuple[int, ...] | Array"]


def _product(found: DynamicNode) -> _Given:
    node, layer = found.node, found.layer
    assert layer is not None
    k, n = layer.in_features, layer.out_features
    if node.op_type == "Gemm":
        rows = _rows_of_addend(node)
        return {0: (k, rows) if int_attribute(node, "transA", 0) else (rows, k), 2: _addend(node, n)}
    value = node.inputs[0]
    rank = 2 if value is None or value.shape is None else len(value.shape)
    return {0: (*[1] * (rank - 2), _ROWS, k)}


def _rows_of_addend(node: ir.Node) -> int:
    """As many rows as a constant C of several rows has."""
    tensor = constant_tensor(node.inputs[2]) if len(node.inputs) > 2 else None
    shape = () if tensor is None else tuple(tensor.shape.numpy())
    return int(shape[0]) if len(shape) == 2 and shape[0] > 1 else _ROWS


def _addend(node: ir.Node, n: int) -> tuple[int, ...]:
    """A Gemm's C of the rank that is declared, so that it broadcasts as it does."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    rank = 1 if value is None or value.shape is None else len(value.shape)
    return () if rank == 0 else (*[1] * (rank - 1), n)


def _conv(found: DynamicNode) -> _Given:
    node, weight = found.node, next(iter(found.weights.values()))
    out, inner, *kernel = weight.source.shape
    dilations = node.attributes.get("dilations")
    steps = [1] * len(kernel) if dilations is None else list(dilations.as_ints())
    places = [(size - 1) * step + 1 + _ROWS for size, step in zip(kernel, steps, strict=True)]
    return {0: (1, inner * int_attribute(node, "group", 1), *places), 2: (out,)}


def _recurrent(found: DynamicNode) -> _Given:
    directions, gates, inner = found.weights[1].source.shape
    hidden = found.weights[2].source.shape[2]
    first = int_attribute(found.node, "layout", 0)
    state = (1, directions, hidden) if first else (directions, 1, hidden)
    return {
        0: (1, _ROWS, inner) if first else (_ROWS, 1, inner),
        3: (directions, 2 * gates),
        4: np.full(1, _ROWS, np.int32),
        5: state,
        6: state,
        7: (directions, 3 * hidden),
    }


def _lookup(found: DynamicNode) -> _Given:
    indices = found.node.inputs[1]
    rows = next(iter(found.weights.values())).channels
    dtype = np.int32 if indices is not None and indices.dtype is ir.DataType.INT32 else np.int64
    return {1: np.random.default_rng(_SEED).integers(0, rows, _ROWS).astype(dtype)}


def _attention(found: DynamicNode) -> _Given:
    weight, mask = found.weights[1], found.node.inputs[3] if len(found.node.inputs) > 3 else None
    one_axis = mask is not None and mask.shape is not None and len(mask.shape) == 1
    kept = np.full(1, _ROWS, np.int32) if one_axis else np.ones((1, _ROWS), np.int32)
    return {0: (1, _ROWS, weight.length), 2: (weight.channels,), 3: kept}


_SHAPES: Mapping[DynamicForm, Callable[[DynamicNode], _Given]] = {
    DynamicForm.PRODUCT: _product,
    DynamicForm.CONV: _conv,
    DynamicForm.LSTM: _recurrent,
    DynamicForm.DEQUANTIZED: _recurrent,
    DynamicForm.LOOKUP: _lookup,
    DynamicForm.ATTENTION: _attention,
}


def verify_nodes(written: Path, trials: Mapping[str, Trial], *, progress: Progress = silent) -> dict[str, float]:
    """Run each quantized node of a written model beside its float node.

    Args:
        written: The model.
        trials: By node name.
        progress: Told of each node.

    Returns:
        SQNR in dB of the node's worst result, by node name.

    Raises:
        VerificationError: A node does not load or run, or computes something else.
    """
    model = load(written)
    values = values_by_name(model)
    found: dict[str, float] = {}
    for done, trial in enumerate(trials.values()):
        progress("verify", done, len(trials))
        part = around(model, [values[name] for name in trial.feeds], [values[name] for name in trial.outputs])
        found[trial.node] = _sqnr(part, trial)
    progress("verify", len(trials), len(trials))
    return found


def _sqnr(part: ir.Model, trial: Trial) -> float:
    actual, expected = _run(part, trial, "its integer weights"), _run(trial.model, trial, "float weights")
    worst = math.inf
    for wanted, given in zip(expected, actual, strict=True):
        sums = ErrorSums.of(wanted, given)
        worst = min(worst, math.inf if sums.noise == 0 else sums.sqnr_db)
        if sums.broken or not worst >= LEAST_DB:
            raise VerificationError(
                f"{trial.op_type} node {trial.node!r} computes something else than its integer weights say "
                f"({worst:.1f} dB). Nothing was saved; exclude the node (nodes_to_exclude) and report it."
            )
    return worst


def _run(model: ir.Model, trial: Trial, how: str) -> list[Array]:
    with runtime_errors(f"run {trial.op_type} node {trial.node!r} with {how}"):
        results: list[Array] = open_session(model).run(None, dict(trial.feeds))
    return results
