"""Packed forms of small models, and what they have to compute: the float model with the weights that the codes mean."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from tests.versions import since
from vqonnx.core.blocks import BlockSpec, CodebookBlocks, PackedWeight
from vqonnx.core.weight_plan import CodebookSpec, WeightForm, WeightOnlyPlan
from vqonnx.emitters.weights.emit import emit_weights
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import to_proto
from vqonnx.kernels.blocks.codebook import code_book, dequantize_from_book, round_to_book
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.kernels.blocks.rounding import round_blocks
from vqonnx.planning.rules import Selection
from vqonnx.planning.weights.layers import LAYER_OPERATORS, Layer, find_layers
from vqonnx.planning.weights.plan import plan_weights
from vqonnx.planning.weights.rules import WeightRules
from vqonnx.runtime.session import open_session
from vqonnx.stages.weights.prepare import prepare_weights
from vqonnx.transforms.opset import upgrade_opset

Feed = Mapping[str, Any]
Form = WeightForm
SQNR = {0: 95.0, 1: 95.0, 4: 40.0}
"""Decibels between a form and what its codes mean, by accuracy level; 8-bit inputs cost 42 to 48."""
HALF_SQNR = 58.0


def fused_since(spec: BlockSpec, dtype: type = np.float32) -> None:
    """Skip the test where ONNX Runtime does not make MatMulNBits of such a DequantizeLinear yet."""
    if spec.bits == 2:
        since("1.28", "2-bit kernels")
    if spec.bits != 4 or spec.block_size == -1 or dtype is np.float16:
        since("1.25", "fusing DequantizeLinear of other than 4 bits in blocks with float32 scales")


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A model in a packed form.

    Attributes:
        model: The packed model.
        meant: The float model whose weights are what the codes mean.
        plan: The plan.
        weights: Packed weights by key.
    """

    model: ir.Model
    meant: ir.Model
    plan: WeightOnlyPlan
    weights: Mapping[str, PackedWeight]

    @property
    def proto(self) -> onnx.ModelProto:
        return to_proto(self.model)

    def ops(self) -> list[str]:
        return [node.op_type for node in self.model.graph.all_nodes()]


def pack_model(
    model: onnx.ModelProto | ir.Model | Path,
    form: WeightForm = Form.MATMUL_NBITS,
    spec: BlockSpec | CodebookSpec | None = None,
    *,
    level: int = 0,
    opset: int = 0,
    op_types: tuple[str, ...] = LAYER_OPERATORS,
    weights: Callable[[Layer], PackedWeight] | None = None,
) -> Packed:
    """Round every weight that has the form to nearest, and write it."""
    prepared, meant = load(model), load(model)
    for one in (prepared, meant):
        prepare_weights(one)
        upgrade_opset(one, opset)
    layers, skips = find_layers(prepared)
    chosen = spec or default_spec(form)
    rules = WeightRules(form=form, spec=chosen, accuracy_level=level, selection=Selection(op_types=op_types))
    plan = plan_weights(layers, skips, rules)
    by_name = {layer.name: layer for layer in layers}
    found = {
        key: (weights or (lambda layer: rounded(layer, chosen)))(by_name[weight.readers[0]])
        for key, weight in plan.weights.items()
    }
    _put_meant(meant, plan, found)
    emit_weights(prepared, plan, by_name, found.__getitem__, NameAllocator.of(prepared))
    return Packed(prepared, meant, plan, found)


def default_spec(form: WeightForm) -> BlockSpec | CodebookSpec:
    if form is Form.BNB4:
        return CodebookSpec()
    return BlockSpec(bits=8, block_size=-1, symmetric=True) if form is Form.CHANNEL_QDQ else BlockSpec()


def rounded(layer: Layer, spec: BlockSpec | CodebookSpec) -> PackedWeight:
    weight = layer.read()
    if isinstance(spec, CodebookSpec):
        return round_to_book(weight, code_book(spec.book), spec.block_size)
    return round_blocks(weight, spec)


def real(weight: PackedWeight) -> Any:
    """W [K, N]."""
    return dequantize_from_book(weight) if isinstance(weight, CodebookBlocks) else dequantize_blocks(weight)


def _put_meant(model: ir.Model, plan: WeightOnlyPlan, weights: Mapping[str, PackedWeight]) -> None:
    """Give each planned node of a float model the weight that its codes mean, as a constant of its own."""
    names = NameAllocator.of(model)
    layers = {layer.name: layer for layer in find_layers(model)[0]}
    for name, planned in plan.layers.items():
        layer = layers[name]
        constant = layer.in_layout(real(weights[planned.weight]))
        value = add_initializer(model.graph, names.unique(f"{name}_meant"), constant)
        layer.node.replace_input_with(layer.weight_index, value)


def run(model: ir.Model | onnx.ModelProto, feed: Feed, **options: Any) -> dict[str, Any]:
    """Outputs in ONNX Runtime, on one thread."""
    session = open_session(load(model), threads=1, **options)
    names = [output.name for output in session.get_outputs()]
    wanted = {given.name for given in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in feed.items() if k in wanted}), strict=True))


def run_reference(model: onnx.ModelProto, feed: Feed) -> dict[str, Any]:
    """Outputs by ONNX's definition of its operators."""
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feed)), strict=True))


def fused(model: ir.Model, folder: Path) -> list[str]:
    """Operators of the graph that ONNX Runtime really runs, those of bodies included."""
    path = folder / "optimized.onnx"
    open_session(model, threads=1, optimized_path=path)
    return [node.op_type for node in load(path).graph.all_nodes()]


def sqnr(expected: Any, actual: Any) -> float:
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    noise = np.square(expected - actual).sum()
    return np.inf if noise == 0 else float(10 * np.log10(np.square(expected).sum() / noise))


def assert_computes(packed: Packed, feeds: Any, decibels: float) -> None:
    """Every output of the packed model is that of the float model with the weights that are meant."""
    for feed in feeds:
        expected, actual = run(packed.meant, feed), run(packed.model, feed)
        assert list(expected) == list(actual)
        for name, wanted in expected.items():
            given = actual[name]
            assert given.shape == wanted.shape
            assert given.dtype == wanted.dtype
            if np.issubdtype(np.asarray(wanted).dtype, np.floating):
                assert sqnr(wanted, given) > decibels, name
            else:
                np.testing.assert_array_equal(given, wanted)


def without_zero_points(weight: PackedWeight) -> PackedWeight:
    return replace(weight, zero_points=None)
