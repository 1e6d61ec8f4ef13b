"""From the ONNX text syntax and a dictionary of arrays to a checked ``onnx.ModelProto``."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

OPSET = 17
# The oldest IR version that may hold an opset; newer ones are the writer's choice.
_IR_VERSION = ((21, 10), (19, 9), (15, 8), (13, 7), (12, 7), (11, 6), (10, 5), (9, 4), (7, 3))


def ir_version(opset: int) -> int:
    """The IR version that files with this opset are usually written with."""
    return next(version for least, version in _IR_VERSION if opset >= least)


def build(
    text: str,
    weights: Mapping[str, Array] | None = None,
    *,
    opset: int = OPSET,
    domains: Mapping[str, int] | None = None,
    functions: str = "",
    named: bool = True,
) -> onnx.ModelProto:
    """A checked model from a graph in ONNX's text syntax.

    Args:
        text: The graph, ``name (inputs) => (outputs) { nodes }``.
        weights: Arrays that become initializers.
        opset: Version of the default domain.
        domains: Other domains and their versions.
        functions: Model-local functions in text syntax, to stand behind the graph.
        named: Give every node a name, ``<operator>_<position>``, as exporters do.
    """
    imports = ", ".join(f'"{name}": {version}' for name, version in {"": opset, **(domains or {})}.items())
    header = f"<ir_version: {ir_version(opset)}, opset_import: [{imports}]>"
    model: onnx.ModelProto = onnx.parser.parse_model(f"{header}\n{text}\n{functions}")
    add_weights(model.graph, weights or {})
    if model.ir_version < 4:
        list_as_inputs(model.graph)
    if named:
        name_nodes(model.graph)
    onnx.checker.check_model(model)
    return model


def add_weights(graph: onnx.GraphProto, weights: Mapping[str, Array]) -> None:
    """Append the arrays as initializers."""
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())


def list_as_inputs(graph: onnx.GraphProto) -> None:
    """Declare the initializers as inputs too, as IR version 3 demands."""
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in graph.initializer
    )


def name_nodes(graph: onnx.GraphProto, prefix: str = "") -> None:
    """Name each node after its operator and position, also in the bodies of If, Loop and Scan."""
    for position, node in enumerate(graph.node):
        node.name = f"{prefix}{node.op_type}_{position}"
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                name_nodes(attribute.g, f"{node.name}/{attribute.name}/")


class Weights:
    """Seeded random arrays in a dictionary: ``w = Weights(0); w.normal("k", 8, 3); w.arrays``."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.arrays: dict[str, Array] = {}

    def normal(self, name: str, *shape: int, gain: float = 1.0) -> None:
        """Add a weight whose output keeps about the variance of its input.

        Args:
            name: Its name.
            shape: Its shape; all axes but the first count as inputs of one output, as in Conv.
            gain: Factor on the standard deviation.
        """
        fan_in = max(1, int(np.prod(shape[1:] if len(shape) > 2 else shape[:1])))
        self.arrays[name] = self._rng.normal(0, gain / np.sqrt(fan_in), shape).astype(np.float32)

    def bias(self, name: str, *shape: int, gain: float = 0.1) -> None:
        """Add small values around zero."""
        self.arrays[name] = self._rng.normal(0, gain, shape).astype(np.float32)

    def conv(self, name: str, *shape: int) -> None:
        """Add a kernel ``<name>_w`` of shape [M, C/groups, ...] and its bias ``<name>_b``."""
        self.normal(f"{name}_w", *shape)
        self.bias(f"{name}_b", shape[0])

    def linear(self, name: str, rows: int, columns: int) -> None:
        """Add a matrix ``<name>_w`` [rows, columns] and its bias ``<name>_b`` [columns]."""
        self.normal(f"{name}_w", rows, columns)
        self.bias(f"{name}_b", columns)

    def integers(self, name: str, *values: int) -> None:
        """Add an int64 vector, as the shapes and axes of operators are."""
        self.arrays[name] = np.asarray(values, np.int64)
