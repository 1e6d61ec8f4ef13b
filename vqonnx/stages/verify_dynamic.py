"""Verify dynamic quantization node by node: what was written runs on random rows, beside the float node.

The float one has the numbers that the codes stand for, so that only what is quantized at run time differs. One node is
open at a time, and float weights of products and tables are made a slab at a time, so models may be larger than memory.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.dynamic_plan import DynamicForm
from vqonnx.emitters.integer_weights import RoundedRows
from vqonnx.errors import VerificationError
from vqonnx.graph.facts import float_attribute, int_attribute
from vqonnx.graph.io import load
from vqonnx.graph.node_alone import node_alone
from vqonnx.graph.packed import computed_tensor
from vqonnx.graph.segments import around
from vqonnx.graph.walk import constant, constant_tensor, values_by_name
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.planning.dynamic.nodes import DynamicNode
from vqonnx.planning.dynamic.row_weights import RowWeight
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
    """What to feed a quantized node, and what it should give.

    Attributes:
        node: Name of the node.
        op_type: Its operator.
        feeds: By the name that the value has in the whole model.
        outputs: Names of its results.
        expected: Computes them with the numbers that the codes stand for.
    """

    node: str
    op_type: str
    feeds: Mapping[str, Array]
    outputs: tuple[str, ...]
    expected: "Expected"

    @classmethod
    def of(cls, model: ir.Model, found: DynamicNode, weights: Mapping[int, RoundedRows]) -> "Trial":
        """The trial of a node of ``model`` that is still float."""
        node, given = found.node, _feeds(found)
        feeds = {str(value.name): given[index] for index, value in enumerate(node.inputs) if value and index in given}
        outputs = tuple(output.name for output in node.outputs if output.name)
        return cls(found.name, node.op_type, feeds, outputs, _expected(model, found, weights, given))


Expected = Callable[[], Sequence[Array]]


def _expected(
    model: ir.Model, found: DynamicNode, weights: Mapping[int, RoundedRows], given: Mapping[int, Array]
) -> Expected:
    """How the node's results are computed when the model has been rewritten; nothing refers to its nodes."""
    node, layer = found.node, found.layer
    if layer is None:
        alone = node_alone(model, node, {i: _meant(found.weights[i], weights[i]) for i in found.weights})
        feeds = {str(value.name): given[index] for index, value in enumerate(node.inputs) if value and index in given}
        return partial(_run, alone, feeds, f"{node.op_type} node {found.name!r} in float")
    weight = weights[layer.weight_index]
    if found.form is DynamicForm.LOOKUP:
        return lambda: [weight.looked_up(given[1])]
    rows = given[0].astype(np.float32)
    if node.op_type == "Gemm":
        return partial(_gemm, weight, rows.T if int_attribute(node, "transA", 0) else rows, _scaled_addend(node, given))
    shape = (*rows.shape[:-1], layer.out_features)
    return lambda: [weight.product(rows.reshape(-1, layer.in_features)).reshape(shape)]


def _gemm(weight: RoundedRows, rows: npt.NDArray[np.float32], addend: npt.NDArray[np.float32]) -> list[Array]:
    """Alpha is a part of the weight."""
    return [weight.product(rows) + addend]


def _scaled_addend(node: ir.Node, given: Mapping[int, Array]) -> npt.NDArray[np.float32]:
    """Beta * C; 0 where there is none."""
    addend = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    addend = given.get(2, np.zeros((), np.float32)) if addend is None else addend
    scaled: npt.NDArray[np.float32] = np.float32(float_attribute(node, "beta", 1.0)) * addend.astype(np.float32)
    return scaled


def _meant(source: RowWeight, weight: RoundedRows) -> ir.TensorProtocol:
    """The numbers that the codes stand for, in the layout that the float node reads."""
    dtype = source.source.dtype
    return computed_tensor(lambda: source.laid(weight.numbers()).astype(dtype.numpy()), dtype, source.source.shape)


def _feeds(found: DynamicNode) -> dict[int, Array]:
    """Random numbers for every input that is read, and neither absent nor constant."""
    rng = np.random.default_rng(_SEED)
    shapes = _SHAPES[found.form](found)
    feeds: dict[int, Array] = {}
    for index, value in enumerate(found.node.inputs):
        if value is None or index not in shapes or constant_tensor(value) is not None or index in found.weights:
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
        given: dict[int, tuple[int, ...]] = {0: (k, rows) if int_attribute(node, "transA", 0) else (rows, k)}
        return given if float_attribute(node, "beta", 1.0) == 0 else {**given, 2: _addend(node, n)}
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


def _batch(found: DynamicNode) -> _Given:
    *batch, inner, _ = found.weights[1].source.shape
    value = found.node.inputs[0]
    rank = 2 if value is None or value.shape is None else len(value.shape)
    return {0: (*batch[-(rank - 2) :], _ROWS, inner) if rank > 2 else (_ROWS, inner)}


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


def _embedding(found: DynamicNode) -> _Given:
    """Numbers of words and segments, and a mask that keeps all."""
    rng, length = np.random.default_rng(_SEED), min(_ROWS, found.weights[3].channels)
    tables = {0: 2, 1: 4} if 4 in found.weights else {0: 2}
    numbers = {index: rng.integers(0, found.weights[table].channels, (1, length)) for index, table in tables.items()}
    return {**{index: rows.astype(np.int32) for index, rows in numbers.items()}, 7: np.ones((1, length), np.int32)}


_SHAPES: Mapping[DynamicForm, Callable[[DynamicNode], _Given]] = {
    DynamicForm.PRODUCT: _product,
    DynamicForm.BATCH: _batch,
    DynamicForm.CONV: _conv,
    DynamicForm.LSTM: _recurrent,
    DynamicForm.DEQUANTIZED: _recurrent,
    DynamicForm.LOOKUP: _lookup,
    DynamicForm.ATTENTION: _attention,
    DynamicForm.EMBEDDING: _embedding,
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
    actual = _run(part, trial.feeds, f"{trial.op_type} node {trial.node!r} with its integer weights")
    worst = math.inf
    for wanted, given in zip(trial.expected(), actual, strict=True):
        sums = ErrorSums.of(wanted, given)
        worst = min(worst, math.inf if sums.noise == 0 else sums.sqnr_db)
        if sums.broken or not worst >= LEAST_DB:
            raise VerificationError(
                f"{trial.op_type} node {trial.node!r} computes something else than its integer weights say "
                f"({worst:.1f} dB). Nothing was saved; exclude the node (nodes_to_exclude) and report it."
            )
    return worst


def _run(model: ir.Model, feeds: Mapping[str, Array], what: str) -> list[Array]:
    with runtime_errors(f"run {what}"):
        results: list[Array] = open_session(model).run(None, dict(feeds))
    return results
