"""A graph while it is drawn at random: tensors that can be read, constants in all their guises, names that mislead."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.build import Array

BATCH = "N"
_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}
_MISLEADING = ("{}_scale", "{}_zero_point", "{}_quantized", "{}_QuantizeLinear", "{}_DequantizeLinear_Output", "{}.1")


Typed: TypeAlias = str | tuple[str, Any, Sequence[str | int]]
"""A value's name: of the graph's float type and any shape, or with type and shape."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor [N, *shape] of the graph's float type."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of one sample."""
        return int(np.prod(self.shape))


class Sketch:
    """Nodes and constants as they come; every choice is made by ``rng``.

    Attributes:
        rng: The only source of chance.
        opset: Version of the default domain.
        dtype: Type of all float tensors.
        pool: What later nodes may read.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.integers(9, 22))
        self.dtype = np.dtype(np.float16 if self.chance(0.15) else np.float32)
        self.batch: int | str = BATCH if self.chance(0.5) else 2
        self.pool: list[Tensor] = []
        self._named = self.chance(0.8)
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: dict[str, Array] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._taken: set[str] = set()
        self._flag: str | None = None
        self._functions: list[onnx.FunctionProto] = []

    # ---- chance ----

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    # ---- tensors ----

    def name(self, stem: str) -> str:
        """A free name; sometimes one that a quantizer would like to give itself."""
        if self._taken and self.chance(0.05):
            stem = self.pick(_MISLEADING).format(self.pick(sorted(self._taken)))
        found, count = stem, 0
        while found in self._taken:
            found, count = f"{stem}_{count}", count + 1
        self._taken.add(found)
        return found

    def input(self, shape: Sequence[int]) -> Tensor:
        """A graph input [N, *shape]."""
        tensor = Tensor(self.name("x"), tuple(shape))
        self._inputs.append(self._info(tensor))
        self.pool.append(tensor)
        return tensor

    def flag(self) -> str:
        """A graph input that is true or false by sample."""
        if self._flag is None:
            self._flag = self.name("flag")
            self._inputs.append(helper.make_tensor_value_info(self._flag, TensorProto.BOOL, []))
        return self._flag

    def node(self, operator: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> Tensor:
        """Append a node with one output [N, *shape] that others may read."""
        return self.nodes(operator, inputs, [shape], **attributes)[0]

    def nodes(
        self, operator: str, inputs: Sequence[str], shapes: Sequence[Sequence[int]], **attributes: Any
    ) -> list[Tensor]:
        """Append a node with several outputs."""
        made = [Tensor(self.name(operator[0].lower()), tuple(shape)) for shape in shapes]
        self.plain(operator, inputs, [one.name for one in made], **attributes)
        self.pool += made
        return made

    def plain(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Append a node whose outputs only the caller knows."""
        name = f"{operator}_{len(self._nodes)}" if self._named else ""
        self._nodes.append(helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes))

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """An initializer of numbers that are no weight: shapes, axes, bounds."""
        name = self.name("k")
        self._arrays[name] = np.asarray(values, dtype)
        return name

    def weight(self, shape: Sequence[int], *, gain: float = 1.0, fan_in: int | None = None) -> str:
        """A float constant: an old one of this shape, an initializer, a Constant, or the end of a chain of nodes."""
        shape = tuple(shape)
        fitting = [name for name, array in self._arrays.items() if array.shape == shape and array.dtype == self.dtype]
        if fitting and self.chance(0.2):
            return str(self.pick(fitting))
        scale = gain / np.sqrt(fan_in or max(1, int(np.prod(shape[1:]))))
        array = np.asarray(self.rng.normal(0, scale, shape)).astype(self.dtype)
        if self.chance(0.1) and array.ndim > 1:
            array[self.rng.integers(shape[0])] *= self.pick((0, 1e-6, 20))  # a channel out of the ordinary
        write = self.pick((self._stored,) * 7 + (self._constant_node, self._transposed, self._identity))
        return str(write(array))

    def _stored(self, array: Array) -> str:
        name = self.name("w")
        self._arrays[name] = array
        return name

    def _constant_node(self, array: Array) -> str:
        name = self.name("w")
        self.plain("Constant", [], [name], value=numpy_helper.from_array(array, "value"))
        return name

    def _transposed(self, array: Array) -> str:
        name = self.name("w")
        self.plain("Transpose", [self._stored(np.ascontiguousarray(array.T))], [name])
        return name

    def _identity(self, array: Array) -> str:
        name = self.name("w")
        self.plain("Identity", [self._stored(array)], [name])
        return name

    # ---- bodies ----

    def body(
        self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[Typed], inputs: Sequence[Typed] = ()
    ) -> onnx.GraphProto:
        """A body of If, Loop or Scan, of which only names and types are declared; it may read the graph around it."""

        def info(value: Typed) -> onnx.ValueInfoProto:
            if isinstance(value, str):
                return helper.make_tensor_value_info(value, _TYPES[self.dtype], None)
            name, dtype, shape = value
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

        return helper.make_graph(list(nodes), self.name("body"), [*map(info, inputs)], [*map(info, outputs)])

    def inner(self, operator: str, *inputs: str) -> onnx.NodeProto:
        """A node for a body, with one output; its name may be that of a node elsewhere."""
        return helper.make_node(operator, inputs, [self.name("b")], name=self.pick(("", operator)))

    def call(self, nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], shape: Sequence[int]) -> Tensor:
        """A call of a model-local function, whose parameters have the names of what is given for them."""
        name, result = f"Local{len(self._functions)}", nodes[-1].output[0]
        imports = [helper.make_opsetid("", self.opset)]
        self._functions.append(helper.make_function("local", name, inputs, [result], nodes, imports))
        return self.node(name, inputs, shape, domain="local")

    # ---- the model ----

    def model(self) -> onnx.ModelProto:
        """The model so far: outputs are what nobody reads and some of the rest."""
        read = {name for node in self._nodes for name in node.input}
        computed = [one for one in self.pool if one.name not in {value.name for value in self._inputs}]
        outputs = [one for one in computed if one.name not in read or self.chance(0.1)]
        graph = helper.make_graph(
            self._nodes,
            "sketch",
            self._inputs,
            [self._info(one) for one in outputs],
            [numpy_helper.from_array(array, name) for name, array in self._arrays.items()],
        )
        imports = [helper.make_opsetid("", self.opset), *([helper.make_opsetid("local", 1)] if self._functions else [])]
        version = 10 if self.opset > 20 else 8
        model = helper.make_model(graph, opset_imports=imports, functions=self._functions, ir_version=version)
        onnx.checker.check_model(model)
        return model

    def _info(self, tensor: Tensor) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(tensor.name, _TYPES[self.dtype], [self.batch, *tensor.shape])
