"""Which planned nodes ONNX Runtime really runs as integer kernels, read from the graph that it optimized.

A fusion keeps the name of the node at its heart (``conv1`` stays ``conv1``, or becomes ``conv1_token_3`` where the
layout changed too), and the QOperator form gives integer operators the names of float ones, so names tell which node
became which kernel. ORT writes no types of inner values, so they are followed from the quantizing nodes on.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir

from vqonnx.core.plan import NodePlan, Plan
from vqonnx.core.target import Kernel
from vqonnx.graph import walk
from vqonnx.report.figures import NodeKernel, Outcome
from vqonnx.runtime.session import open_session

_GIVE_CODES = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_CODE_TYPES = frozenset(
    {
        *(ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16),
        *(ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2),
        *(ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2),
    }
)
# Kernels that read codes and give float or int32 numbers; whatever else reads codes first, gives codes.
_GIVE_NUMBERS = frozenset(
    {
        *("DequantizeLinear", "Cast", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits", "MatMulBnb4", "QAttention"),
        *("ArgMax", "GatherBlockQuantized", "Shape", "Size"),
    }
)
# What a MatMul can be part of: with an Add it becomes a Gemm.
_RELATED = {"MatMul": ("MatMul", "Gemm"), "Gemm": ("Gemm", "MatMul")}
# Operators that have no integer kernel on the CPU provider, whatever stands around them (ORT 1.31).
_INTEGER_ON_CPU = frozenset(
    {
        *("Conv", "MatMul", "Gemm", "Add", "Mul", "LeakyRelu", "Sigmoid", "Softmax", "Concat", "AveragePool"),
        *("GlobalAveragePool", "Where"),
    }
)


def integer_kernels(
    quantized: Path, plan: Plan, *, providers: Sequence[str], options: Mapping[str, str] = MappingProxyType({})
) -> tuple[NodeKernel, ...]:
    """What became of each planned node, in the order of the plan; ``options`` are further ones of the session.

    The weights are neither packed nor copied for this: a model of 100 MB takes 2 ms, and the optimized graph
    refers to the same external data.

    Raises:
        VerificationError: ONNX Runtime refuses the model, or cannot write its optimized graph (providers that
            compile their part of the graph; graphs above 2 GiB without external data).
    """
    with tempfile.TemporaryDirectory(prefix="vqonnx-optimized-") as folder:
        path = Path(folder) / "optimized.onnx"
        settings = {**options, "session.disable_prepacking": "1"}
        open_session(quantized, providers=providers, optimized_path=path, options=settings)
        optimized = ir.load(path)
    return classified(optimized, plan)


def classified(optimized: ir.Model, plan: Plan) -> tuple[NodeKernel, ...]:
    """What each planned node is in ``optimized``, ONNX Runtime's graph."""
    nodes = list(walk.nodes(optimized))
    codes = _code_values(optimized, nodes)
    left = {skip.node for skip in plan.skips}  # such a name may continue that of a planned node
    hearts = _hearts([node for node in nodes if node.name not in left], plan.nodes)
    return tuple(_of_node(planned, hearts.get(name), codes) for name, planned in plan.nodes.items())


def _hearts(nodes: Sequence[ir.Node], planned: Mapping[str, NodePlan]) -> dict[str, ir.Node]:
    """The node of the optimized graph that each planned node became; the exact name wins over a suffixed one."""
    found: dict[str, ir.Node] = {}
    for node in nodes:
        name = (node.name or "").removeprefix("fused ")
        if name in planned and _is_related(planned[name].op_type, node.op_type):
            found[name] = node
    for node in nodes:
        owner = None if node.name in found else _owner(node, planned)
        if owner is not None:
            found.setdefault(owner, node)
    return found


def _owner(node: ir.Node, planned: Mapping[str, NodePlan]) -> str | None:
    """The longest planned name that the node's name continues after a separator, if the operators are related."""
    name = (node.name or "").removeprefix("fused ")  # so ORT calls a Conv or Gemm with its activation
    for end in range(len(name) - 1, 0, -1):
        start = name[:end]
        if name[end] in "_/:" and start in planned:
            return start if _is_related(planned[start].op_type, node.op_type) else None
    return None


def _is_related(op_type: str, kernel: str) -> bool:
    return any(part in kernel for part in _RELATED.get(op_type, (op_type,)))


def _code_values(model: ir.Model, nodes: Sequence[ir.Node]) -> set[ir.Value]:
    """The values that hold codes: constants and inputs of a small type, and what is computed from them."""
    codes = {value for graph in walk.graphs(model) for value in _code_sources(graph)}
    for node in nodes:
        if node.op_type in _GIVE_CODES or (any(value in codes for value in node.inputs) and not _gives_numbers(node)):
            codes.add(node.outputs[0])
            codes.update(node.outputs[1:] if node.op_type == "Split" else ())
    return codes


def _gives_numbers(node: ir.Node) -> bool:
    # QGemm's output is float unless it is told the output's scale, its eighth input.
    has_output_scale = len(node.inputs) > 7 and node.inputs[7] is not None
    return node.op_type in _GIVE_NUMBERS or (node.op_type == "QGemm" and not has_output_scale)


def _code_sources(graph: ir.Graph) -> Iterator[ir.Value]:
    for value in (*graph.inputs, *graph.initializers.values()):
        tensor = value.const_value
        if (value.dtype if tensor is None else tensor.dtype) in _CODE_TYPES:
            yield value


def _of_node(planned: NodePlan, node: ir.Node | None, codes: set[ir.Value]) -> NodeKernel:
    if node is None:
        return NodeKernel(planned.node, planned.op_type, Outcome.MERGED)
    if any(value in codes for value in node.inputs):
        return NodeKernel(planned.node, planned.op_type, Outcome.INTEGER, node.op_type)
    if planned.op_type == "Add" and _dequantized_types(node) == ["int32"]:  # the bias of the product before it
        return NodeKernel(planned.node, planned.op_type, Outcome.MERGED, node.op_type)
    return NodeKernel(planned.node, planned.op_type, Outcome.FLOAT, node.op_type, _why_float(planned, node))


def _why_float(planned: NodePlan, node: ir.Node) -> str:
    """The first thing that keeps ONNX Runtime's CPU provider from an integer kernel."""
    if planned.kernel.is_activation:
        return "no quantized range after it clips as it does"
    if planned.kernel is Kernel.COMPUTE and planned.op_type not in _INTEGER_ON_CPU:
        return f"ONNX Runtime's CPU provider has no integer kernel for {planned.op_type}"
    if node.op_type.startswith("Fused"):
        return "ONNX Runtime first fused it with the activation after it, which nothing quantizes"
    types = _dequantized_types(node)
    if not types:
        return "none of its inputs is dequantized: a constant was folded, or another fusion came first"
    if any(kind.endswith("16") for kind in types):
        return f"16-bit types have no CPU kernel ({' x '.join(types)})"
    return _float_reader(node) or f"ONNX Runtime did not fuse it ({' x '.join(types)})"


def _dequantized_types(node: ir.Node) -> list[str]:
    """Types of the codes that the node reads through DequantizeLinear."""
    makers = [value.producer() for value in node.inputs if value is not None]
    return [_code_type(maker) for maker in makers if maker is not None and maker.op_type == "DequantizeLinear"]


def _float_reader(node: ir.Node) -> str:
    """What reads the node's output as float, where that hinders; empty if nothing does.

    MatMul and Gemm may give float numbers, except through a Relu or Clip: ORT looks behind it for a QuantizeLinear,
    and gives up without one.
    """
    readers = [reader.op_type for value in node.outputs for reader in value.consumers()]
    others = sorted(set(readers) - {"QuantizeLinear"})
    if node.op_type in ("MatMul", "Gemm"):
        return f"its output goes through {readers[0]} to float readers" if readers in (["Relu"], ["Clip"]) else ""
    if others or not readers:
        return f"its output is read as float by {', '.join(others) or 'the caller'}"
    return ""


def _code_type(dequantizer: ir.Node) -> str:
    """The type of the codes that it reads: its zero point's, else its constant's; ONNX's default is uint8."""
    tensors = [value.const_value for value in reversed(dequantizer.inputs[::2]) if value is not None]
    return next((tensor.dtype.name.lower() for tensor in tensors if tensor is not None), "uint8")
