"""Verify packed weights node by node: what was written is run on random rows, beside the product it stands for.

The whole model need not fit into memory for that: one layer is open at a time, and its float weight is made from the
codes a few columns at a time.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.blocks import CodebookBlocks, QuantizedBlocks
from vqonnx.core.weight_plan import LayerPlan, Reader, WeightOnlyPlan, WeightPlan
from vqonnx.errors import VerificationError
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.io import load
from vqonnx.graph.segments import between
from vqonnx.graph.walk import values_by_name
from vqonnx.kernels.codebook import dequantize_from_book
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.kernels.packing import dequantize_blocks, slice_channels
from vqonnx.planning.layers import Layer
from vqonnx.progress import Progress, silent
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = npt.NDArray[np.generic]
F32 = npt.NDArray[np.float32]
PackedWeight: TypeAlias = QuantizedBlocks | CodebookBlocks

LEAST_DB = 30.0
"""8-bit inputs cost 40 to 46 dB, float16 sums about 55: less means that a node computes something else."""

_ROWS = 4
_CHUNK_BYTES = 1 << 25
_SEED = 2026


@dataclass(frozen=True, slots=True)
class LayerEnds:
    """Where a layer begins and ends, which packing does not change, and how rows lie there.

    Attributes:
        input: Name of the activation (of the indices of a lookup).
        output: Name of the result.
        dtype: Element type of the activation.
        transposed: Whether a Gemm reads its rows as columns (transA).
        rank: Axes of the activation; for a Conv the second one holds the channels.
        channels_second: Whether the layer is a Conv.
    """

    input: str
    output: str
    dtype: np.dtype[np.generic]
    transposed: bool = False
    rank: int = 2
    channels_second: bool = False

    @classmethod
    def of(cls, layer: Layer) -> "LayerEnds":
        """The ends of a layer that is still float."""
        node = layer.node
        index = 1 if layer.reader is Reader.LOOKUP else 0
        activation = node.inputs[index]
        assert activation is not None
        shape = activation.shape
        return cls(
            activation.name or "",
            node.outputs[0].name or "",
            np.dtype(layer.dtype.numpy()),
            transposed=node.op_type == "Gemm" and bool(int_attribute(node, "transA", 0)),
            rank=2 if shape is None else len(shape),
            channels_second=node.op_type == "Conv",
        )

    def laid(self, rows: Array) -> Array:
        """Rows [R, K] as the layer takes them."""
        if self.channels_second:
            return np.ascontiguousarray(rows.T).reshape(1, rows.shape[1], rows.shape[0], *[1] * (self.rank - 3))
        if self.transposed:
            return np.ascontiguousarray(rows.T)
        return rows.reshape(*[1] * (self.rank - 2), *rows.shape)

    def rows(self, result: F32) -> F32:
        """What the layer gives as rows [R, N]."""
        if self.channels_second:
            return result.reshape(result.shape[1], -1).T
        return result.reshape(-1, result.shape[-1])


def verify_layers(
    written: Path,
    plan: WeightOnlyPlan,
    ends: Mapping[str, LayerEnds],
    packed: Callable[[str], PackedWeight],
    *,
    progress: Progress = silent,
) -> dict[str, float]:
    """Run each layer of a written model on random rows and compare it with the product that its packed weight gives.

    Args:
        written: The model.
        plan: What was planned.
        ends: Where each planned node began and ended when it was float.
        packed: The packed weight of a key.
        progress: Told of each layer.

    Returns:
        SQNR in dB by node name.

    Raises:
        VerificationError: A layer does not load or run, or computes something else.
    """
    model = load(written)
    values = values_by_name(model)
    found: dict[str, float] = {}
    for done, layer in enumerate(plan.layers.values()):
        progress("verify", done, len(plan.layers))
        own = ends[layer.node]
        part = between(model, values[own.input], values[own.output])
        found[layer.node] = _sqnr(part, layer, plan.weights[layer.weight], packed(layer.weight), own)
    progress("verify", len(plan.layers), len(plan.layers))
    return found


def _sqnr(part: ir.Model, layer: LayerPlan, weight: WeightPlan, packed: PackedWeight, ends: LayerEnds) -> float:
    what = f"run {layer.op_type} node {layer.node!r} with its packed weight"
    with runtime_errors(what):
        session = open_session(part)
    generator = np.random.default_rng(_SEED)
    if layer.reader is Reader.LOOKUP:
        indices = generator.integers(0, weight.out_features, _ROWS)
        sums = ErrorSums.of(_columns(packed, indices), _run(session, indices, what))
    else:
        rows = generator.standard_normal((_ROWS, weight.in_features)).astype(ends.dtype)
        # The difference of two runs is free of the bias.
        product = _run(session, ends.laid(rows), what) - _run(session, ends.laid(np.zeros_like(rows)), what)
        sums = _product_sums(rows.astype(np.float32), packed, ends.rows(product))
    if not sums.sqnr_db >= LEAST_DB or sums.broken:
        raise VerificationError(
            f"{layer.op_type} node {layer.node!r} computes something else than its packed weight says "
            f"({sums.sqnr_db:.1f} dB). Nothing was saved; exclude the node (nodes_to_exclude) and report it."
        )
    return math.inf if sums.noise == 0 else sums.sqnr_db


def _run(session: "InferenceSession", feed: Array, what: str) -> F32:
    (given,) = session.get_inputs()
    if given.type == "tensor(int32)":
        feed = feed.astype(np.int32)
    with runtime_errors(what):
        (result,) = session.run(None, {given.name: feed})
    return np.asarray(result, np.float32)


def _columns(packed: PackedWeight, indices: npt.NDArray[np.int64]) -> F32:
    """Columns of W as rows: what a lookup gives."""
    if isinstance(packed, CodebookBlocks):
        return np.asarray(dequantize_from_book(packed)[:, indices].T, np.float32)
    return np.concatenate([_float(slice_channels(packed, n, n + 1)).T for n in map(int, indices)])


def _product_sums(rows: F32, packed: PackedWeight, actual: F32) -> ErrorSums:
    """Errors of ``actual`` [R, N] against ``rows`` [R, K] times the weight."""
    if isinstance(packed, CodebookBlocks):
        return ErrorSums.of(rows @ np.asarray(dequantize_from_book(packed), np.float32), actual)
    step = max(1, _CHUNK_BYTES // (4 * packed.in_features))
    sums = ErrorSums()
    for start in range(0, packed.out_features, step):
        part = slice_channels(packed, start, start + step)
        sums = sums.merge(ErrorSums.of(rows @ _float(part), actual[:, start : start + step]))
    return sums


def _float(blocks: QuantizedBlocks) -> F32:
    return np.asarray(dequantize_blocks(blocks), np.float32)
