"""onnxruntime.quantization.onnx_model: a ModelProto with the look-ups and edits that programs make of it.

vqonnx itself edits graphs with ``graph/edit.py``; this is for code that was written for the peer.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from vqonnx.compat.proto_graph import drop_unused_initializers, gemms_to_matmuls, reads, sort_nodes
from vqonnx.errors import ModelError, OptionError
from vqonnx.graph.io import load, save

_Named = TypeVar("_Named", NodeProto, TensorProto, ValueInfoProto)


def find_by_name(item_name: str, item_list: Iterable[_Named]) -> _Named | None:
    """The first item of that name."""
    return next((item for item in item_list if item.name == item_name), None)


class ONNXModel:
    """A model that is edited in place.

    Attributes:
        model: The message, the caller's own.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model

    def graph(self) -> GraphProto:
        """The main graph."""
        return self.model.graph

    def nodes(self) -> Any:
        """Its nodes, to be read and edited."""
        return self.model.graph.node

    def initializer(self) -> Any:
        """Its initializers, to be read and edited."""
        return self.model.graph.initializer

    def ir_version(self) -> int:
        """The version of the format."""
        return int(self.model.ir_version)

    def opset_import(self) -> Any:
        """The operator sets."""
        return self.model.opset_import

    def set_opset_import(self, domain: str, version: int) -> None:
        """Import a version of a domain, instead of the one that is imported."""
        for opset in self.model.opset_import:
            if opset.domain == domain:
                opset.version = version
                return
        self.model.opset_import.append(helper.make_opsetid(domain, version))

    def add_node(self, node: NodeProto) -> None:
        """Append a node; ``topological_sort`` puts it in its place."""
        self.model.graph.node.append(node)

    def add_nodes(self, nodes_to_add: Iterable[NodeProto]) -> None:
        """Append nodes."""
        self.model.graph.node.extend(nodes_to_add)

    def remove_node(self, node: NodeProto) -> None:
        """Remove a node, if it is there."""
        self.remove_nodes([node])

    def remove_nodes(self, nodes_to_remove: Iterable[NodeProto]) -> None:
        """Remove those of the nodes that are there."""
        _remove(self.model.graph.node, list(nodes_to_remove))

    def add_initializer(self, tensor: TensorProto) -> None:
        """Add a constant; one of its name that is there stays as it is."""
        if self.get_initializer(tensor.name) is None:
            self.initializer_extend([tensor])

    def initializer_extend(self, inits: Sequence[TensorProto]) -> None:
        """Add constants.

        Raises:
            OptionError: There are none; also a ValueError.
            ModelError: One is float8 and holds NaN.
        """
        if not inits:
            raise OptionError("no initializers were given; pass at least one", option="inits")
        for tensor in inits:
            _refuse_nan(tensor)
        self.model.graph.initializer.extend(inits)

    def get_initializer(self, name: str) -> TensorProto | None:
        """The constant of that name."""
        return find_by_name(name, self.model.graph.initializer)

    def get_initializer_name_set(self) -> set[str]:
        """The names of all constants."""
        return {tensor.name for tensor in self.model.graph.initializer}

    def remove_initializer(self, tensor: TensorProto) -> None:
        """Remove a constant, if it is there, and the graph input of its name."""
        self.remove_initializers([tensor])

    def remove_initializers(self, init_to_remove: Iterable[TensorProto]) -> None:
        """Remove constants, and the graph inputs of their names."""
        gone = {tensor.name for tensor in _remove(self.model.graph.initializer, list(init_to_remove))}
        _remove(self.model.graph.input, [value for value in self.model.graph.input if value.name in gone])

    def get_constant_value(self, output_name: str) -> np.ndarray | None:
        """The array of a constant, a Constant node's or an initializer's."""
        for node in self.model.graph.node:
            if node.op_type == "Constant" and node.output[0] == output_name:
                value = next((one.t for one in node.attribute if one.name == "value"), None)
                return None if value is None else numpy_helper.to_array(value)
        tensor = self.get_initializer(output_name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def find_graph_input(self, input_name: str) -> ValueInfoProto | None:
        """The graph input of that name."""
        return find_by_name(input_name, self.model.graph.input)

    def find_graph_output(self, output_name: str) -> ValueInfoProto | None:
        """The graph output of that name."""
        return find_by_name(output_name, self.model.graph.output)

    def is_graph_input(self, tensor_name: str) -> bool:
        """Whether a graph input is called so."""
        return self.find_graph_input(tensor_name) is not None

    def is_graph_output(self, output_name: str) -> bool:
        """Whether a graph output is called so."""
        return self.find_graph_output(output_name) is not None

    def get_non_initializer_inputs(self) -> set[str]:
        """Names of the graph inputs without a default."""
        return {value.name for value in self.model.graph.input} - self.get_initializer_name_set()

    def get_tensor_type(self, tensor_name: str) -> TypeProto.Tensor | None:
        """What the graph states of a value."""
        stated = find_by_name(tensor_name, self.model.graph.value_info)
        known = stated or self.find_graph_input(tensor_name) or self.find_graph_output(tensor_name)
        return None if known is None else known.type.tensor_type

    def input_name_to_nodes(self) -> dict[str, list[NodeProto]]:
        """The readers of each value."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def output_name_to_node(self) -> dict[str, NodeProto]:
        """The maker of each value."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    def get_children(
        self, node: NodeProto, input_name_to_nodes: Mapping[str, Sequence[NodeProto]] | None = None
    ) -> list[NodeProto]:
        """The readers of a node's outputs."""
        readers = self.input_name_to_nodes() if input_name_to_nodes is None else input_name_to_nodes
        return [reader for name in node.output for reader in readers.get(name, ())]

    def get_parents(
        self, node: NodeProto, output_name_to_node: Mapping[str, NodeProto] | None = None
    ) -> list[NodeProto]:
        """The makers of a node's inputs."""
        makers = self.output_name_to_node() if output_name_to_node is None else output_name_to_node
        return [makers[name] for name in node.input if name in makers]

    def get_parent(
        self, node: NodeProto, idx: int, output_name_to_node: Mapping[str, NodeProto] | None = None
    ) -> NodeProto | None:
        """The maker of one input."""
        makers = self.output_name_to_node() if output_name_to_node is None else output_name_to_node
        return makers.get(node.input[idx]) if idx < len(node.input) else None

    def find_node_by_name(
        self, node_name: str, new_nodes_list: Iterable[NodeProto], graph: GraphProto
    ) -> NodeProto | None:
        """A node of ``graph``, or of those that are not in it yet."""
        return find_by_name(node_name, [*graph.node, *new_nodes_list])

    def find_nodes_by_initializer(self, graph: GraphProto, initializer: TensorProto) -> list[NodeProto]:
        """The nodes that read a constant, once for each input."""
        return [node for node in graph.node for name in node.input if name == initializer.name]

    def get_largest_node_name_suffix(self, node_name_prefix: str) -> int:
        """The largest number n of a node called ``<prefix>n``; -1 if there is none."""
        return _largest_suffix(node_name_prefix, (node.name for node in self.model.graph.node))

    def get_largest_initializer_name_suffix(self, initializer_name_prefix: str) -> int:
        """The largest number n of an initializer called ``<prefix>n``; -1 if there is none."""
        return _largest_suffix(initializer_name_prefix, (tensor.name for tensor in self.model.graph.initializer))

    @staticmethod
    def replace_node_input(node: NodeProto, old_input_name: str, new_input_name: str) -> None:
        """Let a node read another value."""
        _rename(node.input, old_input_name, new_input_name)

    @staticmethod
    def replace_node_output(node: NodeProto, old_output_name: str, new_output_name: str) -> None:
        """Let a node make another value."""
        _rename(node.output, old_output_name, new_output_name)

    def replace_input_of_all_nodes(self, old_input_name: str, new_input_name: str) -> None:
        """Let all nodes of the main graph read another value."""
        for node in self.model.graph.node:
            _rename(node.input, old_input_name, new_input_name)

    def replace_input_of_nodes(self, old_input_name: str, new_input_name: str, node_names_set: Collection[str]) -> None:
        """The same for the nodes of these names."""
        for node in self.model.graph.node:
            if node.name in node_names_set:
                _rename(node.input, old_input_name, new_input_name)

    def replace_output_of_all_nodes(self, old_output_name: str, new_output_name: str) -> None:
        """Rename a value where it is made."""
        for node in self.model.graph.node:
            _rename(node.output, old_output_name, new_output_name)

    def replace_output_of_nodes(
        self, old_output_name: str, new_output_name: str, node_names_set: Collection[str]
    ) -> None:
        """The same for the nodes of these names."""
        for node in self.model.graph.node:
            if node.name in node_names_set:
                _rename(node.output, old_output_name, new_output_name)

    def replace_gemm_with_matmul(self) -> None:
        """See ``proto_graph.gemms_to_matmuls``; a weight that others read too is not changed for them."""
        gemms_to_matmuls(self.model.graph)

    def remove_unused_constant(self) -> None:
        """Remove Constant nodes and initializers that nothing reads, bodies included."""
        read = {name for node in self.nodes() for name in reads(node)}
        read.update(output.name for output in self.model.graph.output)
        nodes = [node for node in self.nodes() if node.op_type == "Constant" and node.output[0] not in read]
        _remove(self.model.graph.node, nodes)
        self.remove_initializers([tensor for tensor in self.initializer() if tensor.name not in read])

    def clean_initializers(self) -> tuple[GraphProto, set[str]]:
        """Remove the initializers that nothing reads, those of bodies too.

        Returns:
            The main graph, and the names in it that nothing makes.
        """
        return self.model.graph, drop_unused_initializers(self.model.graph)

    def topological_sort(self) -> None:
        """Put every node behind those that it, or a body inside it, reads from.

        Raises:
            ModelError: There is a cycle.
        """
        sort_nodes(self.model.graph)

    def save_model_to_file(self, output_path: str | PathLike[str], use_external_data_format: bool = False) -> None:
        """Write the model, sorted, in one step; with its tensors in a file beside it where that is asked for.

        Raises:
            OutputError: The path cannot be written.
        """
        self.topological_sort()
        save(load(self.model), output_path, external=True if use_external_data_format else None)


def _remove(values: Any, unwanted: Sequence[_Named]) -> list[_Named]:
    """Remove these messages, or equal ones; return what was removed."""
    here = {id(value): index for index, value in enumerate(values)} if unwanted else {}
    places = {here[id(value)] for value in unwanted if id(value) in here}
    copies = [value for value in unwanted if id(value) not in here]
    places.update(index for index, value in enumerate(values) if copies and value in copies)
    removed = [values[index] for index in places]
    for index in sorted(places, reverse=True):
        del values[index]
    return removed


def _rename(names: Any, old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _largest_suffix(prefix: str, names: Iterable[str]) -> int:
    suffixes = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return max((int(suffix) for suffix in suffixes if suffix.isdecimal()), default=-1)


def _refuse_nan(tensor: TensorProto) -> None:
    if tensor.data_type != TensorProto.FLOAT8E4M3FN:
        return
    if np.isnan(numpy_helper.to_array(tensor).astype(np.float32)).any():
        raise ModelError(f"initializer {tensor.name!r} holds NaN, which quantizing finite numbers does not give.")
