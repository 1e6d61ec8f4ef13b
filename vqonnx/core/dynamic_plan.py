"""The plan of dynamic quantization: integer weights, activations quantized at run time. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vqonnx.core.plan import Skip
from vqonnx.core.spec import QuantSpec


class DynamicForm(Enum):
    """What a node with a constant weight becomes."""

    PRODUCT = "MatMulInteger"
    """DynamicQuantizeLinear and MatMulInteger (ONNX 11, 10), which ONNX Runtime fuses to one DynamicQuantizeMatMul."""
    BATCH = "MatMulInteger of a batch"
    """The same with a weight of more than two axes."""
    CONV = "ConvInteger"
    """DynamicQuantizeLinear and ConvInteger (ONNX 11, 10)."""
    LSTM = "DynamicQuantizeLSTM"
    """com.microsoft's operator."""
    ATTENTION = "QAttention"
    """com.microsoft's operator behind DynamicQuantizeLinear."""
    EMBEDDING = "QEmbedLayerNormalization"
    """com.microsoft's operator: sums of rows of codes, and their normalization."""
    LOOKUP = "Gather"
    """Gather of codes; the rows that it gives are dequantized."""
    DEQUANTIZED = "DequantizeLinear"
    """The weight alone is integer; the operator has no integer kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicWeight:
    """One constant weight that becomes integer, whoever reads it.

    Attributes:
        key: Unique name; the names of its tensors start with it.
        readers: Names of the nodes that read it, in graph order.
        channels: C: scales that it has when it has one a channel.
        length: L: numbers a channel.
        spec: Type and symmetry, of the weight as rows [C, L].
        table: Whether it is stored as rows, since lookups read it; products then read its transpose.
    """

    key: str
    readers: tuple[str, ...]
    channels: int
    length: int
    spec: QuantSpec
    table: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicNodePlan:
    """One node whose weights become integer.

    Attributes:
        node: The node's unique name.
        op_type: Its operator.
        form: What it becomes.
        weights: Keys of its weights, by input index.
    """

    node: str
    op_type: str
    form: DynamicForm
    weights: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicPlan:
    """What becomes of every node with a weight.

    Attributes:
        target: Name of the target.
        weights: By key, in the order of their first readers.
        nodes: By name, in graph order.
        skips: Nodes with a constant float weight, or an operator that was asked for, that stay as they are.
    """

    target: str
    weights: Mapping[str, DynamicWeight] = field(default_factory=dict)
    nodes: Mapping[str, DynamicNodePlan] = field(default_factory=dict)
    skips: tuple[Skip, ...] = ()
