"""Neural Compressor's ``rtn_quantize``: the weights of a model's MatMul nodes rounded to nearest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import onnx
import onnx_ir as ir

from vqonnx.compat.neural_compressor.node_config import NodeConfig, WeightConfig, node_configs, symmetry
from vqonnx.compat.neural_compressor.rounding import Rounding, pack_groups, round_groups
from vqonnx.compat.node_names import append_bits
from vqonnx.core.blocks import PACKED_BITS, FloatArray
from vqonnx.emitters.weights import matmul_nbits
from vqonnx.emitters.weights.products import replace_product
from vqonnx.errors import OptionError, QuantRangeError, UnsupportedModelError, nearest
from vqonnx.graph.edit import add_initializer, remove_dead
from vqonnx.graph.io import ModelSource, load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import to_proto
from vqonnx.graph.walk import nodes
from vqonnx.planning.weights.layers import Layer, find_layers
from vqonnx.planning.weights.tied import tie
from vqonnx.stages.weights.prepare import prepare_weights

_CONTRIB, _CPU = "com.microsoft", "CPUExecutionProvider"
_NOTHING: Mapping[str, float] = MappingProxyType({})
_NO_CONFIG: WeightConfig = MappingProxyType({})
_T = TypeVar("_T")
_PACKED_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def rtn_quantize(
    model: ModelSource,
    weight_config: WeightConfig = _NO_CONFIG,
    num_bits: int = 4,
    group_size: int = 32,
    scheme: str = "asym",
    ratios: Mapping[str, float] = _NOTHING,
    accuracy_level: int = 0,
    providers: Sequence[str] = (_CPU,),
) -> onnx.ModelProto | ir.Model:
    """Round the weights of MatMul nodes to nearest, in groups along their inputs, and pack them.

    Where ONNX Runtime has a kernel, a node becomes com.microsoft.MatMulNBits under the name ``<name>_Q{bits}``, with
    the weight ``<w>_Q{bits}G{group}``, ``<w>_scale`` and, for "asym", ``<w>_zp``. Elsewhere it stays, and reads the
    rounded weight as floats, ``<w>_Q{bits}G{group}``. There are kernels for float32 and float16 weights, 4 and 8 bits
    (and 2 on the CPU), and groups of a multiple of 16 (of 32 for 2 bits), or as long as K; groups that are no power
    of two from 16 to 256 are cut into such, which repeat their scale.

    Codes and scales are the peer's, to the last bit, but for what is corrected:

    * ``weight_config={}`` means what the other arguments say; the peer quantizes nothing then. What a node is not
      given comes from those arguments too; in the peer it comes from the node before.
    * Zero points are packed row by row, as MatMulNBits reads them; the peer packs them without gaps, which is wrong
      where the number of groups of a row is odd.
    * Zero is a part of every range that gets a packed zero point, so that no group is clipped.
    * Rounded float weights of "asym" have unlimited zero points, cut to the shape of the weight where K is no
      multiple of the group; the peer writes a longer shape than it has numbers.
    * 8-bit weights are packed, and 2-bit ones; weights behind Constant, Transpose or Cast nodes, with leading axes of
      size 1, in bodies and in functions are found; tied weights are packed once.
    * A name in ``weight_config`` or ``ratios`` that the model does not have is an error.

    Args:
        model: A path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; not changed.
        weight_config: What is different for some nodes, by name or (name, operator): "fp32", or ``bits``,
            ``group_size``, ``scheme`` (also ``weight_bits``, ``weight_group_size``, ``weight_sym``),
            ``accuracy_level``, ``weight_dtype`` ("fp32" leaves the node float) as a dictionary or attributes.
        num_bits: Bits of a code, 1 to 8.
        group_size: Weights that share a scale; -1 for all inputs of an output channel.
        scheme: "asym", or "sym" with the scale 2 amax / (2^bits - 1).
        ratios: Factor on the ranges of a weight, by its initializer's name; what lies outside is clipped.
        accuracy_level: MatMulNBits' attribute: 4 computes on 8-bit inputs, 1 in float32; 0 leaves it out.
        providers: Execution providers that the result is for: where the CPU is none of them, 2 bits have no kernel.

    Returns:
        An ``onnx_ir.Model`` for one, of any size; else an ``onnx.ModelProto``.

    Raises:
        OptionError: An argument makes no sense, or a name is not in the model.
        ModelError: The model cannot be read, has no constant weight, or is too large for a ModelProto.
        QuantRangeError: A weight holds NaN or infinity; it is named.
    """
    default = NodeConfig(
        bits=num_bits, group_size=group_size, symmetric=symmetry(scheme), accuracy_level=accuracy_level
    )
    private = load(model)
    prepare_weights(private)
    layers = [layer for layer in find_layers(private)[0] if layer.node.op_type == "MatMul"]
    if not layers:
        raise UnsupportedModelError("the model has no MatMul with a constant weight, so there is nothing to round.")
    configs = node_configs(weight_config, [node.name or "" for node in nodes(private)], default)
    site = _Site(private, NameAllocator.of(private), two_bits=_CPU in providers)
    for task in _tasks(layers, configs, default, _checked(ratios, layers)):
        site.write(task)
    remove_dead(private)
    append_bits(private, {layer.name for layer in layers}, site.names)
    return private if isinstance(model, ir.Model) else to_proto(private)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One weight, and the nodes that read it rounded in one way.

    Attributes:
        readers: The nodes.
        rounding: How it is rounded.
        accuracy_level: MatMulNBits' attribute.
    """

    readers: Sequence[Layer]
    rounding: Rounding
    accuracy_level: int

    @property
    def first(self) -> Layer:
        """The node whose weight stands for all."""
        return self.readers[0]

    @property
    def group_size(self) -> int:
        """Weights that share a scale."""
        return self.rounding.size_for(self.first.in_features)

    @property
    def name(self) -> str:
        """What the rounded weight is called."""
        return f"{self.first.weight.root.name}_Q{self.rounding.bits}G{self.group_size}"

    def round(self, how: Callable[[FloatArray, Rounding], _T]) -> _T:
        """The weight, rounded; an error names it."""
        try:
            return how(self.first.read(), self.rounding)
        except QuantRangeError as error:
            key = self.first.weight.root.name
            raise QuantRangeError(
                f"weight {key!r} of node {self.first.name!r}: {error}. Repair it, or leave the node float "
                '(weight_config, "fp32").',
                tensor=key,
            ) from error
        finally:
            self.first.weight.release()


def _tasks(
    layers: Sequence[Layer],
    configs: Mapping[str, NodeConfig | None],
    default: NodeConfig,
    ratios: Mapping[str, float],
) -> Iterator[_Task]:
    """Tied layers together, as far as they are given the same."""
    for tied in tie(layers):
        given: dict[tuple[Rounding, int], list[Layer]] = {}
        for layer in tied:
            config = configs.get(layer.name, default)
            if config is not None:
                given.setdefault((config.rounding(_ratio(layer, ratios)), config.accuracy_level), []).append(layer)
        yield from (_Task(readers, *how) for how, readers in given.items())


def _ratio(layer: Layer, ratios: Mapping[str, float]) -> float:
    return next((ratios[name] for name in _weight_names(layer) if name in ratios), 1.0)


def _weight_names(layer: Layer) -> tuple[str, str]:
    """What the weight may be called: what the node reads, and the constant that it is made from."""
    return layer.weight.value.name or "", layer.weight.root.name or ""


def _checked(ratios: Mapping[str, float], layers: Sequence[Layer]) -> Mapping[str, float]:
    known = {name for layer in layers for name in _weight_names(layer)}
    for name in ratios:
        if name not in known:
            raise OptionError(f"ratios: no MatMul has a weight {name!r}{nearest(name, known)}.", option="ratios")
    return ratios


@dataclass(frozen=True, slots=True, eq=False)
class _Site:
    """Where rounded weights go.

    Attributes:
        model: The private model.
        names: Names that are taken in it.
        two_bits: Whether 2-bit codes have a kernel.
    """

    model: ir.Model
    names: NameAllocator
    two_bits: bool

    def write(self, task: _Task) -> None:
        """Let the nodes of a task read its rounded weight."""
        (self._write_packed if self._has_kernel(task) else self._write_floats)(task)

    def _has_kernel(self, task: _Task) -> bool:
        bits, smallest = task.rounding.bits, 32 if task.rounding.bits == 2 else 16
        whole = task.group_size >= task.first.in_features or task.group_size % smallest == 0
        known = bits in PACKED_BITS and (bits != 2 or self.two_bits)
        return known and whole and task.first.dtype in _PACKED_TYPES

    def _write_packed(self, task: _Task) -> None:
        key, blocks = task.first.weight.root.name, task.round(pack_groups)
        self.model.opset_imports.setdefault(_CONTRIB, 1)
        weight = matmul_nbits.store(self.model.graph, self.names, task.name, blocks)
        weight.codes.name = self.names.unique(task.name)
        weight.scales.name = self.names.unique(f"{key}_scale")
        if weight.zero_points is not None:
            weight.zero_points.name = self.names.unique(f"{key}_zp")
        multiply = partial(matmul_nbits.multiply, weight=weight, accuracy_level=task.accuracy_level)
        for layer in task.readers:
            replace_product(layer.node, layer.out_features, self.names, multiply)

    def _write_floats(self, task: _Task) -> None:
        rounded = task.round(round_groups)
        values: dict[tuple[int, ...], ir.Value] = {}
        for layer in task.readers:
            shape = layer.weight.shape  # leading axes of size 1 may differ
            if shape not in values:
                values[shape] = add_initializer(
                    self.model.graph, self.names.unique(task.name), layer.in_layout(rounded)
                )
            layer.node.replace_input_with(layer.weight_index, values[shape])
