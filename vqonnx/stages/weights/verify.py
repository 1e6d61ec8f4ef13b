"""Verify packed weights node by node: what was written is run on random rows, beside the product it stands for.

The whole model need not fit into memory for that: one layer is open at a time, and its float weight is made from the
codes a few columns at a time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.blocks import CodebookBlocks, PackedWeight
from vqonnx.core.weight_plan import LayerPlan, Reader, WeightOnlyPlan, WeightPlan
from vqonnx.errors import VerificationError
from vqonnx.graph.facts import float_attribute, int_attribute
from vqonnx.graph.segments import around
from vqonnx.graph.walk import constant_tensor, values_by_name
from vqonnx.kernels.blocks.codebook import dequantize_from_book
from vqonnx.kernels.blocks.packed_product import packed_product
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.planning.weights.layers import Layer
from vqonnx.progress import Progress, silent
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = npt.NDArray[np.generic]
F32 = npt.NDArray[np.float32]

LEAST_DB = 30.0
"""8-bit inputs cost 40 to 46 dB, float16 sums about 55: less means that a node computes something else."""

_CPU = ("CPUExecutionProvider",)
_ROWS = 4
_LOOKUPS = 64
_ROUNDING = 1e-6
"""Energy of a row's rounding errors, in shares of the row's: a wrong code of a weight of zeros costs 1 or more."""
_LARGEST_GAIN = 1024.0  # float16 ends at 65504
_SEED = 2026


@dataclass(frozen=True, slots=True)
class LayerEnds:
    """Where a layer begins and ends, which packing does not change, and how rows lie there.

    Attributes:
        input: Name of the activation (of the indices of a lookup).
        output: Name of the result.
        dtype: Element type of the activation.
        addend: Name of a Gemm's C where that is computed at run time.
        row_count: Rows to run it with: a few, or as many as a Gemm's constant C has.
        transposed: Whether a Gemm reads its rows as columns (transA).
        rank: Axes of the activation; for a Conv the second one holds the channels.
        channels_second: Whether the layer is a Conv.
    """

    input: str
    output: str
    dtype: np.dtype[np.generic]
    addend: str | None = None
    row_count: int = _ROWS
    transposed: bool = False
    rank: int = 2
    channels_second: bool = False

    @classmethod
    def of(cls, layer: Layer) -> "LayerEnds":
        """The ends of a layer that is still float."""
        node = layer.node
        activation = node.inputs[1] if layer.reader is Reader.LOOKUP else node.inputs[0]
        assert activation is not None
        ends = cls(activation.name or "", node.outputs[0].name or "", np.dtype(layer.dtype.numpy()))
        if node.op_type == "Conv":
            return replace(ends, rank=len(layer.weight.shape), channels_second=True)
        if node.op_type == "Gemm":
            return ends._of_gemm(node)
        return ends if activation.shape is None else replace(ends, rank=len(activation.shape))

    def _of_gemm(self, node: ir.Node) -> "LayerEnds":
        ends = replace(self, transposed=bool(int_attribute(node, "transA", 0)))
        addend = node.inputs[2] if len(node.inputs) > 2 and float_attribute(node, "beta", 1.0) else None
        if addend is None:
            return ends
        constant = constant_tensor(addend)
        if constant is None:
            return replace(ends, addend=addend.name)
        shape = (1, 1, *constant.shape.numpy())
        return ends if shape[-2] == 1 else replace(ends, row_count=shape[-2])

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
    written: ir.Model,
    plan: WeightOnlyPlan,
    ends: Mapping[str, LayerEnds],
    packed: Callable[[str], PackedWeight],
    *,
    providers: Sequence[str] = _CPU,
    progress: Progress = silent,
) -> tuple[dict[str, float], list[str]]:
    """Run each layer of a written model on random rows and compare it with the product that its packed weight gives.

    Args:
        written: The model, as read from its file.
        plan: What was planned.
        ends: Where each planned node began and ended when it was float.
        packed: The packed weight of a key.
        providers: Execution providers of the sessions.
        progress: Told of each layer.

    Returns:
        SQNR in dB by node name, and a remark for each layer that could not be run.

    Raises:
        VerificationError: A layer does not load or run, or computes something else.
    """
    values = values_by_name(written)
    found: dict[str, float] = {}
    notes: list[str] = []
    for done, layer in enumerate(plan.layers.values()):
        progress("verify", done, len(plan.layers))
        own = ends[layer.node]
        starts = [values[name] for name in (own.input, own.addend) if name is not None]
        reason = _obstacle(own)
        if reason:
            notes.append(f"{layer.op_type} node {layer.node!r} was written but not run by itself: {reason}")
            continue
        check = _Check(layer, plan.weights[layer.weight], packed(layer.weight), own, providers)
        found[layer.node] = check.sqnr_db(around(written, starts, [values[own.output]]))
    progress("verify", len(plan.layers), len(plan.layers))
    return found, notes


def _obstacle(ends: LayerEnds) -> str:
    """Why a layer cannot be run apart from the rest; empty if it can."""
    if ends.addend == ends.input:
        return "it adds its own input to the product"
    if ends.dtype.isbuiltin != 1:
        return f"ONNX Runtime takes no {ends.dtype.name} arrays from Python"
    return ""


@dataclass(frozen=True, slots=True)
class _Check:
    """One layer, to be run."""

    layer: LayerPlan
    weight: WeightPlan
    packed: PackedWeight
    ends: LayerEnds
    providers: Sequence[str]

    def sqnr_db(self, part: ir.Model) -> float:
        """How near the written layer is to its packed weight."""
        with runtime_errors(f"run {self._name} with its packed weight"):
            # One thread: others would take longer to start and stop than the few rows do.
            session = open_session(part, providers=self.providers, threads=1)
            lookup = self.layer.reader is Reader.LOOKUP
            sums = self._lookup_errors(session) if lookup else self._product_errors(session)
        if not sums.sqnr_db >= LEAST_DB:
            raise VerificationError(
                f"{self._name} computes something else than its packed weight says ({sums.sqnr_db:.1f} dB). Nothing "
                "was saved; exclude the node (nodes_to_exclude) and report it."
            )
        return math.inf if sums.noise == 0 else sums.sqnr_db

    @property
    def _name(self) -> str:
        return f"{self.layer.op_type} node {self.layer.node!r}"

    def _lookup_errors(self, session: "InferenceSession") -> ErrorSums:
        """The first, the last and some other rows of the table."""
        count = self.weight.out_features
        indices = np.random.default_rng(_SEED).integers(0, count, _LOOKUPS)
        indices[:2] = 0, count - 1
        return ErrorSums.of(_columns(self.packed, indices).T, _run(session, {self.ends.input: indices}))

    def _product_errors(self, session: "InferenceSession") -> ErrorSums:
        generator, ends = np.random.default_rng(_SEED), self.ends
        rows = generator.standard_normal((ends.row_count, self.weight.in_features)).astype(ends.dtype)
        product = packed_product(rows, self.packed)
        bias = self._rows(session, np.zeros_like(rows))
        gain = _gain(product, bias)
        with np.errstate(invalid="ignore"):  # a bias may be infinite
            # The difference of two runs is free of the bias.
            difference = self._rows(session, rows * ends.dtype.type(gain)) - bias
        sums = ErrorSums.of(np.where(np.isfinite(bias), product * np.float32(gain), np.nan), difference)
        energy = float(np.square(rows * gain, dtype=np.float64).sum())
        # Kernels add up what codes and zero points give apart, so a weight of zeros leaves rounding errors.
        return replace(sums, noise=0.0) if sums.signal == 0 and sums.noise <= _ROUNDING * energy else sums

    def _rows(self, session: "InferenceSession", rows: Array) -> F32:
        """What the layer gives for rows [R, K], [R, N]."""
        feeds = {self.ends.input: self.ends.laid(rows)}
        if self.ends.addend is not None:
            feeds[self.ends.addend] = np.zeros((1, 1), self.ends.dtype)
        return self.ends.rows(_run(session, feeds))


def _gain(product: F32, bias: F32) -> float:
    """By what rows are multiplied so that a large bias does not take the digits of their product: a power of two."""
    size, largest = np.abs(product).mean(), np.abs(bias[np.isfinite(bias)]).max(initial=0.0)
    if not 0 < size < largest:
        return 1.0
    return min(_LARGEST_GAIN, 2.0 ** math.ceil(math.log2(largest / size)))


def _run(session: "InferenceSession", feeds: Mapping[str, Array]) -> F32:
    """The one output; indices as the session wants them."""
    types = {given.name: given.type for given in session.get_inputs()}
    fed = {name: array.astype(np.int32) if types[name] == "tensor(int32)" else array for name, array in feeds.items()}
    (result,) = session.run(None, fed)
    with np.errstate(over="ignore"):
        return np.asarray(result, np.float32)


def _columns(packed: PackedWeight, indices: npt.NDArray[np.int64]) -> F32:
    """Columns [K, I] of the weight."""
    if isinstance(packed, CodebookBlocks):
        return np.asarray(dequantize_from_book(packed)[:, indices], np.float32)
    some = replace(
        packed,
        codes=packed.codes[indices],
        scales=packed.scales[indices],
        zero_points=None if packed.zero_points is None else packed.zero_points[indices],
        out_features=len(indices),
    )
    return np.asarray(dequantize_blocks(some), np.float32)
