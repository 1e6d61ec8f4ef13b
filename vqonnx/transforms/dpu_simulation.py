"""The float model with the constants of AMD's NPU (DPU), so that it gives in float what the device gives in integers.

Each pass is an approximation of the model by what runs in the end; ``kernels.dpu`` has the formulas. Calibration and
the choice of scales then see the device's values.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.edit import add_initializer, insert_after, make_node, replace_node, replace_uses
from vqonnx.graph.facts import clip_bounds, float_attribute, reduced_axes
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import FLOAT_TYPES, nested_graphs, only_reader
from vqonnx.kernels.dpu import (
    HARD_SIGMOID_ALPHA,
    HARD_SIGMOID_BETA,
    HARD_SIGMOID_FACTOR,
    average_pool_factor,
    clip_bound,
    is_hard_sigmoid,
    leaky_relu_alpha,
    mean_factor,
)
from vqonnx.transforms.dpu_softmax import replace_softmax
from vqonnx.transforms.weights import float_constant, set_constant, stored

_SOFTMAX_OPSET = 13
"""Since then it is over one axis, and bfloat16 may be cast to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DpuSimulation:
    """Which operators get the device's arithmetic.

    Attributes:
        leaky_relu: Slopes become multiples of 1/256.
        sigmoid: Sigmoid becomes HardSigmoid with slope 1/6: a straight line cut off at 0 and 1.
        hard_sigmoid: The output of such a HardSigmoid is multiplied by what the device's 1/6 differs by, 2731 / 2^14.
        average_pool: The output of AveragePool and GlobalAveragePool is multiplied by what the device's 1 / area does.
        reduce_mean: The same for ReduceMean.
        clip: Bounds become integers within -128..127.
        softmax: Softmax is computed in bfloat16 with the device's exponential.
    """

    leaky_relu: bool = True
    sigmoid: bool = True
    hard_sigmoid: bool = True
    average_pool: bool = True
    reduce_mean: bool = True
    clip: bool = False
    softmax: bool = False


def simulate_dpu(model: ir.Model, options: DpuSimulation = DpuSimulation(), only: Collection[str] | None = None) -> int:
    """Give the operators of ``model`` that are chosen the device's constants; return how many nodes changed.

    Bodies are included; nodes whose type, sizes or bounds are not known stay. Once done, it changes nothing more.

    Args:
        model: Changed in place.
        options: The operators.
        only: Names of the nodes that may change; all by default.

    Raises:
        UnsupportedModelError: Softmax is chosen, and the opset is below 13.
    """
    opset = model.opset_imports.get("", 0)
    if options.softmax and opset < _SOFTMAX_OPSET:
        raise UnsupportedModelError(
            f"the NPU's Softmax is written for opset {_SOFTMAX_OPSET}, the model has {opset}. Raise the opset first."
        )
    names = NameAllocator.of(model)
    count = 0
    for field in fields(options):
        if getattr(options, field.name):
            nodes = [node for graph in nested_graphs(model.graph) for node in graph if not node.domain]
            chosen = [node for node in nodes if only is None or node.name in only]
            operators, change = _CHANGES[field.name]
            count += sum(change(node, names) for node in chosen if node.op_type in operators and _is_float(node))
    return count


def _is_float(node: ir.Node) -> bool:
    return any(value is not None and value.dtype in FLOAT_TYPES for value in (*node.inputs[:1], *node.outputs))


def _round_slope(node: ir.Node, names: NameAllocator) -> bool:
    del names
    alpha = float_attribute(node, "alpha", 0.01)
    rounded = leaky_relu_alpha(alpha)
    node.attributes["alpha"] = ir.AttrFloat32("alpha", rounded)
    return rounded != alpha


def _straighten_sigmoid(node: ir.Node, names: NameAllocator) -> bool:
    attributes = {"alpha": HARD_SIGMOID_ALPHA, "beta": HARD_SIGMOID_BETA}
    replace_node(node, [make_node(names, "HardSigmoid", [node.inputs[0]], attributes)], names)
    return True


def _scale_hard_sigmoid(node: ir.Node, names: NameAllocator) -> bool:
    known = is_hard_sigmoid(float_attribute(node, "alpha", 0.2), float_attribute(node, "beta", 0.5))
    return known and _multiply(node, HARD_SIGMOID_FACTOR, names)


def _scale_pool(node: ir.Node, names: NameAllocator) -> bool:
    kernel = _kernel(node)
    return kernel is not None and _multiply(node, average_pool_factor(*kernel), names)


def _kernel(node: ir.Node) -> tuple[int, int] | None:
    """Rows and columns that a pooling averages; one row for a single spatial axis, None for three or unknown ones."""
    x = node.inputs[0]
    sides: list[object] = list(node.attributes.get_ints("kernel_shape", ()))
    if node.op_type == "GlobalAveragePool":
        sides = [] if x is None or x.shape is None else list(x.shape[2:])
    known = [side for side in sides if isinstance(side, int)]
    if len(known) != len(sides) or len(known) not in (1, 2) or not all(known):
        return None
    return (1, known[0]) if len(known) == 1 else (known[0], known[1])


def _scale_mean(node: ir.Node, names: NameAllocator) -> bool:
    x = node.inputs[0]
    axes = None if x is None or x.shape is None else reduced_axes(node, len(x.shape))
    if not axes or x is None or x.shape is None:
        return False
    sizes = [size for axis in axes if isinstance(size := x.shape[axis], int)]
    count = math.prod(sizes)
    return len(sizes) == len(axes) and count > 0 and _multiply(node, mean_factor(count), names)


def _multiply(node: ir.Node, factor: float, names: NameAllocator) -> bool:
    """Multiply what ``node`` computes by ``factor``; False if that is 1 or was done before."""
    output, graph = node.outputs[0], node.graph
    if output.dtype is None and node.inputs[0] is not None:
        output.type = node.inputs[0].type
    if output.dtype is None or not isinstance(graph, ir.Graph):
        return False
    number = stored(np.array(factor), output.dtype)
    if number is None or number == 1 or _is_multiplied(output, number):
        return False
    constant = add_initializer(graph, names.unique(f"{node.name}_dpu_factor"), np.asarray(number))
    product = make_node(names, "Mul", [output, constant], name=f"{node.name}_dpu")
    product.outputs[0].type, product.outputs[0].shape = output.type, output.shape
    insert_after(node, product)
    replace_uses(output, product.outputs[0], names, keep=(product,))
    return True


def _is_multiplied(output: ir.Value, number: np.ndarray) -> bool:
    reader = only_reader(output)
    if reader is None or reader[0].op_type != "Mul":
        return False
    other = float_constant(reader[0].inputs[1 - reader[1]])
    return other is not None and other.size == 1 and float(other.reshape(())) == float(number)


def _round_bounds(node: ir.Node, names: NameAllocator) -> bool:
    bounds = clip_bounds(node)
    x = node.inputs[0]
    if bounds is None or x is None or x.dtype is None:
        return False
    changed = False
    for index, (name, bound) in enumerate(zip(("min", "max"), bounds, strict=True), start=1):
        rounded = clip_bound(bound)
        if math.isinf(bound) or rounded == bound:
            continue
        if name in node.attributes:
            node.attributes[name] = ir.AttrFloat32(name, rounded)
        else:
            set_constant(node, index, np.array(rounded).astype(x.dtype.numpy()), names, f"{node.name}_{name}")
        changed = True
    return changed


_Change = Callable[[ir.Node, NameAllocator], bool]
_CHANGES: Mapping[str, tuple[frozenset[str], _Change]] = MappingProxyType(
    {
        "leaky_relu": (frozenset({"LeakyRelu"}), _round_slope),
        "sigmoid": (frozenset({"Sigmoid"}), _straighten_sigmoid),
        "hard_sigmoid": (frozenset({"HardSigmoid"}), _scale_hard_sigmoid),
        "average_pool": (frozenset({"AveragePool", "GlobalAveragePool"}), _scale_pool),
        "reduce_mean": (frozenset({"ReduceMean"}), _scale_mean),
        "clip": (frozenset({"Clip"}), _round_bounds),
        "softmax": (frozenset({"Softmax"}), replace_softmax),
    }
)
"""By field of ``DpuSimulation``, in the order in which they are done: what becomes HardSigmoid is scaled as one."""
