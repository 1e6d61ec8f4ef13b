"""Scales and shifts that follow a linear node move into its weight and bias."""

from collections.abc import Iterator

import onnx_ir as ir

from vqonnx.graph.edit import remove_node, replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor, nested_graphs
from vqonnx.transforms.affine import Reader, arithmetic, batch_norm
from vqonnx.transforms.linear import absorb, as_linear


def fold_batch_norms(model: ir.Model) -> int:
    """Fold each inference BatchNormalization into the Conv, ConvTranspose or Gemm before it; return how many.

    The weight must be constant and the value in between read by the normalization alone, in the same graph
    and not as a graph output. Arithmetic is in float64, rounded once (Jacob et al. 2018, arXiv:1712.05877,
    section 3.2). For MatMul see ``fold_matmul``.
    """
    return _fold(model, batch_norm)


def fold_channel_arithmetic(model: ir.Model) -> int:
    """Fold Add, Sub, Mul and Div by constants, one a channel or one for all, into the linear node before.

    An Add becomes the bias of a Conv, ConvTranspose or Gemm, a Mul scales its weight. Conditions are those of
    ``fold_batch_norms``. MatMul is left: its Add is a bias as it stands (``graph.facts.linear_add``).
    """
    return _fold(model, arithmetic)


def _fold(model: ir.Model, reader: Reader) -> int:
    names = NameAllocator.of(model)
    count = 0
    for node, index, producer in followers(model):
        linear = as_linear(producer)
        affine = None if linear is None else reader(node, index, linear.output)
        if linear is not None and affine is not None and absorb(linear, affine, names):
            bypass(node, index, names)
            count += 1
    return count


def followers(model: ir.Model) -> Iterator[tuple[ir.Node, int, ir.Node]]:
    """Each node that alone reads what another node of its graph makes, the index of that input, and the maker."""
    for graph in nested_graphs(model.graph):
        for node in list(graph):
            for index, value in enumerate(node.inputs[:2]):
                producer = None if value is None else value.producer()
                if value is not None and producer is not None and _is_between(value, producer, node):
                    yield node, index, producer
                    break


def _is_between(value: ir.Value, producer: ir.Node, reader: ir.Node) -> bool:
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return alone and producer.graph is reader.graph and constant_tensor(value) is None


def bypass(node: ir.Node, index: int, names: NameAllocator) -> None:
    """Let the readers of ``node`` read its input ``index``, and remove it."""
    source = node.inputs[index]
    if source is None:  # pragma: no cover - followers looked
        raise TypeError(f"node {node.name!r} has no input {index}")
    replace_uses(node.outputs[0], source, names, keep=(node,))
    remove_node(node)
